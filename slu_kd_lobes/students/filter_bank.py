"""What a recogniser hears that is trained from nothing: a mel filter bank."""

import torch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.lobes.features import Fbank

from slu_kd_lobes.students.sincnet import absolute_lengths


class FilterBank(torch.nn.Module):
    """SpeechBrain's log mel filter bank, each channel of mean 0 and variance 1.

    An encoder with nothing to learn; see :mod:`slu_kd_lobes.students.encoders`.
    Mean and variance are those of the utterance, and padding is no part of it.

    Arguments
    ---------
    n_mels : int
        Filters.

    Example
    -------
    >>> features, lengths = FilterBank()(
    ...     torch.rand(2, 16000), torch.tensor([1.0, 0.5])
    ... )
    >>> features.shape, lengths
    (torch.Size([2, 101, 80]), tensor([101,  51]))
    """

    frozen = True
    untrained = False
    sample_rate = 16000
    layers = 1

    def __init__(self, n_mels=80):
        super().__init__()
        self.feature_size = n_mels
        self.fbank = Fbank(sample_rate=self.sample_rate, n_mels=n_mels)

    @torch.no_grad()
    def forward(self, wavs, wav_lens=None):
        """Returns the features.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples], 16 kHz.
        wav_lens : torch.Tensor or None
            Relative lengths, [batch].

        Returns
        -------
        features : torch.Tensor
            One every 10 ms, [batch, time, n_mels], zero after an item's end.
        lengths : torch.Tensor
            Of each item, [batch].
        """
        if wav_lens is None:
            wav_lens = torch.ones(len(wavs), device=wavs.device)
        x = self.fbank(wavs)
        lengths = absolute_lengths(wavs.shape[1], wav_lens) // 160 + 1
        mask = length_to_mask(lengths, x.shape[1]).unsqueeze(2).to(x)
        number = lengths[:, None, None]
        x = (x - (x * mask).sum(1, keepdim=True) / number) * mask
        spread = (x.square().sum(1, keepdim=True) / number).sqrt()
        return x / spread.clamp(min=1e-5), lengths

    def extra_repr(self):
        """What shapes the features, for there are no weights."""
        return f"n_mels={self.feature_size}"
