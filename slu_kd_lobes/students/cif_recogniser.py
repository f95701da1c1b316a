"""Recognisers: an encoder, then CTC alone, or one vector a token and a decoder.

Source: Han et al. 2023, "Knowledge Transfer from Pre-trained Language Models to
Cif-based Speech Recognizers via Hierarchical Distillation", and its published
code.
"""

from typing import NamedTuple

import torch

from slu_kd_lobes.data.text_units import BLANK, END
from slu_kd_lobes.losses.asr import ctc_collapse
from slu_kd_lobes.students.beam_search import beam_search, until
from slu_kd_lobes.students.cif import Fired, shifted
from slu_kd_lobes.students.sincnet import mask_padding


class Recognised(NamedTuple):
    """What a recogniser makes of features.

    Arguments
    ---------
    frames : torch.Tensor
        Of the encoder, [batch, frames, size].
    lengths : torch.Tensor
        Frames of each item, [batch].
    ctc : torch.Tensor
        Logarithms of the probabilities of symbols, [batch, frames, symbols].
    fired : Fired or None
        The vectors of the tokens; None without a decoder.
    states, scores : torch.Tensor or None
        Of the decoder, when it was told what was said: [batch, tokens, size]
        and [batch, tokens, symbols].
    """

    frames: torch.Tensor
    lengths: torch.Tensor
    ctc: torch.Tensor
    fired: Fired | None = None
    states: torch.Tensor | None = None
    scores: torch.Tensor | None = None


class WaveformEncoder(torch.nn.Module):
    """An encoder with what comes before it, that is handed waveforms.

    Arguments
    ---------
    front_end : torch.nn.Module
        A filter bank or a frozen encoder.
    encoder : torch.nn.Module
        Makes ``(frames, lengths)`` of ``(features, lengths)``.
    """

    def __init__(self, front_end, encoder):
        super().__init__()
        self.front_end, self.encoder = front_end, encoder

    def forward(self, wavs, wav_lens=None):
        """Returns the frames of the encoder, and how many each item has.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples], 16 kHz.
        wav_lens : torch.Tensor or None
            Relative lengths, [batch].
        """
        return self.encoder(*self.front_end(wavs, wav_lens))


class CTCRecogniser(torch.nn.Module):
    """An encoder whose frames write by CTC.

    Arguments
    ---------
    num_symbols : int
        With the blank, which is number 0.
    encoder : torch.nn.Module
        Makes ``(frames, lengths)`` of ``(features, lengths)``; it says its
        `output_size`.
    end : int
        Number of the symbol that ends an utterance, which CTC writes, too.
    """

    def __init__(self, num_symbols, encoder, end=END):
        super().__init__()
        self.encoder, self.end = encoder, end
        self.symbols = torch.nn.Linear(encoder.output_size, num_symbols)

    def forward(self, features, lengths, targets=None, sizes=None):
        """Returns what the features are recognised as.

        Arguments
        ---------
        features : torch.Tensor
            [batch, time, channels].
        lengths : torch.Tensor
            Of each item, [batch].
        targets : torch.Tensor or None
            Symbols that were said, with the end, [batch, tokens]. None: the
            tokens are counted, and no decoder runs.
        sizes : torch.Tensor or None
            Number of them, [batch].

        Returns
        -------
        Recognised
        """
        frames, lengths = self.encoder(features, lengths)
        return self.recognise(frames, lengths, targets, sizes)

    def recognise(self, frames, lengths, targets=None, sizes=None):
        """Returns what the encoder's frames are recognised as; see `forward`."""
        ctc = self.symbols(frames).float().log_softmax(2)
        return Recognised(frames, lengths, ctc)

    def transcribe(self, found, beam_size=1, scorer=None):
        """Writes what was heard.

        Arguments
        ---------
        found : Recognised
            Of this model without targets.
        beam_size : int
        scorer : ScorerBuilder or None
            Of the search, where there is one; see `beam_search`.

        Returns
        -------
        list of list of int
            Symbols of each item, before the mark of the end.
        """
        paths, lengths = found.ctc.argmax(2).tolist(), found.lengths.tolist()
        return [
            until(ctc_collapse(path[:length]), self.end)
            for path, length in zip(paths, lengths)
        ]


