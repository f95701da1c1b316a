"""The SincNet encoder of the speech-to-text adaptation student.

A SincNet front end, a phoneme module and a word module turn a waveform into
one 256-dimensional vector per 160 ms. Every stage knows the length of each
utterance, so the output for an utterance does not depend on the batch that
it happens to be in.

Sources
-------
L. Lugosch et al., "Speech Model Pre-training for End-to-End Spoken Language
Understanding", Interspeech 2019 (the backbone of Cho et al. 2020, section 3.3);
M. Ravanelli and Y. Bengio, "Speaker Recognition from Raw Waveform with
SincNet", SLT 2018.
"""

import math

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.nnet.CNN import Conv1d, SincConv

from slu_kd_lobes.students.dropout import Dropout
from slu_kd_lobes.students.gru import MaskedBiGRU
from slu_kd_lobes.utils.hub import load_pretrained

SAMPLE_RATE = 16000  # Hz; the encoder's only rate


def absolute_lengths(size, relative_lengths):
    """Number of valid steps of each item, from SpeechBrain's relative lengths.

    Arguments
    ---------
    size : int
        Length of the padded axis.
    relative_lengths : torch.Tensor or None
        Fraction of that axis that is valid, [batch]; None means all of it.

    Returns
    -------
    torch.Tensor or None
        Whole numbers, [batch]. They are rounded: truncation would turn 7 of
        10 steps into 6 for an unlucky float.

    Example
    -------
    >>> absolute_lengths(10, torch.tensor([0.7, 1.0]))
    tensor([ 7, 10])
    """
    if relative_lengths is None:
        return None
    return torch.round(relative_lengths * size).long()


def mask_padding(x, lengths):
    """Sets everything after the end of each item to zero.

    Arguments
    ---------
    x : torch.Tensor
        Features, [batch, time, channels].
    lengths : torch.Tensor or None
        Valid steps of each item, [batch]; None leaves x as it is.

    Returns
    -------
    torch.Tensor
        Features, [batch, time, channels].

    Example
    -------
    >>> mask_padding(torch.ones(2, 3, 1), torch.tensor([1, 3])).squeeze(-1)
    tensor([[1., 0., 0.],
            [1., 1., 1.]])
    """
    if lengths is None:
        return x
    mask = length_to_mask(lengths, x.shape[1], dtype=x.dtype, device=x.device)
    return x * mask.unsqueeze(-1)


def halve(lengths):
    """Lengths after a pooling of 2 that keeps an odd last step.

    Arguments
    ---------
    lengths : torch.Tensor or None
        Steps before the pooling, [batch].

    Returns
    -------
    torch.Tensor or None
        Steps after it, [batch].

    Example
    -------
    >>> halve(torch.tensor([4, 5]))
    tensor([2, 3])
    """
    return None if lengths is None else (lengths + 1) // 2


class SincFilters(SincConv):
    """SpeechBrain's SincConv with the filter bank of the SLU backbone.

    Cut-off frequencies are learnt in cycles per sample (not Hz), so that one
    step of Adam at 1e-3 moves them by 16 Hz; the bands start on the mel scale,
    each reaching over its neighbours. The signal is padded with zeros, which
    makes the padding of a batch and the edge of a lone utterance the same.

    Arguments
    ---------
    out_channels : int
        Number of filters.
    kernel_size : int
        Number of taps of a filter; odd.
    stride : int
        Step between two outputs, in samples.
    sample_rate : int
        Sampling rate, in Hz.
    min_low_hz : float
        Lowest cut-off of a filter, in Hz.
    min_band_hz : float
        Smallest width of a filter, in Hz.

    Example
    -------
    >>> filters = SincFilters(80, 401, stride=80)
    >>> filters(torch.rand(2, 16000)).shape
    torch.Size([2, 200, 80])
    """

    def __init__(
        self,
        out_channels,
        kernel_size,
        stride=1,
        sample_rate=SAMPLE_RATE,
        min_low_hz=50.0,
        min_band_hz=50.0,
    ):
        self.rate_hz = sample_rate
        super().__init__(
            out_channels,
            kernel_size,
            in_channels=1,
            stride=stride,
            padding="valid",  # forward() pads, with zeros
            sample_rate=1,
            min_low_hz=min_low_hz / sample_rate,
            min_band_hz=min_band_hz / sample_rate,
        )
        # SpeechBrain clamps the upper cut-off at this over 2; the published
        # bank does not (one filter starts at 8,100 Hz).
        self.sample_rate = math.inf
        half = kernel_size // 2
        # The left half of a Hamming window whose centre tap is exactly 1.
        steps = torch.arange(half, dtype=torch.float64) * kernel_size
        steps = steps / (kernel_size - 1)
        window = 0.54 - 0.46 * torch.cos(2 * math.pi * steps / kernel_size)
        self.window_ = window.float()

    def forward(self, wavs):
        """Filters a batch of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples].

        Returns
        -------
        torch.Tensor
            [batch, ceil(samples / stride), out_channels].
        """
        half = self.kernel_size // 2
        return super().forward(F.pad(wavs, (half, half)))

    def _init_sinc_conv(self):
        super()._init_sinc_conv()  # the time axis
        # 80 here is a mel value (52 Hz), as in the published filter bank.
        mel = torch.linspace(
            80.0,
            self._to_mel(self.rate_hz / 2),
            self.out_channels,
            dtype=torch.float64,
        )
        centre = self._to_hz(mel)
        low = torch.cat([centre.new_tensor([30.0]), centre[:-1]])
        high = torch.cat(
            [centre[1:], centre.new_tensor([self.rate_hz / 2 - 100])]
        )
        self.low_hz_.data = (low / self.rate_hz).float().unsqueeze(1)
        self.band_hz_.data = ((high - low) / self.rate_hz).float().unsqueeze(1)


