"""Reading audio the one way that the encoder needs it: files and arrays."""

import functools
import os
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from slu_kd_lobes.data.truncation import (
    is_cut_short,
    mp3_samples,
    states_length,
)

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au")
LONGEST = 30.0  # seconds; a command takes a few
SILENCE = 1e-4  # loudest sample of what is called silent, of 1
LOUDEST = 2.0  # what is beyond was not scaled to -1 and 1

#: What is decoded at most, so that a small file cannot fill the memory.
CHANNELS = 32
SAMPLES = 2**26  # of all channels together; 256 MB
RATES = (1_000, 1_000_000)  # Hz

REMEDY = "replace the file or take its row out of the CSV"
CUT_SHORT = "is cut short, as by a copy that did not finish"


class Header(NamedTuple):
    """What an audio file says of itself.

    Arguments
    ---------
    samples : int
        Of each channel.
    sample_rate : int
        In Hz.
    channels : int
    """

    samples: int
    sample_rate: int
    channels: int

    @property
    def duration(self):
        """In seconds."""
        return self.samples / self.sample_rate


def read_header(source):
    """What an audio file says of itself, if it can be used as a whole.

    Arguments
    ---------
    source : str, Path or file object

    Returns
    -------
    Header

    Raises
    ------
    ValueError
        What is wrong, as the end of a sentence that begins with the file: it
        is damaged, empty, cut short, too large, or holds NaN.

    Example
    -------
    >>> path = str(getfixture("tmp_path") / "stereo.wav")
    >>> soundfile.write(path, np.zeros((4000, 2)), 8000)
    >>> read_header(path), read_header(path).duration
    (Header(samples=4000, sample_rate=8000, channels=2), 0.5)
    """
    with _opened(source) as (file, header):
        if file.subtype in ("FLOAT", "DOUBLE"):
            _samples(file, header.samples)  # the others hold no NaN
        elif file.format in ("FLAC", "MP3"):
            # Half of one states the length of the whole.
            file.seek(header.samples - 1)
            _samples(file, 1)
        return header


def read_waveform(path, sample_rate):
    """Reads an audio file as one channel at the wanted rate.

    Arguments
    ---------
    path : str, Path or file object
        Any file that libsndfile reads (wav, flac, ogg, ...).
    sample_rate : int
        Sampling rate of the result, in Hz; other files are resampled.

    Returns
    -------
    torch.Tensor
        Waveform, [samples]; the mean of several channels.

    Raises
    ------
    ValueError
        If the file cannot be used; see `read_header`.

    Example
    -------
    >>> path = str(getfixture("tmp_path") / "stereo.wav")
    >>> soundfile.write(path, np.zeros((8000, 2)), 8000)
    >>> read_waveform(path, sample_rate=16000).shape
    torch.Size([16000])
    """
    try:
        return _decoded(path, sample_rate)
    except ValueError as fault:
        raise ValueError(f"{path} {fault}: {REMEDY}") from fault


def read_command(source, name, sample_rate):
    """Reads a recording in which a command can be heard.

    Arguments
    ---------
    source : str or file object
        Path or content of an audio file.
    name : str
        What to call it.
    sample_rate : int
        Of the result, in Hz.

    Returns
    -------
    torch.Tensor
        As of `read_waveform`.

    Raises
    ------
    ValueError
        If it is missing, silent, too long, or cannot be used.
    """
    if isinstance(source, str) and not Path(source).is_file():
        raise ValueError(f"{name}: there is no such file")
    try:
        wav = _decoded(source, sample_rate, LONGEST)
        if wav.abs().max() < SILENCE:
            raise ValueError("is silent")
        return wav
    except ValueError as fault:
        raise ValueError(f"{name} {fault}") from fault


