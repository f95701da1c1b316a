"""The command line answers everything with a line, and an exit code."""

import io
import json
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
from running import CORPUS
from speechbrain.dataio import audio_io

from slu_kd_lobes.inference.cli import main


@pytest.fixture(scope="module")
def model(package):
    """A packaged model, as it is named on the command line."""
    return str(package)


@pytest.fixture(scope="module")
def recordings():
    """Three recordings of the bundled corpus."""
    return sorted(map(str, (CORPUS / "wavs").rglob("*.ogg")))[:3]


def lines_of(text):
    """JSON objects, one a line."""
    return [json.loads(line) for line in text.splitlines()]


def test_one_object_a_line(model, recordings, capsys):
    """With the keys that are promised."""
    assert main(["classify", *recordings, "--model", model, "--json"]) == 0
    answers = lines_of(capsys.readouterr().out)
    assert [answer["file"] for answer in answers] == recordings
    for answer in answers:
        assert set(answer) == {"file", "slots", "rejected"}
        assert list(answer["slots"]) == ["action", "object", "location"]
        for slot in answer["slots"].values():
            assert set(slot) == {"value", "probability"}
            assert 0 < slot["probability"] <= 1
        assert isinstance(answer["rejected"], bool)


def test_a_table_for_people(model, recordings, capsys):
    """A line a file below the names of the slots."""
    assert main(["classify", *recordings, "--model", model]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "action", "object", "location"]
    assert [row.split()[0] for row in rows] == recordings
    assert all(row.count("%") == 3 for row in rows)


def test_folders_and_standard_input(
    model, recordings, capsys, tmp_path, monkeypatch
):
    """Both give what the files give."""
    for path in recordings[:2]:
        (tmp_path / "deep").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "deep")
    (tmp_path / "notes.txt").write_text("no audio")
    main(["classify", recordings[0], "--model", model, "--json"])
    (expected,) = lines_of(capsys.readouterr().out)
    assert main(["classify", str(tmp_path), "--model", model, "--json"]) == 0
    answers = lines_of(capsys.readouterr().out)
    assert len(answers) == 2 and answers[0]["slots"] == expected["slots"]

    class Standard:
        buffer = io.BytesIO(open(recordings[0], "rb").read())

    monkeypatch.setattr("sys.stdin", Standard)
    assert main(["classify", "-", "--model", model, "--json"]) == 0
    (answer,) = lines_of(capsys.readouterr().out)
    assert answer["file"] == "-" and answer["slots"] == expected["slots"]