class RecurrentStage(torch.nn.Module):
    """BiGRU, dropout and average pooling of 2: a layer of the encoder.

    Arguments
    ---------
    input_size : int
        Channels of the input.
    hidden_size : int
        Units of each direction.
    dropout : float
        Dropout probability.

    Example
    -------
    >>> stage = RecurrentStage(60, 128, 0.5)
    >>> x, lengths = stage(torch.rand(2, 7, 60), torch.tensor([7, 4]))
    >>> x.shape, lengths
    (torch.Size([2, 4, 256]), tensor([4, 2]))
    """

    def __init__(self, input_size, hidden_size, dropout):
        super().__init__()
        self.rnn = MaskedBiGRU(input_size, hidden_size)
        self.dropout = Dropout(dropout)

    def forward(self, x, lengths=None):
        """Returns the halved sequence and its lengths.

        Arguments
        ---------
        x : torch.Tensor
            Input, [batch, time, input_size].
        lengths : torch.Tensor or None
            Valid steps of each item, [batch].

        Returns
        -------
        x : torch.Tensor
            [batch, ceil(time / 2), 2 * hidden_size].
        lengths : torch.Tensor or None
            [batch].
        """
        x = self.dropout(self.rnn(x, lengths))
        if lengths is None:  # an odd last step is divided by 1 here too
            x = F.avg_pool1d(x.transpose(1, 2), 2, ceil_mode=True)
            return x.transpose(1, 2), None
        odd = x.shape[1] % 2
        pairs = F.pad(x, (0, 0, 0, odd)).unflatten(1, (-1, 2)).sum(2)
        # An odd last step is a pair of one: divide by what there is.
        starts = 2 * torch.arange(pairs.shape[1], device=x.device)
        count = (lengths.to(x.device).unsqueeze(1) - starts).clamp(1, 2)
        return pairs / count.unsqueeze(-1), halve(lengths)


class SincNetFrontEnd(torch.nn.Module):
    """Waveform to 60 channels every 10 ms.

    Example
    -------
    >>> x, lengths = SincNetFrontEnd()(torch.rand(2, 16000))
    >>> x.shape
    torch.Size([2, 100, 60])
    """

    def __init__(self):
        super().__init__()
        self.sinc = SincFilters(80, 401, stride=80)
        same = dict(kernel_size=5, padding="same", padding_mode="constant")
        self.conv1 = Conv1d(60, in_channels=80, **same)
        self.conv2 = Conv1d(60, in_channels=60, **same)
        self.activation = torch.nn.LeakyReLU(0.2)

    def forward(self, wavs, lengths=None):
        """Returns the frames and their number.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples].
        lengths : torch.Tensor or None
            Samples of each item, [batch].

        Returns
        -------
        x : torch.Tensor
            [batch, frames, 60].
        lengths : torch.Tensor or None
            Frames of each item, [batch].
        """
        stride = self.sinc.stride
        # The last filters of an item reach into its padding, and augmentation
        # leaves noise there.
        wavs = mask_padding(wavs.unsqueeze(-1), lengths).squeeze(-1)
        if lengths is not None:
            lengths = torch.div(lengths + stride - 1, stride).long()
        # After the absolute value a masked frame never wins the max pooling.
        x = mask_padding(self.sinc(wavs).abs(), lengths)
        x = F.max_pool1d(x.transpose(1, 2), 2, ceil_mode=True).transpose(1, 2)
        lengths = halve(lengths)
        x = self.activation(x)
        for conv in (self.conv1, self.conv2):
            x = mask_padding(self.activation(conv(x)), lengths)
        return x, lengths


