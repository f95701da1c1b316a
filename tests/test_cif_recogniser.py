"""Recognisers by CIF, by CTC, and by what CTC compresses."""

import itertools
from functools import partial

import pytest
import torch

from slu_kd_lobes.students.beam_search import beam_search, ctc_scorer
from slu_kd_lobes.students.cif import CIF, Fired
from slu_kd_lobes.students.cif_recogniser import (
    BLANK,
    CIFRecogniser,
    CompressedRecogniser,
    CTCCompression,
    CTCRecogniser,
    best_path,
)
from slu_kd_lobes.students.conformer import PoolingConformer
from slu_kd_lobes.students.token_decoder import TokenDecoder

END, SYMBOLS, SIZE = 1, 7, 8


def model(kind=CIFRecogniser, seed=0):
    """A small recogniser in eval mode, and always the same one."""
    torch.manual_seed(seed)
    encoder = PoolingConformer(
        20, SIZE, 12, 2, num_layers=2, kernel_size=3, pool_after=[1], channels=2
    )
    if kind is CTCRecogniser:
        return kind(SYMBOLS, encoder).eval()
    decoder = partial(TokenDecoder, size=SIZE, ffn_size=12, num_heads=2)
    parts = {"cif": CIF(SIZE)} if kind is CIFRecogniser else {}
    return kind(SYMBOLS, encoder, decoder, END, **parts).eval()


def batch():
    """Features of three utterances, and what is said."""
    torch.manual_seed(3)
    features, lengths = torch.randn(3, 80, 20), torch.tensor([80, 41, 62])
    targets = torch.tensor(
        [[4, 2, 2, 5, END], [6, END, 0, 0, 0], [3, 4, END, 0, 0]]
    )
    return features, lengths, targets, torch.tensor([5, 2, 3])


def test_published_recogniser_has_47208587_parameters():
    found = CIFRecogniser(4234, PoolingConformer(), TokenDecoder, cif=CIF(256))
    assert sum(p.numel() for p in found.parameters()) == 47_208_587


@pytest.mark.parametrize("kind", [CIFRecogniser, CompressedRecogniser])
def test_an_item_is_the_same_alone_and_in_any_batch(kind):
    recogniser = model(kind)
    features, lengths, targets, sizes = batch()
    together = recogniser(features, lengths, targets, sizes)
    heard = recogniser(features, lengths)
    for i, (length, size) in enumerate(zip(lengths, sizes)):
        own = features[i : i + 1, :length], lengths[i : i + 1]
        alone = recogniser(*own, targets[i : i + 1, :size], sizes[i : i + 1])
        assert torch.allclose(
            together.scores[i, :size], alone.scores[0], atol=1e-5
        )
        alone = recogniser(*own)
        number = alone.fired.lengths[0]
        assert number == heard.fired.lengths[i]
        assert alone.fired.vectors.shape[1] == number
        assert torch.allclose(
            heard.fired.vectors[i, :number], alone.fired.vectors[0], atol=1e-5
        )


@pytest.mark.parametrize("kind", [CIFRecogniser, CompressedRecogniser])
def test_what_was_said_teaches_the_encoder_through_the_tokens(kind):
    recogniser = model(kind)
    found = recogniser(*batch())
    found.scores.square().sum().backward()
    assert recogniser.encoder.enter.weight.grad.any()
    assert recogniser.decoder.embedding.weight.grad.any()


def test_a_token_is_told_the_one_before_and_the_first_one_the_end():
    recogniser = model()
    features, lengths, targets, sizes = batch()
    first = recogniser(features, lengths, targets, sizes)
    other = targets.clone()
    other[0, 2] = 6
    second = recogniser(features, lengths, other, sizes)
    assert torch.allclose(first.scores[0, :3], second.scores[0, :3])
    assert not torch.allclose(first.scores[0, 3], second.scores[0, 3])
    vectors = first.fired.vectors[:, :1]
    end = torch.full((3, 1), END)
    assert torch.allclose(
        recogniser.decoder(vectors, end)[1], first.scores[:, :1], atol=1e-6
    )