def test_a_file_may_have_any_name(model, recordings, tmp_path, capsys):
    """Also one that is not UTF-8; the files after it are answered."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve #1: a=b.ogg")
    shutil.copy(recordings[0], name)
    for options in (["--json"], []):
        command = ["classify", name, recordings[0], "--model", model]
        assert main([*command, *options]) == 0
        said = capsys.readouterr().out.splitlines()
        assert "na\\udcefve #1: a=b.ogg" in said[-2]
        assert recordings[0] in said[-1]


@pytest.mark.parametrize("rate, channels", [(8000, 1), (44100, 2), (48000, 6)])
def test_any_rate_and_channels(model, tmp_path, capsys, rate, channels):
    path = str(tmp_path / "a.wav")
    audio_io.save(path, torch.randn(channels, rate) / 10, rate)
    assert main(["classify", path, "--model", model, "--json"]) == 0
    assert len(lines_of(capsys.readouterr().out)) == 1


def test_what_cannot_be_heard_gets_a_line_and_the_rest_an_answer(
    model, recordings, tmp_path, capsys
):
    """Missing, not audio, cut short, empty, silent, not a number, too long."""
    files = {
        name: str(tmp_path / f"{name}.wav")
        for name in "missing text cut empty silent nan long".split()
    }
    (tmp_path / "text.wav").write_text("this is no audio")
    audio_io.save(files["cut"], torch.randn(1, 16000) / 10, 16000)
    whole = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:20])
    audio_io.save(files["empty"], torch.zeros(1, 0), 16000)
    audio_io.save(files["silent"], torch.zeros(1, 16000), 16000)
    audio_io.save(
        files["nan"],
        torch.full((1, 16000), float("nan")),
        16000,
        subtype="FLOAT",
    )
    audio_io.save(files["long"], torch.randn(1, 31 * 8000) / 10, 8000)
    names = [*files.values(), recordings[0]]
    assert main(["classify", *names, "--model", model, "--json"]) == 1
    captured = capsys.readouterr()
    assert len(lines_of(captured.out)) == 1
    errors = [e for e in captured.err.splitlines() if e.startswith("error: ")]
    assert "Traceback" not in captured.err and len(errors) == len(files)
    reasons = (
        "no such file|cannot be read|cannot be read|no samples|silent|NaN|31 s"
    )
    for error, path, reason in zip(errors, files.values(), reasons.split("|")):
        assert path in error and reason in error


def test_a_file_that_would_fill_the_memory_costs_no_other_answer(
    model, recordings, tmp_path, capsys
):
    """By channels, samples or rate; half of a file is not heard either."""
    many, long, half = (str(tmp_path / f"{name}.wav") for name in "mlh")
    soundfile.write(many, np.zeros((9, 1000)), 16000)
    soundfile.write(long, np.zeros((9, 1)), 16000, subtype="DOUBLE")
    for path in (many, long):  # sparse, and of unknown length
        with open(path, "r+b") as file:
            content = file.read()
            file.seek(content.index(b"data") + 4)
            file.write(b"\xff" * 4)
            file.truncate(2**32)
    odd = str(tmp_path / "odd.wav")
    audio_io.save(odd, torch.randn(1, 44099) / 10, 44099)
    with open(half, "wb") as file:
        content = open(odd, "rb").read()
        file.write(content[: len(content) // 2])
    names = [many, long, half, odd, recordings[0]]
    assert main(["classify", *names, "--model", model, "--json"]) == 1
    captured = capsys.readouterr()
    answers = [answer["file"] for answer in lines_of(captured.out)]
    assert answers == [odd, recordings[0]]
    errors = captured.err.splitlines()
    assert [e.split(" has ")[0] for e in errors[:2]] == [
        f"error: {many}",
        f"error: {long}",
    ]
    assert "1000 channels" in errors[0] and "samples" in errors[1]
    assert errors[2].startswith(f"error: {half} is cut short")


def test_no_model_and_an_empty_folder_are_a_line(
    model, recordings, tmp_path, capsys
):
    """Exit code 2: nothing was done."""
    assert main(["classify", recordings[0], "--model", str(tmp_path)]) == 2
    assert "holds no packaged model" in capsys.readouterr().err
    assert main(["classify", str(tmp_path), "--model", model]) == 2
    assert "has no audio files" in capsys.readouterr().err


def test_rejected_answers_say_so(model, recordings, tmp_path, capsys):
    """Noise that a threshold near 1 does not let pass."""
    answers = []
    for _ in range(2):
        main(["classify", *recordings, "--model", model])
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    path = str(tmp_path / "noise.wav")
    audio_io.save(path, torch.randn(1, 16000) / 10, 16000)
    main(["classify", path, "--model", model, "--json"])
    (answer,) = lines_of(capsys.readouterr().out)
    main(["classify", path, "--model", model])
    shown = capsys.readouterr().out.splitlines()[1]
    assert shown.endswith("rejected") == answer["rejected"]


@pytest.mark.parametrize("old, new", [("export", "onnx"), ("demo", "page")])
def test_a_renamed_command_says_its_new_name(old, new, capsys):
    """In a line, and does nothing."""
    assert main([old, "--model", "none"]) == 2
    assert (
        capsys.readouterr().err == f"error: the command is now: slu-kd {new}\n"
    )


def test_a_package_of_another_version_is_a_line(
    model, recordings, tmp_path, capsys
):
    """It says what to do."""
    shutil.copytree(model, tmp_path / "old")
    path = tmp_path / "old" / "hyperparams.yaml"
    path.write_text(path.read_text().replace("package_format: ", "format: "))
    command = ["classify", recordings[0], "--model", str(tmp_path / "old")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "another version of slu_kd_lobes: package its run again" in said
