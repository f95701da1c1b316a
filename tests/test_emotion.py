"""IEMOCAP: its layout is read, and the student learns from it."""

import sys

import numpy as np
import pytest
import soundfile
from running import ROOT, metrics_of, run, run_command

from slu_kd_lobes.utils.files import read_csv

RECIPE = ROOT / "recipes" / "IEMOCAP" / "emotion_recognition"
TONES = {"ang": 900, "exc": 600, "hap": 600, "neu": 300, "sad": 150}


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory):
    """A stand-in: every emotion has its tone; two dialogs a session."""
    folder = tmp_path_factory.mktemp("iemocap")
    times = np.arange(8000) / 16000
    for number in range(1, 6):
        session = folder / f"Session{number}"
        for kind in ("EmoEvaluation", "transcriptions"):
            (session / "dialog" / kind).mkdir(parents=True)
        for dialog in (f"Ses0{number}F_impro01", f"Ses0{number}M_script01_1"):
            wavs = session / "sentences" / "wav" / dialog
            wavs.mkdir(parents=True)
            marks, said = ["% [START_TIME - END_TIME] TURN_NAME ...\n"], []
            for speaker in "FM":
                for i, emotion in enumerate([*TONES, "fru", "xxx"]):
                    turn = f"{dialog}_{speaker}{i:03d}"
                    tone = np.sin(2 * np.pi * TONES.get(emotion, 50) * times)
                    soundfile.write(wavs / f"{turn}.wav", tone / 3, 16000)
                    marks.append(
                        f"[{i}.2901 - {i}.9]\t{turn}\t{emotion}\t"
                        "[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n"
                    )
                    said.append(f"{turn} [00{i}.2901-00{i}.9000]: Excuse me. ")
            said.append("M: (something that is no turn)")
            path = session / "dialog" / "EmoEvaluation" / f"{dialog}.txt"
            path.write_text("\n".join(marks))
            path = session / "dialog" / "transcriptions" / f"{dialog}.txt"
            path.write_text("\n".join(said) + "\n")
    return folder


def prepare(*words, fails=False):
    """Runs the script."""
    command = [sys.executable, "prepare.py", *map(str, words)]
    return run_command(command, fails, RECIPE)


def test_speakers_are_apart(iemocap, tmp_path):
    """Speaker 4, the man of the second session, is tested; 3 validates."""
    prepare(iemocap, tmp_path, "--test_speaker=4", "--incomplete")
    splits = {
        name: read_csv(tmp_path / f"{name}_data.csv")
        for name in ("train", "valid", "test")
    }
    speakers = {k: {r["speakerId"] for r in v} for k, v in splits.items()}
    assert speakers["test"] == {"4"} and speakers["valid"] == {"3"}
    assert speakers["train"] == set("1256789") | {"10"}
    assert [len(rows) for rows in splits.values()] == [80, 10, 10]
    for row in splits["test"]:
        # Who speaks says the turn, not the dialog.
        assert row["path"].rsplit("_", 1)[1].startswith("M")
        assert row["path"].startswith("Session2/sentences/wav/Ses02")
        assert (iemocap / row["path"]).is_file()
        assert row["transcription"] == "Excuse me."
    emotions = [row["emotion"] for row in splits["test"]]
    assert emotions.count("happiness") == 4 and len(set(emotions)) == 4


@pytest.mark.parametrize(
    "words, message",
    [
        (["--test_speaker=11", "--incomplete"], "must be 1 to 10, not 11"),
        (["--test_speaker=1"], "has 100 utterances of the four emotions"),
    ],
)
def test_what_is_wrong_is_told(words, message, iemocap, tmp_path):
    output = prepare(iemocap, tmp_path / "csv", *words, fails=True)
    assert message in output and "Traceback" not in output
    assert not (tmp_path / "csv").exists()


def test_another_folder_is_refused(tmp_path):
    output = prepare(tmp_path, tmp_path / "csv", fails=True)
    assert "Session1/dialog/EmoEvaluation" in output
    assert "Traceback" not in output


def test_the_student_learns_emotions(iemocap, tmp_path):
    """On the stand-in, whose emotions are tones, better than by chance."""
    prepare(iemocap, tmp_path / "csv", "--incomplete")
    options = {
        "data_folder": iemocap,
        "csv_folder": tmp_path / "csv",
        "encoder": "sincnet",
        "encoder_source": ROOT / "pretrained" / "sincnet-read-speech",
        "output_folder": tmp_path / "run",
        "feature_folder": tmp_path / "features",
        "manifest_folder": tmp_path / "manifests",
        "number_of_epochs": 15,
        "lr": 0.005,
        "batch_size": 8,
    }
    run("emotion", options, RECIPE)
    metrics = metrics_of(tmp_path / "run")
    assert metrics["n_train"] == 80 and metrics["test"]["n"] == 10
    assert metrics["test"]["slot_error"].keys() == {"emotion"}
    assert metrics["test"]["intent_error"] < 50  # 60 by the commonest one