def test_ctc_alone_has_no_decoder():
    found = model(CTCRecogniser)(*batch()[:2])
    assert found.fired is None and found.scores is None
    assert torch.allclose(found.ctc.exp().sum(2), torch.ones(1), atol=1e-5)


# Compression


def paths_that_write(symbols, frames, kinds):
    """All paths of CTC that write some symbols."""
    for path in itertools.product(range(kinds), repeat=frames):
        runs = [symbol for symbol, _ in itertools.groupby(path)]
        if [symbol for symbol in runs if symbol != BLANK] == symbols:
            yield path


@pytest.mark.parametrize("symbols", [[1], [1, 2], [2, 2], [1, 2, 1], [2, 2, 2]])
def test_best_path_is_the_best_of_all_that_write_it(symbols):
    torch.manual_seed(len(symbols))
    ctc = (3 * torch.randn(2, 6, 3)).log_softmax(2)
    targets = torch.zeros(2, 4, dtype=torch.long)  # longer than it is
    targets[:, : len(symbols)] = torch.tensor(symbols)
    lengths = torch.tensor([6, 5])
    found = best_path(ctc, lengths, targets, torch.tensor([len(symbols)] * 2))
    for i, length in enumerate(lengths.tolist()):
        wanted = max(
            paths_that_write(symbols, length, 3),
            key=lambda path: sum(ctc[i, t, s] for t, s in enumerate(path)),
        )
        assert tuple(found[i, :length].tolist()) == wanted


def test_compressed_tokens_are_means_of_the_frames_that_write_them():
    ctc = torch.randn(1, 6, 4).log_softmax(2)
    with torch.no_grad():
        path = torch.tensor([2, 2, BLANK, 2, 3, BLANK])
        ctc[0, torch.arange(6), path] = 5.0  # so that it is the best one
        ctc = ctc.log_softmax(2)
    firing = CTCCompression(4, 3)
    fired = firing(ctc, torch.tensor([6]))
    runs = ([0, 1], [3], [4])
    wanted = torch.stack([ctc[0, run].exp().mean(0) for run in runs])
    assert fired.lengths.tolist() == [3]
    assert torch.allclose(fired.vectors[0], firing.embedding(wanted), atol=1e-6)


def test_compression_in_training_has_as_many_tokens_as_were_said():
    ctc, targets = (
        torch.randn(2, 9, 4).log_softmax(2),
        torch.tensor([[2, 2], [3, 0]]),
    )
    sizes = torch.tensor([2, 1])
    fired = CTCCompression(4, 3)(ctc, torch.tensor([9, 5]), targets, sizes)
    assert fired.lengths.tolist() == [2, 1] and fired.vectors.shape[1] == 2
    assert not fired.vectors[1, 1].any()


def test_an_item_where_ctc_writes_nothing_has_no_token():
    ctc = torch.tensor([[[9.0, 0, 0]] * 4, [[0, 9.0, 0]] * 4]).log_softmax(2)
    fired = CTCCompression(3, 2)(ctc, torch.tensor([4, 4]))
    assert fired.lengths.tolist() == [0, 1]
    silent = CTCCompression(3, 2)(ctc[:1], torch.tensor([4]))
    assert silent.vectors.shape == (1, 0, 2)
    found = model()(*batch()[:2])._replace(fired=silent)
    assert beam_search(model(), found, 2)[0] == [[]]


# Search


def heard(recogniser, lengths):
    """Tokens' vectors, so many of each item."""
    torch.manual_seed(5)
    size = max(lengths)
    vectors = torch.randn(len(lengths), size, SIZE)
    for row, length in zip(vectors, lengths):
        row[length:] = 0
    found = recogniser(*batch()[:2])
    fired = Fired(vectors, torch.tensor(lengths), None)
    rows = len(lengths)
    return found._replace(
        fired=fired,
        frames=found.frames[:rows],
        lengths=found.lengths[:rows],
        ctc=found.ctc[:rows],
    )


