"""Any audio file as one channel at the encoder's rate."""

import math

import pytest
import soundfile
import torch
from speechbrain.dataio import audio_io

from slu_kd_lobes.data.audio import read_waveform


def tone(rate, hertz=440.0, seconds=0.5):
    """A tone of amplitude 0.5."""
    steps = torch.arange(round(rate * seconds)) / rate
    return 0.5 * torch.sin(2 * math.pi * hertz * steps)


def write(path, *channels, rate=16000):
    """Writes channels in the format that the path's ending names."""
    audio_io.save(str(path), torch.stack(channels), rate)
    return path


def test_one_channel_at_the_right_rate_is_taken_as_it_is(tmp_path):
    """To the precision of 16 bits."""
    path = write(tmp_path / "a.wav", tone(16000))
    wav = read_waveform(path, 16000)
    assert wav.shape == (8000,) and wav.dtype == torch.float32
    torch.testing.assert_close(wav, tone(16000), rtol=0, atol=2**-15)


def test_stereo_becomes_its_mean(tmp_path):
    """Left and right, not one of them and not their sum."""
    left, right = tone(16000), tone(16000, hertz=1000)
    path = write(tmp_path / "a.wav", left, right)
    wav = read_waveform(str(path), 16000)
    expected = (left + right) / 2
    torch.testing.assert_close(wav, expected, rtol=0, atol=2**-14)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled(tmp_path, rate):
    """The same tone lasts as long and sounds as high."""
    path = write(tmp_path / "a.wav", tone(rate), rate=rate)
    wav = read_waveform(path, 16000)
    assert wav.shape == (8000,)
    # The filter of the resampling needs some samples at the edges.
    middle = slice(400, -400)
    torch.testing.assert_close(
        wav[middle], tone(16000)[middle], rtol=0, atol=0.01
    )


def test_the_wanted_rate_is_that_of_the_caller(tmp_path):
    """Not always 16 kHz."""
    path = write(tmp_path / "a.wav", tone(16000))
    wav = read_waveform(path, 8000)
    torch.testing.assert_close(
        wav[200:-200], tone(8000)[200:-200], rtol=0, atol=0.01
    )


@pytest.mark.parametrize("ending, atol", [("flac", 2**-14), ("ogg", 0.05)])
def test_compressed_formats_are_read(tmp_path, ending, atol):
    """FLAC is exact, Ogg is not."""
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, tone(16000).numpy(), 16000)
    wav = read_waveform(path, 16000)
    assert wav.shape == (8000,)
    torch.testing.assert_close(wav, tone(16000), rtol=0, atol=atol)


def test_opus_is_read(tmp_path):
    """The format of the bundled corpus."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, tone(16000).numpy(), 16000, subtype="OPUS")
    wav = read_waveform(path, 16000)
    assert len(wav) == pytest.approx(8000, abs=400)
    assert wav.square().mean().sqrt() == pytest.approx(0.354, abs=0.05)


def refused(path):
    """The one sentence about a file, which names it and the remedy."""
    with pytest.raises(ValueError) as caught:
        read_waveform(path, 16000)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert message.endswith("replace the file or take its row out of the CSV")
    return message


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no audio" * 1000])
def test_what_is_no_audio_is_refused(tmp_path, content):
    """A file of no bytes, of a few, of others."""
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert "cannot be read as audio" in refused(path)


def test_damaged_compressed_audio_is_refused(tmp_path):
    """A FLAC file whose header is gone."""
    path = write(tmp_path / "a.flac", tone(16000))
    path.write_bytes(b"\0" * 200 + path.read_bytes()[200:])
    assert "cannot be read as audio" in refused(path)


def test_audio_without_samples_is_refused(tmp_path):
    """A well-formed wav file of no length."""
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(16000)[:0].numpy(), 16000)
    assert "has no samples" in refused(path)


def test_missing_file_is_refused(tmp_path):
    """By its name."""
    assert "cannot be read as audio" in refused(tmp_path / "none.wav")
