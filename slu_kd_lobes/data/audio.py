"""Reading audio files the one way that the encoder needs them."""

import functools
import io
from pathlib import Path

import torchaudio
from speechbrain.dataio import audio_io

AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au")
LONGEST = 30.0  # seconds; a command takes a few
SILENCE = 1e-4  # loudest sample of what is called silent, of 1


@functools.cache
def _resampler(from_rate, to_rate):
    return torchaudio.transforms.Resample(from_rate, to_rate)


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
        If the file cannot be read or is empty.

    Example
    -------
    >>> import tempfile, torch
    >>> path = tempfile.mkdtemp() + "/stereo.wav"
    >>> audio_io.save(path, torch.zeros(2, 8000), 8000)
    >>> read_waveform(path, sample_rate=16000).shape
    torch.Size([16000])
    """
    try:
        readable = hasattr(path, "read")
        wav, rate = audio_io.load(path if readable else str(path))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as audio ({error}): replace the file or "
            "take its row out of the CSV"
        ) from error
    if wav.shape[-1] == 0:
        raise ValueError(
            f"{path} has no samples: replace the file or take its row out of "
            "the CSV"
        )
    wav = wav.mean(0)
    return wav if rate == sample_rate else _resampler(rate, sample_rate)(wav)


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


def check_audio(source, name):
    """Refuses what no command can be heard in.

    Arguments
    ---------
    source : str or io.BytesIO
        Path or content of an audio file.
    name : str
        What to call it.

    Raises
    ------
    ValueError
        If it is missing, damaged, empty, silent or too long.
    """
    if isinstance(source, str) and not Path(source).is_file():
        raise ValueError(f"{name}: there is no such file")
    try:
        info = audio_io.info(source)
        seconds = info.num_frames / info.sample_rate
        if seconds > LONGEST:
            raise ValueError(
                f"{name}: {seconds:.0f} s long, and a command takes at most "
                f"{LONGEST:.0f} s: cut it into single commands"
            )
        if isinstance(source, io.BytesIO):
            source.seek(0)
        wav, _ = audio_io.load(source)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{name}: not audio that can be read") from error
    if wav.numel() == 0:
        raise ValueError(f"{name}: has no samples")
    if not wav.isfinite().all():
        raise ValueError(f"{name}: has samples that are not numbers")
    if wav.abs().max() < SILENCE:
        raise ValueError(f"{name}: is silent")
    if isinstance(source, io.BytesIO):
        source.seek(0)
