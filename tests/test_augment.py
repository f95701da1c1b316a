"""Distortions of waveforms, and copies of recordings."""

import soundfile
import torch

from slu_kd_lobes.data.augment import (
    DistortedCopies,
    RandomChannel,
    RandomLevel,
    Surroundings,
)


def recordings(folder, number=3):
    """Noise of different lengths, and the rows of a manifest."""
    rows = []
    for i in range(number):
        path = folder / f"{i}.wav"
        noise = torch.manual_seed(i) and torch.rand(1600 * (i + 1)) - 0.5
        soundfile.write(path, noise.numpy(), 16000)
        seconds = (i + 1) / 10
        row = {"wav": str(path), "duration": seconds, "transcription": "a"}
        rows.append(row)
    return rows


def heard(rows):
    return [soundfile.read(row["wav"])[0].tolist() for row in rows]


def test_a_recording_has_so_many_copies_each_of_its_own(tmp_path):
    rows = recordings(tmp_path)
    steps = [RandomChannel(), RandomLevel()]
    copies = DistortedCopies(tmp_path / "copies", 2, steps)(rows)
    assert copies[:3] == rows
    assert [row["transcription"] for row in copies] == 9 * ["a"]
    sounds = heard(copies)
    for i in range(3):
        alike = sounds[i::3]
        assert len({str(sound) for sound in alike}) == 3
        assert len({len(sound) for sound in alike}) == 1


def test_copies_are_made_once_and_anew_for_other_steps(tmp_path):
    rows = recordings(tmp_path)
    folder = tmp_path / "copies"
    first = DistortedCopies(folder, 1, [Surroundings()])(rows)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    torch.manual_seed(99)  # has no say
    again = DistortedCopies(folder, 1, [Surroundings()])(rows)
    assert again == first
    assert times == {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    DistortedCopies(folder, 1, [Surroundings(mean=0.2)])(rows)
    DistortedCopies(folder, 1, [Surroundings()], seed=1)(rows)
    assert len(list(folder.iterdir())) == 9


def test_what_is_cut_off_is_made_again_to_the_same(tmp_path):
    rows = recordings(tmp_path)
    made = DistortedCopies(tmp_path / "copies", 1, [RandomLevel()])
    whole = heard(made(rows))
    (tmp_path / "copies").rename(tmp_path / "gone")
    assert heard(made(rows)) == whole


def test_durations_are_those_of_the_copies(tmp_path):
    rows = recordings(tmp_path)
    steps = [Surroundings(mean=1.0)]
    for row in DistortedCopies(tmp_path / "copies", 4, steps)(rows):
        assert row["duration"] == soundfile.info(row["wav"]).duration


def test_no_copies_are_no_files(tmp_path):
    rows = recordings(tmp_path)
    assert DistortedCopies(tmp_path / "copies", 0, [])(rows) == rows
    assert not (tmp_path / "copies").exists()


def test_silence_stands_around_what_was_said():
    torch.manual_seed(0)
    wav, lengths = torch.ones(1, 100), set()
    for _ in range(50):
        longer = Surroundings(mean=0.01, longest=0.02)(wav)
        assert longer.sum() == 100
        lengths.add(longer.shape[1])
    assert min(lengths) == 100 and max(lengths) <= 100 + 2 * 320