def audio_files(arguments):
    """Every file that is meant; folders are searched.

    Arguments
    ---------
    arguments : list of str
        Files, folders, or ``-`` for standard input.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If a folder has no audio file.
    """
    files = []
    for argument in arguments:
        path = Path(argument)
        if argument == "-" or not path.is_dir():
            files.append(argument)
            continue
        found = sorted(
            str(file)
            for file in path.rglob("*")
            if file.suffix.lower() in AUDIO and file.is_file()
        )
        if not found:
            raise ValueError(
                f"{argument} has no audio files ({', '.join(AUDIO)})"
            )
        files += found
    return files


def _decoded(source, sample_rate, longest=None):
    """Waveform, [samples]; what is wrong is the end of a sentence."""
    with _opened(source) as (file, header):
        if longest is not None and header.duration > longest:
            raise ValueError(
                f"is {header.duration:.0f} s long, and a command takes at most "
                f"{longest:.0f} s: cut it into single commands"
            )
        wav = torch.from_numpy(_samples(file, header.samples)).mean(1)
    return resample(wav, header.sample_rate, sample_rate)


@contextmanager
def _opened(source):
    """Gives the open file and its `Header`, where they can be used."""
    readable = hasattr(source, "read")
    if readable:
        source.seek(0)
    try:
        with soundfile.SoundFile(
            source if readable else os.fsencode(source)
        ) as file:
            yield file, _checked_header(file, source)
    except (OSError, RuntimeError, TypeError) as error:
        # libsndfile's errors begin with what was asked of it.
        reason = str(error).rsplit(": ", 1)[-1].rstrip(".") or "damaged"
        raise ValueError(f"cannot be read as audio ({reason})") from error


