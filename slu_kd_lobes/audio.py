"""Reading audio files the one way that the encoder needs them."""

import functools

import torchaudio
from speechbrain.dataio import audio_io


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