def score_of(recogniser, vectors, symbols):
    """The sum of the logarithms of the probabilities of some symbols."""
    before = torch.tensor([[recogniser.end, *symbols[:-1]]])
    scores = recogniser.decoder(vectors.unsqueeze(0), before)[1]
    scores = scores[0].log_softmax(1)
    return sum(scores[i, symbol].item() for i, symbol in enumerate(symbols))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_beam_of_all_finds_the_best_of_all(length):
    recogniser = model(seed=length)
    found = heard(recogniser, [length])
    symbols, scores = beam_search(recogniser, found, SYMBOLS**length)
    best = max(
        itertools.product(range(SYMBOLS), repeat=length),
        key=lambda x: score_of(recogniser, found.fired.vectors[0], x),
    )
    wanted = list(best[: best.index(END)] if END in best else best)
    assert symbols == [wanted]
    value = score_of(recogniser, found.fired.vectors[0], best)
    assert scores.item() == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_each_item_takes_the_steps_it_has_tokens_for(beam_size):
    recogniser = model()
    recogniser.end = 0  # so that little is cut off
    lengths = [6, 2, 4]
    found = heard(recogniser, lengths)
    symbols, scores = beam_search(recogniser, found, beam_size)
    for i, length in enumerate(lengths):
        alone = found._replace(
            fired=Fired(
                found.fired.vectors[i : i + 1, :length],
                found.fired.lengths[i : i + 1],
                None,
            )
        )
        own, score = beam_search(recogniser, alone, beam_size)
        assert own[0] == symbols[i]
        assert score.item() == pytest.approx(scores[i].item(), abs=1e-4)


def test_a_beam_of_one_takes_the_best_symbol_at_each_step():
    recogniser = model()
    found = heard(recogniser, [5])
    vectors, before, written, previous, cache = (
        found.fired.vectors,
        torch.tensor([[END]]),
        [],
        None,
        None,
    )
    for i in range(5):
        now = vectors[:, i : i + 1]
        _, scores, cache = recogniser.decoder(now, before, previous, cache)
        before, previous = scores.argmax(2), now[:, 0]
        written.append(before.item())
    if END in written:
        written = written[: written.index(END)]
    assert beam_search(recogniser, found, 1)[0] == [written]


def test_a_wider_beam_is_never_less_probable_here():
    recogniser = model(seed=4)
    found = heard(recogniser, [4, 3])
    scores = [beam_search(recogniser, found, size)[1] for size in (1, 50)]
    assert (scores[1] >= scores[0] - 1e-5).all()


def test_a_scorer_of_speechbrain_says_what_ctc_thinks():
    recogniser = model()
    recogniser.end = 0
    found = heard(recogniser, [4, 3])
    scorer = ctc_scorer(recogniser, 0.5)
    plain, _ = beam_search(recogniser, found, 3)
    joint, scores = beam_search(recogniser, found, 3, scorer)
    assert [len(row) for row in joint] == [4, 3]
    # What it finds is what CTC can write; the decoder alone does not ask it.
    assert torch.isfinite(scores).all() and joint != plain


def test_a_beam_of_nothing_is_refused():
    recogniser = model()
    with pytest.raises(ValueError, match="beam_size 0 is not above 0"):
        beam_search(recogniser, heard(recogniser, [2]), 0)


def test_bfloat16_writes_nearly_the_same():
    recogniser = model()
    inputs = batch()
    exact = recogniser(*inputs).scores
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = recogniser(*inputs)
    assert found.fired.vectors.dtype == found.ctc.dtype == torch.float32
    assert torch.allclose(found.scores.float(), exact, atol=0.2)
