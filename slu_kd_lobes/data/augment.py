"""Waveform augmentations that SpeechBrain does not have, and their use once.

What a frozen encoder hears is stored, so its audio cannot change in every
epoch: distorted copies of it are stored, too.
"""

from functools import partial
from pathlib import Path

import soundfile
import torch
from scipy.fft import next_fast_len
from speechbrain.utils.callchains import lengths_arg_exists
from speechbrain.utils.distributed import run_on_main
from tqdm import tqdm

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.utils.files import whole
from slu_kd_lobes.utils.fingerprints import file_fingerprint, fingerprint


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
        size = next_fast_len(samples + self.sample_rate // 50, real=True)
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


class Surroundings(torch.nn.Module):
    """Silence before and after an utterance, in half of the cases each.

    Arguments
    ---------
    mean : float
        Seconds of it, where there is some.
    longest : float
        Seconds, at most.
    sample_rate : int
        Sampling rate, in Hz.

    Example
    -------
    >>> _ = torch.manual_seed(0)
    >>> Surroundings()(torch.ones(1, 16000)).shape[1] > 16000
    True
    """

    def __init__(self, mean=0.5, longest=3.0, sample_rate=16000):
        super().__init__()
        self.mean, self.longest = mean, longest
        self.sample_rate = sample_rate

    def forward(self, wavs):
        """Returns longer waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples].

        Returns
        -------
        torch.Tensor
            [batch, more samples].
        """
        seconds = torch.empty(2).exponential_(1 / self.mean)
        seconds = seconds.clamp(max=self.longest) * torch.randint(2, (2,))
        padding = (seconds * self.sample_rate).long().tolist()
        return torch.nn.functional.pad(wavs, padding)


class RandomLevel(torch.nn.Module):
    """Makes utterances louder or softer.

    Arguments
    ---------
    low, high : float
        The change is uniform between these, in dB.

    Example
    -------
    >>> RandomLevel(-6.0206, -6.0206)(torch.ones(1, 1)).round(decimals=4)
    tensor([[0.5000]])
    """

    def __init__(self, low=-15.0, high=5.0):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, wavs):
        """Returns waveforms of another level, [batch, samples]."""
        gain = torch.empty(len(wavs), 1).uniform_(self.low, self.high)
        return wavs * 10 ** (gain / 20)


class DistortedCopies:
    """Copies of recordings, each distorted at random, in a folder.

    They are made once; the same recordings get the same copies.

    Arguments
    ---------
    folder : str or Path
    number : int
        Of copies of each recording.
    steps : list of torch.nn.Module
        What is done with the waveform, [1, samples], one after the other.
    seed : int
    sample_rate : int
        Sampling rate, in Hz.
    """

    def __init__(self, folder, number, steps, seed=0, sample_rate=16000):
        self.folder, self.number, self.steps = Path(folder), number, steps
        self.seed, self.sample_rate = seed, sample_rate
        shape = [repr(step) + str(_settings(step)) for step in steps]
        self.made_from = [shape, seed, sample_rate]

    def __call__(self, rows):
        """Returns the rows, and those of their copies behind them.

        Arguments
        ---------
        rows : list of dict
            With ``wav``, a path, and ``duration`` in seconds.

        Returns
        -------
        list of dict
        """
        if not self.number:
            return rows
        heard = [file_fingerprint(row["wav"]) for row in rows]
        tasks = [
            (row, self.folder / f"{self._name(audio, copy)}.flac")
            for copy in range(self.number)
            for row, audio in zip(rows, heard)
        ]
        run_on_main(self._make, [tasks])
        return rows + [
            {
                **row,
                "wav": str(path),
                "duration": soundfile.info(path).duration,
            }
            for row, path in tasks
        ]

    def _name(self, audio, copy):
        return fingerprint([audio, copy, self.made_from])[:32]

    def _make(self, tasks):
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [(row, path) for row, path in tasks if not path.is_file()]
        for row, path in tqdm(missing, "distorted copies", unit="copy"):
            wav = read_waveform(row["wav"], self.sample_rate).unsqueeze(0)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(path.stem[:12], 16))
                for step in self.steps:
                    known = lengths_arg_exists(step.forward)
                    wav = step(wav, torch.ones(1)) if known else step(wav)
            with whole(path) as part:
                soundfile.write(
                    part,
                    wav[0].clamp(-1, 1).numpy(),
                    self.sample_rate,
                    format="FLAC",
                )


def _settings(module):
    """Numbers, texts and lists of these that shape a module."""
    found = {}
    for key, value in sorted(vars(module).items()):
        if isinstance(value, partial):
            value = [value.func.__qualname__, value.args, value.keywords]
        simple = isinstance(value, (int, float, str, list, tuple))
        if simple and not key.startswith("_"):
            found[key] = value
    return found