class SincNetEncoder(torch.nn.Module):
    """SincNet front end, phoneme module and word module.

    57,585 samples become 360 frames of 10 ms, 90 phoneme frames of 40 ms and
    23 word frames of 160 ms. 1,077,544 parameters.

    Arguments
    ---------
    hidden_size : int
        Units of each direction of the recurrent layers.
    dropout : float
        Dropout probability after each recurrent layer.
    source : str or None
        Folder or hub name with ``encoder.ckpt``; None starts from random
        weights.
    level : str
        ``word`` or ``phoneme``: which frames are the features.

    Raises
    ------
    ValueError
        If the source has no weights that fit, or there is no such level.

    Example
    -------
    >>> encoder = SincNetEncoder()
    >>> features, lengths = encoder(torch.rand(2, 57585))
    >>> features.shape, lengths
    (torch.Size([2, 23, 256]), tensor([23, 23]))
    >>> _, lengths = encoder(torch.rand(2, 57585), torch.tensor([1.0, 0.5]))
    >>> lengths
    tensor([23, 12])
    """

    frozen = False
    sample_rate = SAMPLE_RATE
    layers = 1

    def __init__(self, hidden_size=128, dropout=0.5, source=None, level="word"):
        super().__init__()
        if level not in ("word", "phoneme"):
            raise ValueError(
                f"the level '{level}' of the encoder cannot be had: choose "
                "word or phoneme"
            )
        self.level = level
        width = 2 * hidden_size
        self.feature_size = width
        self.front_end = SincNetFrontEnd()
        self.phoneme_layers = torch.nn.ModuleList(
            RecurrentStage(size, hidden_size, dropout) for size in (60, width)
        )
        self.word_layers = torch.nn.ModuleList(
            RecurrentStage(width, hidden_size, dropout) for _ in range(2)
        )
        self.untrained = source is None
        if source is not None:
            load_pretrained({"encoder": self}, source)

    def forward(self, wavs, wav_lens=None):
        """Returns the features of the level that is wanted.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples], 16 kHz.
        wav_lens : torch.Tensor or None
            Relative lengths, [batch], as SpeechBrain's PaddedBatch has them.

        Returns
        -------
        features : torch.Tensor
            [batch, frames of 160 ms, 256], zero after the end of each item;
            of 40 ms for phonemes.
        lengths : torch.Tensor
            Frames of each item, [batch].
        """
        phonemes, lengths = self.encode_phonemes(wavs, wav_lens)
        if self.level == "phoneme":
            return phonemes, lengths
        return self.encode_words(phonemes, lengths)

    def extra_repr(self):
        """What shapes the features beside the weights."""
        return "" if self.level == "word" else f"level={self.level}"

    def encode_phonemes(self, wavs, wav_lens=None):
        """Returns the phoneme-level features, one vector per 40 ms.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples], 16 kHz.
        wav_lens : torch.Tensor or None
            Relative lengths, [batch].

        Returns
        -------
        features : torch.Tensor
            [batch, frames of 40 ms, 256].
        lengths : torch.Tensor
            Frames of each item, [batch].
        """
        if wav_lens is None:
            wav_lens = torch.ones(len(wavs), device=wavs.device)
        lengths = absolute_lengths(wavs.shape[1], wav_lens)
        x, lengths = self.front_end(wavs, lengths)
        for layer in self.phoneme_layers:
            x, lengths = layer(x, lengths)
        return x, lengths

    def encode_words(self, phonemes, lengths):
        """Returns the word-level features of phoneme-level ones.

        Arguments
        ---------
        phonemes : torch.Tensor
            [batch, frames of 40 ms, 256].
        lengths : torch.Tensor
            Frames of each item, [batch].

        Returns
        -------
        features : torch.Tensor
            [batch, frames of 160 ms, 256].
        lengths : torch.Tensor
            Frames of each item, [batch].
        """
        x = phonemes
        for layer in self.word_layers:
            x, lengths = layer(x, lengths)
        return x, lengths
