"""The recipe that aligns a speech model with a text model, on a tiny corpus."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from running import ROOT, environment

from slu_kd_lobes.students.encoders import TransformerEncoder
from slu_kd_lobes.utils.environment import packaged_minilm

RECIPE = ROOT / "recipes" / "LibriSpeech" / "PAD"
WORDS = "red green blue black white brown".split()


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A word is a tone, so that there is something to align."""
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    for split, size in (("train", 24), ("valid", 8)):
        rows = []
        for number in range(size):
            said = rng.choice(len(WORDS), size=3, replace=False)
            times = np.arange(3200) / 16000
            tones = [np.sin(2 * np.pi * 220 * (1 + w) * times) for w in said]
            name = f"{split}{number}.wav"
            soundfile.write(folder / name, np.concatenate(tones) / 3, 16000)
            text = " ".join(WORDS[w] for w in said)
            rows.append({"path": name, "transcription": text})
        lines = "\n".join(map(json.dumps, rows))
        (folder / f"{split}.jsonl").write_text(lines)
    return folder


def align(speech, model, folder, config, **changes):
    """Runs the recipe; returns its metrics."""
    options = {
        "data_folder": speech,
        "splits": "{train: [train], valid: [valid]}",
        "speech_model": model,
        "text_model": packaged_minilm(),
        "token_folder": speech / "tokens",
        "output_folder": folder,
        "feature_folder": speech / "features",
        "number_of_epochs": 2,
        "batch_size": 8,
        "lr": 0.003,
        "device": "cpu",
        **changes,
    }
    command = [f"hparams/{config}.yaml"]
    command += [f"--{key}={value}" for key, value in options.items()]
    result = subprocess.run(
        [sys.executable, "train.py", *command],
        cwd=RECIPE,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("config", ["glob", "tlocal", "slocal"])
def test_a_run_aligns_and_saves(config, speech, transformer_folders, tmp_path):
    """The loss falls, and the aligned model serves as its source did."""
    model = transformer_folders / "whisper"
    metrics = align(speech, model, tmp_path / "run", config)
    history = metrics["history"]
    assert [epoch["epoch"] for epoch in history] == [0, 1, 2]
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]
    assert metrics["projection"]  # 16 and 384 values
    aligned = tmp_path / "run" / "aligned"
    encoder = TransformerEncoder(str(aligned))
    assert encoder.feature_size == 16


def test_the_same_command_goes_on_to_the_same_result(
    speech, transformer_folders, tmp_path
):
    """An epoch, then another: as two at once; and again nothing changes."""
    model = transformer_folders / "wav2vec2"
    options = {"warm_up": 0.0, "test_epoch": "last"}
    whole = align(speech, model, tmp_path / "a", "tlocal", **options)
    again = align(speech, model, tmp_path / "a", "tlocal", **options)
    assert again["history"] == whole["history"]
    assert again["valid"] == whole["valid"]
