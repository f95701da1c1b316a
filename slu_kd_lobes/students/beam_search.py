"""Beam search of as many steps as an item has tokens.

SpeechBrain's searchers take one number of steps for a batch, and end where a
mark of the end is written; here the vectors of the tokens say how many there
are.

Source: Dong and Xu 2020, "CIF: Continuous Integrate-and-Fire for End-to-End
Speech Recognition", section 3.3.
"""

import torch
from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder

from slu_kd_lobes.data.text_units import BLANK


@torch.no_grad()
def beam_search(recogniser, found, beam_size=10, scorer=None):
    """The most probable symbols of each item.

    Arguments
    ---------
    recogniser : torch.nn.Module
        With a `decoder` and the number of the `end`, in eval mode.
    found : Recognised
        Of `recogniser` without targets.
    beam_size : int
        1 takes the most probable symbol at each step.
    scorer : speechbrain.decoders.scorer.ScorerBuilder or None
        Adds scores of CTC, see `ctc_scorer`, or of language models.

    Returns
    -------
    symbols : list of list of int
        Before the mark of the end.
    scores : torch.Tensor
        The sum of the logarithms, that of the mark included, [batch].

    Raises
    ------
    ValueError
        If `beam_size` is below 1.
    """
    if beam_size < 1:
        raise ValueError(f"beam_size {beam_size} is not above 0")
    vectors, lengths, _ = found.fired
    batch, steps, _ = vectors.shape
    device, decoder = vectors.device, recogniser.decoder
    offsets = beam_size * torch.arange(batch, device=device).unsqueeze(1)
    vectors = vectors.repeat_interleave(beam_size, 0)
    sums = vectors.new_full((batch, beam_size), float("-inf"))
    sums[:, 0] = 0  # the others are no beginnings
    last = torch.full_like(offsets, recogniser.end).repeat(1, beam_size)
    written = last.new_zeros(batch, beam_size, 0)
    best = last.new_full((batch, steps), recogniser.end)
    scores, cache, vector_before = sums[:, 0].clone(), None, None
    if scorer is not None:
        memory = scorer.reset_scorer_mem(found.frames, found.lengths)
    for step in range(steps):
        vector = vectors[:, step : step + 1]
        _, found_now, cache = decoder(
            vector, last.view(-1, 1), vector_before, cache
        )
        more = found_now[:, 0].float().log_softmax(1)
        if scorer is not None:
            more, memory = scorer.score(
                last.view(-1), memory, None, more, beam_size
            )
        symbols = more.shape[1]
        sums = (sums.unsqueeze(2) + more.view(batch, beam_size, -1)).flatten(1)
        sums, chosen = sums.topk(beam_size)
        rows = (chosen // symbols + offsets).view(-1)
        last = chosen % symbols
        written = torch.cat(
            [written.flatten(0, 1)[rows].view(batch, beam_size, -1)]
            + [last.unsqueeze(2)],
            2,
        )
        if beam_size > 1:
            cache = [(key[rows], value[rows]) for key, value in cache]
        if scorer is not None:
            memory = scorer.permute_scorer_mem(memory, rows, chosen)
        vector_before = vector[:, 0]
        # An item that has its tokens goes on for nothing.
        done = lengths == step + 1
        scores = torch.where(done, sums[:, 0], scores)
        best[done, : step + 1] = written[done, 0]
    return [until(row, recogniser.end) for row in best.tolist()], scores


def until(symbols, end):
    """The symbols before the first mark of the end."""
    return symbols[: symbols.index(end)] if end in symbols else symbols


def ctc_scorer(recogniser, weight):
    """What CTC says of the symbols, as a scorer of the beam search.

    The mark of the end is a symbol like others here, for CTC writes it; so
    SpeechBrain's scorer is told of none.

    Arguments
    ---------
    recogniser : torch.nn.Module
        With `symbols`, a layer from frames to scores.
    weight : float
        Of the logarithms, beside 1 for those of the decoder.

    Returns
    -------
    speechbrain.decoders.scorer.ScorerBuilder
    """
    scorer = CTCScorer(recogniser.symbols, blank_index=BLANK, eos_index=BLANK)
    return ScorerBuilder({"ctc": weight}, partial_scorers=[scorer])
