"""Any audio file as one channel at the encoder's rate."""

import io
import math
import os
import re
import resource
import struct

import pytest
import soundfile
import torch
from speechbrain.dataio import audio_io

from slu_kd_lobes.data.audio import (
    as_waveforms,
    read_command,
    read_header,
    read_waveform,
)


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


@pytest.mark.parametrize("rate", [1000, 11025, 16001, 44099, 96000, 999983])
def test_any_rate_takes_little_memory(tmp_path, rate):
    """Whatever its ratio to the wanted one."""
    path = write(tmp_path / "a.wav", tone(rate, hertz=200), rate=rate)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wav = read_waveform(path, 16000)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert kilobytes < 500_000 and abs(len(wav) - 8000) <= 8
    expected = tone(16000, hertz=200)[400:7600]
    torch.testing.assert_close(wav[400:7600], expected, rtol=0, atol=0.01)


def wav_header(rate=16000, channels=1, size=0xFFFFFFFF, bits=16):
    """The 44 bytes in front of the samples; the size is unknown."""
    frame = channels * bits // 8
    form = struct.pack(
        "<IHHIIHH", 16, 1, channels, rate, rate * frame, frame, bits
    )
    start = b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVEfmt "
    return start + form + b"data" + struct.pack("<I", size)


@pytest.mark.parametrize(
    "facts, size, fault",
    [
        ({"channels": 1000}, 2**30, "has 1000 channels, and at most 32"),
        ({"channels": 2}, 2**31, "samples in each of 2 channels, and at most"),
        ({"rate": 900}, 2000, "says that it has 900 Hz"),
        ({"rate": 2_000_000}, 2000, "says that it has 2,000,000 Hz"),
    ],
)
def test_absurd_audio_is_refused_by_its_header(tmp_path, facts, size, fault):
    """A sparse file: to decode it would take more memory than there is."""
    path = tmp_path / "sparse.wav"
    path.write_bytes(wav_header(**facts))
    os.truncate(path, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fault in refused(path)
    with pytest.raises(ValueError, match=fault):
        read_header(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_small_file_of_many_samples_is_refused(tmp_path):
    """Eight channels of silence compress well."""
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", 8000, 8, "PCM_16") as file:
        for _ in range(120):
            file.write(torch.zeros(80000, 8).numpy())
    assert path.stat().st_size < 2**19
    assert "samples in each of 8 channels" in refused(path)
    with pytest.raises(ValueError, match="the recording has 9,600,000 sam"):
        read_command(str(path), "the recording", 16000)


def noise(samples=20000):
    """What no codec shortens much."""
    return (torch.randn(samples) / 10).numpy()


@pytest.mark.parametrize("share", [0.99, 0.6, 0.3])
@pytest.mark.parametrize(
    "ending, subtype",
    [
        ("wav", "PCM_16"),
        ("wav", "FLOAT"),
        ("wav", "IMA_ADPCM"),
        ("aiff", "PCM_24"),
        ("au", "PCM_16"),
        ("w64", "PCM_16"),
        ("rf64", "PCM_16"),
        ("nist", "PCM_16"),
        ("voc", "PCM_16"),
        ("flac", "PCM_16"),
        ("ogg", "VORBIS"),
        ("ogg", "OPUS"),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
def test_half_copied_audio_is_refused(tmp_path, ending, subtype, share):
    """Of every format; the whole file is not."""
    path = tmp_path / f"a.{ending}"
    soundfile.write(
        path, noise(), 16000, format=ending.upper(), subtype=subtype
    )
    content = path.read_bytes()
    assert len(read_waveform(path, 16000)) >= 20000
    assert read_header(path).samples == len(read_waveform(path, 16000))
    part = content[: round(len(content) * share)]
    path.write_bytes(part)
    message = refused(path)
    assert "is cut short" in message or "cannot be read" in message
    for source in (path, io.BytesIO(part)):
        with pytest.raises(ValueError, match="cut short|cannot be read"):
            read_header(source)


def test_ogg_cut_between_two_pages_is_refused(tmp_path):
    """Every page is whole, and the last is missing."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, noise(80000), 16000, subtype="OPUS")
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"OggS")])
    assert "is cut short" in refused(path)


def mp3_without_count(path, wav):
    """An MP3 file as streams have it: no frame says how many there are."""
    soundfile.write(path, wav.numpy(), 16000)
    content = path.read_bytes()
    assert b"Xing" in content[:200] or b"Info" in content[:200]
    return content[content.index(content[:2], 100) :]


def test_mp3_is_as_long_as_what_it_holds(tmp_path):
    """Its first frame and its size alone would tell twice as much."""
    path = tmp_path / "a.mp3"
    silence, speech = torch.zeros(40000), torch.randn(40000) / 10
    frames = mp3_without_count(path, torch.cat([silence, speech]))
    tag = b"ID3\4\0\0\0\0\2\1" + bytes(257)
    for content in (frames, tag + frames + b"TAG" + bytes(125)):
        path.write_bytes(content)
        found = read_header(path).samples
        assert abs(found - 80000) < 3000
        assert len(read_waveform(path, 16000)) == found
    path.write_bytes(tag + frames[: len(frames) // 2])
    assert "is cut short" in refused(path)


def test_audio_of_unknown_length_is_refused(tmp_path):
    """Where libsndfile would read a part of it, or nothing."""
    path = tmp_path / "a.mp3"
    silence, speech = torch.zeros(40000), torch.randn(40000) / 10
    path.write_bytes(mp3_without_count(path, torch.cat([speech, silence])))
    assert "does not state its length" in refused(path)
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(), 16000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of its length
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert "does not state its length" in refused(path)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_audio_that_came_through_a_pipe_is_whole(tmp_path, size):
    """ffmpeg, arecord and sox state these sizes when they cannot know."""
    samples = (tone(16000) * 32768).short()
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(size=size) + samples.numpy().tobytes())
    assert read_header(path) == (8000, 16000, 1)
    assert len(read_waveform(path, 16000)) == 8000


@pytest.mark.parametrize(
    "value, fault",
    [
        (math.nan, "numbers (NaN or infinite)"),
        (-math.inf, "numbers (NaN or infinite)"),
        (12000.0, "has samples of 12000, and those of audio lie between"),
    ],
)
@pytest.mark.parametrize("ending", ["wav", "aiff", "au"])
def test_samples_that_are_no_audio_are_refused(tmp_path, ending, value, fault):
    """One of many in one of two channels, by header and by reading."""
    path = tmp_path / f"a.{ending}"
    samples = 0.3 * torch.randn(30000, 2)
    samples[29000, 1] = value
    soundfile.write(path, samples.numpy(), 16000, subtype="FLOAT")
    assert fault in refused(path)
    with pytest.raises(ValueError, match=re.escape(fault)):
        read_header(path)


WAVES = torch.tensor([[0.0, 0.5, -0.25, -1.0], [0.25, -0.5, 0.75, 0.125]])


@pytest.mark.parametrize("batch", [WAVES, WAVES[1]])
@pytest.mark.parametrize(
    "kind", "int8 uint8 int16 int32 float16 float32 float64".split()
)
def test_arrays_of_any_usual_type(kind, batch):
    """Tensors and arrays, and lists of floats."""
    kind = getattr(torch, kind)
    array = batch.to(kind)
    if not kind.is_floating_point:
        bits = torch.iinfo(kind).bits
        array = (batch.double() * 2 ** (bits - 1)).to(torch.int64)
        array = (array + 128 if kind == torch.uint8 else array).to(kind)
    found = [as_waveforms(array), as_waveforms(array.numpy())]
    if kind.is_floating_point:
        found += [as_waveforms(array.tolist())]
    for wavs in found:
        assert wavs.dtype == torch.float32
        assert torch.equal(wavs, batch.reshape(-1, 4))


def test_arrays_as_other_programs_leave_them():
    """Of another order of bytes, reversed, read-only, a view, bfloat16."""
    shorts = (WAVES * 32768).clamp(max=32767).short().numpy()
    frozen = shorts.copy()
    frozen.flags.writeable = False
    for array in (shorts.astype(">i2"), frozen, shorts[:, ::-1][:, ::-1]):
        assert torch.equal(as_waveforms(array), WAVES)
    assert torch.equal(as_waveforms(WAVES.T.contiguous().T), WAVES)
    assert torch.equal(as_waveforms(WAVES.bfloat16()), WAVES)
    assert torch.equal(as_waveforms([WAVES[0], WAVES[1]]), WAVES)


@pytest.mark.parametrize(
    "audio, fault",
    [
        (torch.zeros(2, 1, 800), r"shape \[2, 1, 800\]"),
        (torch.tensor(0.5), r"shape \[\]"),
        (torch.zeros(1, 0), r"shape \[1, 0\]"),
        (torch.zeros(800, 2), r"\[samples, channels\]"),
        ([0, 1, -1], "type int64"),
        (torch.zeros(800, dtype=torch.bool), "type bool"),
        (torch.zeros(800, dtype=torch.complex64), "type complex64"),
        ([[0.1, 0.2], [0.1]], "no array of numbers"),
        (["a.wav"], "no array of numbers"),
        (None, "no array of numbers"),
        ([[0.1, 0.2], [0.1, math.nan]], r"^item 1 .*\(NaN or infinite\)"),
        ([0.1, -math.inf], r"^item 0 .*\(NaN or infinite\)"),
        (torch.tensor([[0.1, -900.0]]), "samples of 900, .* divided by 32768"),
    ],
)
def test_arrays_that_are_no_audio_are_refused(audio, fault):
    """In one sentence."""
    with pytest.raises(ValueError, match=fault) as caught:
        as_waveforms(audio)
    assert "\n" not in str(caught.value)
