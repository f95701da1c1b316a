"""Waveform augmentations that SpeechBrain does not have."""

import torch


class RandomChannel(torch.nn.Module):
    """Plays each utterance through a random, smooth frequency response.

    Microphones, codecs and speech synthesisers colour the same phone
    differently. The response is a straight line between random gains at
    equally spaced points of the mel scale.

    Arguments
    ---------
    points : int
        Number of random gains.
    max_gain : float
        Gains are uniform in [-max_gain, max_gain], in dB.
    sample_rate : int
        Sampling rate, in Hz.

    Example
    -------
    >>> wavs = torch.rand(2, 16000)
    >>> RandomChannel()(wavs).shape
    torch.Size([2, 16000])
    >>> torch.allclose(RandomChannel(max_gain=0.0)(wavs), wavs, atol=1e-5)
    True
    """

    def __init__(self, points=8, max_gain=12.0, sample_rate=16000):
        super().__init__()
        self.points = points
        self.max_gain = max_gain
        self.sample_rate = sample_rate

    def forward(self, wavs):
        """Returns the coloured waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples].

        Returns
        -------
        torch.Tensor
            [batch, samples].
        """
        samples = wavs.shape[1]
        # Zero padding, so that the end does not wrap around to the start.
        size = samples + self.sample_rate // 50
        hertz = torch.fft.rfftfreq(size, 1 / self.sample_rate)
        mel = torch.log10(1 + hertz / 700).to(wavs.device)
        place = mel / mel[-1] * (self.points - 1)
        left = place.long().clamp(max=self.points - 2)
        share = place - left
        gains = torch.rand(len(wavs), self.points, device=wavs.device)
        gains = (2 * gains - 1) * self.max_gain
        response = gains[:, left] * (1 - share) + gains[:, left + 1] * share
        spectrum = torch.fft.rfft(wavs, n=size) * 10 ** (response / 20)
        return torch.fft.irfft(spectrum, n=size)[:, :samples]