def _checked_header(file, source):
    """The `Header` of an open file; nothing is decoded before it is known."""
    samples, rate, channels = file.frames, file.samplerate, file.channels
    if channels > CHANNELS:
        raise ValueError(f"has {channels} channels, and at most {CHANNELS} fit")
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(
            f"says that it has {rate:,} Hz, and audio has {RATES[0]:,} to "
            f"{RATES[1]:,} Hz"
        )
    unknown = file.format == "FLAC" and samples >= 2**36  # it cannot be
    if file.format == "MP3" and not states_length(source):
        # What is estimated here, of the first frame, is never exceeded.
        unknown = samples + 2**12 < mp3_samples(source)[0]
        samples = _counted(file, SAMPLES // channels)
    if unknown:
        raise ValueError("does not state its length (to convert it helps)")
    if samples * channels > SAMPLES:
        raise ValueError(
            f"has {samples:,} samples in each of {channels} channels, and at "
            f"most {SAMPLES:,} fit"
        )
    if is_cut_short(file, source):
        raise ValueError(CUT_SHORT)
    if samples == 0:
        raise ValueError("has no samples")
    return Header(samples, rate, channels)


def _samples(file, count):
    """The next samples of an open file, [samples, channels]."""
    wav = file.read(count, dtype="float32", always_2d=True)
    if len(wav) < count:
        raise ValueError(CUT_SHORT)
    if fault := _fault(np.abs(wav).max()):
        raise ValueError(fault)
    return wav


def _fault(peak):
    """What is wrong with samples, by the largest: NaN, if there is one."""
    if peak <= LOUDEST:
        return None
    if not np.isfinite(peak):
        return "has samples that are not numbers (NaN or infinite)"
    return (
        f"has samples of {peak:.5g}, and those of audio lie between -1 and 1 "
        "(numbers of 16 bits have to be divided by 32768)"
    )


def _counted(file, most):
    """How many samples there are, up to a little more than `most`."""
    count = 0
    while count <= most and (read := len(file.read(2**16, always_2d=True))):
        count += read
    file.seek(0)
    return count


def resample(wavs, from_rate, to_rate):
    """Changes the sampling rate.

    Arguments
    ---------
    wavs : torch.Tensor
        [..., samples].
    from_rate : int
        In Hz.
    to_rate : int
        In Hz. Up to 50 kHz rates are met exactly, above to 0.001 %.

    Returns
    -------
    torch.Tensor
        [..., ceil(samples * to_rate / from_rate)].

    Raises
    ------
    ValueError
        If there is no such rate.

    Example
    -------
    >>> resample(torch.zeros(2, 44099), 44099, 16000).shape
    torch.Size([2, 16000])
    """
    if from_rate == to_rate:
        return wavs
    if not RATES[0] <= from_rate <= RATES[1]:
        raise ValueError(
            f"there is no audio of {from_rate} Hz: give a sampling rate from "
            f"{RATES[0]:,} to {RATES[1]:,} Hz"
        )
    from scipy.signal import resample_poly  # takes a second, and few need it

    # The time for a sample is that of 20 products, whatever the ratio, and
    # the filter grows with the larger term.
    ratio = Fraction(to_rate, from_rate).limit_denominator(50_000)
    up, down = ratio.numerator, ratio.denominator
    window = _low_pass(max(up, down))
    found = resample_poly(wavs.cpu().numpy(), up, down, -1, window)
    return torch.from_numpy(found).to(wavs.device)


@functools.lru_cache(maxsize=8)
def _low_pass(longer):
    """The filter that scipy would design for every call."""
    from scipy.signal import firwin

    design = firwin(20 * longer + 1, 1 / longer, window=("kaiser", 5.0))
    return design.astype(np.float32)


def as_waveforms(audio):
    """Audio of any usual type and shape as the encoder needs it.

    Arguments
    ---------
    audio : torch.Tensor, numpy.ndarray or list
        [samples] or [batch, samples]: whole numbers of 8, 16 or 32 bits,
        which are scaled, or other numbers between -1 and 1.

    Returns
    -------
    torch.Tensor
        float32, [batch, samples], between -1 and 1.

    Raises
    ------
    ValueError
        If it is not audio; it names the item of the batch.

    Example
    -------
    >>> as_waveforms(np.array([0, 16384, -32768], "int16"))
    tensor([[ 0.0000,  0.5000, -1.0000]])
    >>> as_waveforms(torch.tensor([[128, 192, 0]], dtype=torch.uint8))
    tensor([[ 0.0000,  0.5000, -1.0000]])
    >>> as_waveforms([0.25, -3.0])
    Traceback (most recent call last):
    ...
    ValueError: item 0 of the batch has samples of 3, and those of audio lie \
between -1 and 1 (numbers of 16 bits have to be divided by 32768)
    """
    try:
        if not isinstance(audio, torch.Tensor):
            audio = np.asarray(audio)
            # torch takes no other order of bytes and no negative steps.
            native = audio.dtype.newbyteorder("=")
            audio = torch.from_numpy(np.require(audio, native, ["C", "W"]))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the audio is no array of numbers ({error}): give one tensor or "
            "array, [samples] or [batch, samples], shorter items padded"
        ) from error
    kind = str(audio.dtype).removeprefix("torch.")
    shape = list(audio.shape)
    if audio.dim() == 2 and shape[1] <= CHANNELS < shape[0]:
        raise ValueError(
            f"the audio has the shape {shape}, which looks like [samples, "
            "channels]: give [samples], the mean of the channels"
        )
    if audio.dim() not in (1, 2) or audio.numel() == 0:
        raise ValueError(
            f"the audio has the shape {shape}: give [samples] or "
            "[batch, samples], the mean of several channels"
        )
    if kind in ("uint8", "int8", "int16", "int32"):
        scale = 2.0 ** (torch.iinfo(audio.dtype).bits - 1)
        middle = scale if kind == "uint8" else 0.0
        audio = (audio.float() - middle) / scale
    elif not audio.is_floating_point():
        raise ValueError(
            f"the audio has numbers of type {kind}, whose loudest is not "
            "known: convert them to int16, or divide them to lie between -1 "
            "and 1"
        )
    audio = audio.float().reshape(-1, audio.shape[-1])
    peaks = audio.abs().amax(1).tolist()
    for item, fault in enumerate(map(_fault, peaks)):
        if fault:
            raise ValueError(f"item {item} of the batch {fault}")
    return audio