class TokenRecogniser(CTCRecogniser):
    """One vector a token, then a decoder; a subclass says how tokens are found.

    Arguments
    ---------
    num_symbols : int
    encoder : torch.nn.Module
        See `CTCRecogniser`.
    make_decoder : callable
        Makes a `TokenDecoder` for a number of symbols.
    end : int
        Number of the symbol that ends an utterance, and starts the decoder.
    """

    def __init__(self, num_symbols, encoder, make_decoder, end=END):
        super().__init__(num_symbols, encoder, end)
        self.decoder = make_decoder(num_symbols)

    def recognise(self, frames, lengths, targets=None, sizes=None):
        """Returns what frames are recognised as; see `CTCRecogniser`."""
        found = super().recognise(frames, lengths)
        fired = self.fire(found, targets, sizes)
        if targets is None:
            return found._replace(fired=fired)
        first = torch.full_like(targets[:, :1], self.end)
        before = torch.cat([first, targets[:, :-1]], 1)
        states, scores, _ = self.decoder(fired.vectors, before)
        return found._replace(fired=fired, states=states, scores=scores)

    def transcribe(self, found, beam_size=1, scorer=None):
        """Writes what was heard; see `CTCRecogniser`."""
        return beam_search(self, found, beam_size, scorer)[0]

    def fire(self, found, targets=None, sizes=None):
        """Finds the tokens, as many as were said, or as there are.

        Arguments
        ---------
        found : Recognised
        targets, sizes : torch.Tensor or None
            See `CTCRecogniser.forward`.

        Returns
        -------
        Fired
        """
        raise NotImplementedError


class CIFRecogniser(TokenRecogniser):
    """Tokens by continuous integrate-and-fire.

    Arguments
    ---------
    *args, **kwargs
        See `TokenRecogniser`.
    cif : CIF

    Example
    -------
    >>> from functools import partial
    >>> from slu_kd_lobes.students.cif import CIF
    >>> from slu_kd_lobes.students.conformer import PoolingConformer
    >>> from slu_kd_lobes.students.token_decoder import TokenDecoder
    >>> encoder = PoolingConformer(20, 16, 32, 2, num_layers=2, pool_after=[1])
    >>> decoder = partial(TokenDecoder, size=16, num_heads=2, num_layers=1)
    >>> model = CIFRecogniser(11, encoder, decoder, cif=CIF(16))
    >>> targets, sizes = torch.tensor([[5, 7, 1], [3, 1, 0]]), [3, 2]
    >>> lengths, sizes = torch.tensor([41, 23]), torch.tensor(sizes)
    >>> model(torch.rand(2, 41, 20), lengths, targets, sizes).scores.shape
    torch.Size([2, 3, 11])
    """

    def __init__(self, *args, cif, **kwargs):
        super().__init__(*args, **kwargs)
        self.cif = cif

    def fire(self, found, targets=None, sizes=None):
        """Finds the tokens; see `TokenRecogniser`."""
        size = None if targets is None else targets.shape[1]
        return self.cif(found.frames, found.lengths, sizes, size)


class CompressedRecogniser(TokenRecogniser):
    """Tokens where CTC writes one, as a rival of integrate-and-fire.

    Source: An et al. 2024, "Paraformer-v2: An improved non-autoregressive
    transformer for noise-robust speech recognition", section 3.

    Arguments
    ---------
    num_symbols, encoder, *args, **kwargs
        See `TokenRecogniser`.
    """

    def __init__(self, num_symbols, encoder, *args, **kwargs):
        super().__init__(num_symbols, encoder, *args, **kwargs)
        self.compression = CTCCompression(num_symbols, encoder.output_size)

    def fire(self, found, targets=None, sizes=None):
        """Finds the tokens; see `TokenRecogniser`."""
        return self.compression(found.ctc, found.lengths, targets, sizes)


def decode(frames, wav_lens, recogniser, beam_size=1):
    """A decoding function of SpeechBrain's `EncoderASR`.

    Arguments
    ---------
    frames : tuple
        Of the encoder, and how many each item has.
    wav_lens : torch.Tensor
        Not used: the frames are counted.
    recogniser : CTCRecogniser
        Or one of its subclasses.
    beam_size : int

    Returns
    -------
    list of list of int
        Symbols of each item.
    """
    return recogniser.transcribe(recogniser.recognise(*frames), beam_size)


