"""Phones and words in time: label tracks and the targets of encoder frames.

An alignment is a list of ``[label, start, end]`` in seconds; a manifest keeps
it as text. A label track is its sampled form, one class every 10 ms, which can
be cropped with the waveform.

Source: Lugosch et al. 2019, section 4.1 (frame-level pre-training targets).
"""

import json
import re
from collections import Counter

import torch

#: Step of a label track, in seconds.
TRACK_STEP = 0.01

#: The 42 phone classes: 39 ARPAbet phones without stress, silence, short
#: pause and spoken noise.
PHONES = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P "
    "R S SH T TH UH UW V W Y Z ZH sil sp spn".split()
)

#: The word class of silence.
SILENCE = ""

#: How aligners write a word that is none.
SILENT_WORDS = ("", "<sil>", "<s>", "</s>", "<eps>")


def phone_name(label):
    """The name of a phone in `PHONES`, however the aligner writes it.

    Arguments
    ---------
    label : str
        A phone, perhaps with its stress (``AH0``); no label is silence.

    Returns
    -------
    str
        Upper case, or ``sil``, ``sp`` or ``spn``.

    Example
    -------
    >>> [phone_name(label) for label in ["AH0", "SIL", "", "sp", "spn"]]
    ['AH', 'sil', 'sil', 'sp', 'spn']
    """
    phone = label.strip().rstrip("0123456789")
    if phone.lower() in ("", "sil", "sp", "spn"):
        return phone.lower() or "sil"
    return phone.upper()


def word_name(label):
    """A word as the vocabulary has it, however the aligner writes it.

    Arguments
    ---------
    label : str
        A word, perhaps with the number of its pronunciation (``on(2)``).

    Returns
    -------
    str
        Lower case; `SILENCE` where no word is. ``<unk>`` stays, and as no
        vocabulary has it, nothing is learnt from it.

    Example
    -------
    >>> [word_name(label) for label in ["on(2)", "<sil>", "", "<unk>", "IT'S"]]
    ['on', '', '', '<unk>', "it's"]
    """
    word = " ".join(label.lower().split())
    return SILENCE if word in SILENT_WORDS else re.sub(r"\(\d+\)$", "", word)


def pack_alignment(intervals):
    """Writes an alignment as text: a tenth of the memory of its list.

    Arguments
    ---------
    intervals : list
        ``[label, start, end]`` in seconds. Labels hold no tab or line break.

    Returns
    -------
    str
        A line an interval, its three parts separated by tabs.

    Example
    -------
    >>> pack_alignment([["HH", 0.5, 0.6], ["AY", 0.6, 0.72]])
    'HH\\t0.5\\t0.6\\nAY\\t0.6\\t0.72'
    """
    return "\n".join(
        f"{label}\t{round(start, 4)}\t{round(end, 4)}"
        for label, start, end in intervals
    )


def unpack_alignment(text):
    """Reads what `pack_alignment` wrote.

    Arguments
    ---------
    text : str
        A line an interval.

    Returns
    -------
    list
        ``[label, start, end]`` in seconds.

    Example
    -------
    >>> unpack_alignment("HH\\t0.5\\t0.6\\nAY\\t0.6\\t0.72")
    [['HH', 0.5, 0.6], ['AY', 0.6, 0.72]]
    """
    rows = (line.split("\t") for line in text.split("\n") if line)
    return [[label, float(start), float(end)] for label, start, end in rows]


def label_track(intervals, labels, duration):
    """Samples an alignment every 10 ms.

    Arguments
    ---------
    intervals : list
        ``[label, start, end]`` in seconds, in order.
    labels : dict
        Class of each label. A label that is not in it is unknown.
    duration : float
        Length of the track, in seconds.

    Returns
    -------
    torch.Tensor
        Class + 1 of each step, int64, [steps]; 0 where nothing is known, so
        that zero padding is ignored as well.

    Example
    -------
    >>> label_track(
    ...     [["a", 0.0, 0.02], ["b", 0.03, 0.05]], {"a": 0, "b": 1}, 0.06
    ... )
    tensor([1, 1, 0, 2, 2, 0])
    """
    track = torch.zeros(round(duration / TRACK_STEP), dtype=torch.long)
    for label, start, end in intervals:
        first, last = round(start / TRACK_STEP), round(end / TRACK_STEP)
        track[first:last] = labels.get(label, -1) + 1
    return track


