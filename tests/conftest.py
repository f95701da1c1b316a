"""What all tests share: no network, the same random numbers, one thread."""

import csv
import json
import os
import shutil
import tempfile
from pathlib import Path

# Before anything imports them: the hub client would retry for minutes, and
# the tests' small matrices are multiplied faster, and always alike, by one
# thread.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# SpeechBrain asks `pip freeze` for a log whenever a run starts: a second each.
COMMANDS = tempfile.TemporaryDirectory()
(Path(COMMANDS.name) / "pip").symlink_to(shutil.which("true"))
os.environ["PATH"] = COMMANDS.name + os.pathsep + os.environ["PATH"]

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402
from running import CORPUS, command, run_command  # noqa: E402
from tiny_models import (  # noqa: E402
    save_tiny_asr,
    save_tiny_models,
    save_tiny_recogniser,
)

#: Words of the read speech.
TONES = "red green blue black white brown".split()


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Starts every test from the same seed."""
    torch.manual_seed(1234)


@pytest.fixture(scope="session")
def shared():
    """Folder beside the checkout with models and data that are not in it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """Read speech where a word is a tone, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    for split, size in (("train", 24), ("valid", 8), ("test", 8)):
        rows = []
        for number in range(size):
            said = rng.choice(len(TONES), size=3, replace=False)
            times = np.arange(3200) / 16000
            tones = [np.sin(2 * np.pi * 220 * (1 + w) * times) for w in said]
            name = f"{split}{number}.wav"
            soundfile.write(folder / name, np.concatenate(tones) / 3, 16000)
            text = " ".join(TONES[w] for w in said)
            rows.append({"path": name, "transcription": text})
        lines = "\n".join(map(json.dumps, rows))
        (folder / f"{split}.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="session")
def commands(speech):
    """What the tones say, as a corpus of commands; the rest is typed alone."""
    folder = speech / "commands" / "data"
    folder.mkdir(parents=True)
    parts = {"train": (0, 6), "valid": (6, 9), "test": (9, 24)}
    with open(speech / "train.jsonl") as file:
        rows = [json.loads(line) for line in file]
    for split, (start, end) in parts.items():
        with open(folder / f"{split}_data.csv", "w", newline="") as file:
            names = ["path", "speakerId", "transcription", "first"]
            writer = csv.writer(file)
            writer.writerow(names)
            for row in rows[start:end]:
                text = row["transcription"]
                writer.writerow([row["path"], split, text, text.split()[0]])
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Options for a small part of the bundled corpus, and shared stores."""
    folder = tmp_path_factory.mktemp("small")
    sizes = {"train": 48, "valid": 16, "test": 16, "utt_test": 8}
    for split, size in sizes.items():
        name = f"{split}_data.csv"
        with open(CORPUS / "data" / name, encoding="utf-8") as f:
            lines = f.read().splitlines()
        step = (len(lines) - 1) // size
        lines = [lines[0], *lines[1::step][:size]]
        (folder / name).write_text("\n".join(lines) + "\n")
    return {
        "csv_folder": folder,
        "feature_folder": folder / "features",
        "manifest_folder": folder / "manifests",
        "teacher_folder": folder / "teachers",
        "fine_tuning": "{number_of_epochs: 8, max_train_error: 100}",
        "number_of_epochs": 3,
        "batch_size": 16,
    }


@pytest.fixture(scope="session")
def finished(small, tmp_path_factory):
    """A run of the main configuration from the root, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    options = {**small, "output_folder": folder}
    words = command("distill_teacher_mae_exp", options)
    return folder, run_command(words, fresh=True), options


@pytest.fixture(scope="session")
def transformer_folders(tmp_path_factory):
    """Folder of small transformer models, by kind."""
    root = tmp_path_factory.mktemp("models")
    save_tiny_models(root)
    return root


@pytest.fixture(scope="session")
def asr(tmp_path_factory):
    """A small ASR in SpeechBrain's layout."""
    folder = tmp_path_factory.mktemp("asr")
    save_tiny_asr(folder)
    return folder


@pytest.fixture(scope="session")
def recogniser(tmp_path_factory):
    """Folder of a small recogniser of transformers."""
    folder = tmp_path_factory.mktemp("recogniser") / "wav2vec2"
    save_tiny_recogniser(folder)
    return folder


@pytest.fixture(scope="session")
def package(finished, tmp_path_factory):
    """The packaged folder of the finished run."""
    # Here, so that tests without it need not wait for SpeechBrain.
    from slu_kd_lobes.inference.package import package_run

    return package_run(finished[0], tmp_path_factory.mktemp("p") / "model")