class CTCCompression(torch.nn.Module):
    """The mean of CTC's probabilities over the frames of a token, as a vector.

    In training the frames of a token are those of the most probable path that
    writes what was said; in inference, those of the most probable path.

    Arguments
    ---------
    num_symbols : int
    size : int
        Channels of a vector.

    Example
    -------
    >>> ctc = torch.tensor([[[0, 9, 0], [0, 9, 0], [9, 0, 0], [0, 0, 9.0]]])
    >>> fired = CTCCompression(3, 4)(ctc.log_softmax(2), torch.tensor([4]))
    >>> fired.vectors.shape, fired.lengths
    (torch.Size([1, 2, 4]), tensor([2]))
    """

    def __init__(self, num_symbols, size):
        super().__init__()
        self.embedding = torch.nn.Linear(num_symbols, size, bias=False)

    def forward(self, ctc, lengths, targets=None, sizes=None):
        """Returns one vector a token.

        Arguments
        ---------
        ctc : torch.Tensor
            Logarithms of the probabilities of symbols, [batch, frames,
            symbols].
        lengths : torch.Tensor
            Frames of each item, [batch].
        targets, sizes : torch.Tensor or None
            See `CTCRecogniser.forward`.

        Returns
        -------
        Fired
            Without weights.
        """
        with torch.no_grad():
            if targets is None:
                path = ctc.argmax(2)
            else:
                path = best_path(ctc, lengths, targets, sizes)
            path = mask_padding(path.unsqueeze(2), lengths).squeeze(2)
            voiced = path != BLANK
            first = voiced & (path != shifted(path))
            number = first.cumsum(1)  # of the token, counted from 1
            size = number[:, -1].max() if targets is None else targets.shape[1]
            tokens = torch.arange(1, int(size) + 1, device=path.device)
            own = (number.unsqueeze(1) == tokens.unsqueeze(1)) & voiced[:, None]
            own = own / own.sum(2, keepdim=True).clamp(min=1)
        with torch.autocast(ctc.device.type, enabled=False):
            means = own.to(ctc.dtype) @ ctc.exp()
        return Fired(self.embedding(means), number[:, -1], None)


def best_path(ctc, lengths, targets, sizes):
    """The most probable path of CTC that writes given symbols (Viterbi).

    Arguments
    ---------
    ctc : torch.Tensor
        Logarithms of the probabilities of symbols, [batch, frames, symbols].
    lengths : torch.Tensor
        Frames of each item, [batch].
    targets : torch.Tensor
        [batch, tokens].
    sizes : torch.Tensor
        Number of them, [batch].

    Returns
    -------
    torch.Tensor
        A symbol, or the blank, at each frame, [batch, frames]. An item whose
        symbols do not fit into its frames has some path.

    Example
    -------
    >>> ctc = torch.full((1, 4, 3), 1 / 3).log()
    >>> best_path(ctc, torch.tensor([4]), torch.tensor([[2, 2]]), [2])
    tensor([[2, 0, 2, 2]])
    """
    batch, frames, _ = ctc.shape
    device = ctc.device
    rows = torch.arange(batch, device=device)
    lengths = torch.as_tensor(lengths, device=device)
    sizes = torch.as_tensor(sizes, device=device)
    # Blank, symbol, blank, symbol, ..., blank
    places = targets.new_full((batch, 2 * targets.shape[1] + 1), BLANK)
    places[:, 1::2] = targets
    skips = torch.zeros_like(places, dtype=torch.bool)
    skips[:, 3::2] = targets[:, 1:] != targets[:, :-1]
    never = torch.finfo(ctc.dtype).min / 4
    scores = ctc.new_full(places.shape, never)
    scores[:, :2] = ctc[:, 0].gather(1, places[:, :2])
    came = []
    for frame in range(1, frames):
        two_back = torch.nn.functional.pad(scores[:, :-2], (2, 0), value=never)
        ways = torch.stack(
            [
                scores,
                torch.nn.functional.pad(scores[:, :-1], (1, 0), value=never),
                two_back.masked_fill(~skips, never),
            ]
        )
        best, back = ways.max(0)
        inside = (frame < lengths).unsqueeze(1)
        best = best + ctc[:, frame].gather(1, places)
        scores = torch.where(inside, best, scores)
        came.append(torch.where(inside, back, 0))
    # An item ends in its last symbol, or in the blank behind it.
    last = torch.stack([2 * sizes - 1, 2 * sizes])
    place = last[scores[rows, last].argmax(0), rows]
    path = [places[rows, place]]
    for back in reversed(came):
        place = place - back[rows, place]
        path.append(places[rows, place])
    return torch.stack(path[::-1], 1)