def frame_targets(tracks, frames, frame_step, speed=1.0):
    """Classes at the first instant of every encoder frame.

    Arguments
    ---------
    tracks : torch.Tensor
        Label tracks, [batch, steps].
    frames : int
        Number of encoder frames.
    frame_step : float
        Length of a frame, in seconds.
    speed : float
        How much faster the waveform plays than its label track.

    Returns
    -------
    torch.Tensor
        Class of each frame, [batch, frames]; -1 where unknown or past the end.

    Example
    -------
    >>> tracks = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2]])
    >>> frame_targets(tracks, frames=3, frame_step=0.04)
    tensor([[ 0,  1, -1]])
    >>> frame_targets(tracks, frames=2, frame_step=0.04, speed=0.5)
    tensor([[0, 0]])
    """
    times = torch.arange(frames, dtype=torch.float64) * frame_step * speed
    # A hair is added: 3 * 0.04 / 0.01 is 11.999... in floating point.
    index = (times / TRACK_STEP + 1e-4).long().to(tracks.device)
    inside = index < tracks.shape[1]
    targets = tracks[:, index.clamp(max=tracks.shape[1] - 1)] - 1
    return torch.where(inside, targets, -1)


def frequent_words(manifest, num_words):
    """The most frequent words of a manifest, silence first.

    Arguments
    ---------
    manifest : str or Path
        JSON manifest with transcriptions.
    num_words : int
        Size of the vocabulary, silence included.

    Returns
    -------
    list
        Words; equally frequent ones in alphabetical order.

    Example
    -------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "m.json"
    >>> _ = path.write_text('{"a": {"transcription": "the cat the dog"}}')
    >>> frequent_words(path, 3)
    ['', 'the', 'cat']
    """
    with open(manifest, encoding="utf-8") as f:
        rows = json.load(f).values()
    count = Counter(w for row in rows for w in row["transcription"].split())
    ranked = sorted(count, key=lambda w: (-count[w], w))
    return [SILENCE, *ranked[: num_words - 1]]


class RandomExcerpt(torch.nn.Module):
    """Cuts a random excerpt out of every utterance of a batch.

    One length is drawn for the batch, max(N(mean, spread), shortest), so that
    excerpts need no padding; each utterance has a start of its own. An
    utterance shorter than that stays whole.

    Arguments
    ---------
    mean : float
        Mean length, in seconds.
    spread : float
        Standard deviation of the length, in seconds.
    shortest : float
        Least length, in seconds.
    sample_rate : int
        Sampling rate, in Hz.

    Example
    -------
    >>> excerpt = RandomExcerpt(mean=0.5, spread=0.0)
    >>> wavs, tracks = torch.rand(2, 16000), torch.arange(200).view(2, 100)
    >>> wavs, lens, cut = excerpt(wavs, torch.ones(2), {"phoneme": tracks})
    >>> wavs.shape, lens, cut["phoneme"].shape
    (torch.Size([2, 8000]), tensor([1., 1.]), torch.Size([2, 50]))
    """

    def __init__(self, mean=2.25, spread=1.0, shortest=0.5, sample_rate=16000):
        super().__init__()
        self.mean = mean
        self.spread = spread
        self.shortest = shortest
        self.samples = round(TRACK_STEP * sample_rate)

    def forward(self, wavs, wav_lens, tracks):
        """Returns the excerpts and the same part of their label tracks.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, [batch, samples].
        wav_lens : torch.Tensor
            Relative lengths, [batch].
        tracks : dict
            Label tracks, [batch, steps of 10 ms].

        Returns
        -------
        wavs : torch.Tensor
            [batch, excerpt samples].
        wav_lens : torch.Tensor
            [batch].
        tracks : dict
            [batch, excerpt steps].
        """
        seconds = self.mean + self.spread * torch.randn(1).item()
        steps = round(max(seconds, self.shortest) / TRACK_STEP)
        steps = min(steps, wavs.shape[1] // self.samples)
        valid = (wav_lens * wavs.shape[1] / self.samples).round().long()
        room = (valid - steps).clamp(min=0)
        start = (torch.rand_like(wav_lens) * (room + 1)).long()
        wav_lens = (valid - start).clamp(max=steps) / steps

        def cut(x, scale):
            """The excerpts, with `scale` values a step."""
            index = torch.arange(steps * scale, device=x.device)
            index = index + (start * scale).unsqueeze(1)
            inside = index < x.shape[1]
            picked = x.gather(1, index.clamp(max=x.shape[1] - 1))
            return torch.where(inside, picked, torch.zeros_like(picked))

        tracks = {level: cut(track, 1) for level, track in tracks.items()}
        return cut(wavs, self.samples), wav_lens, tracks
