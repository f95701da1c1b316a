"""A CTC head, trained, packaged, and asked for typed commands."""

import json
from functools import partial

import pytest
from running import ROOT, run, run_typed_commands

RECIPE = ROOT / "recipes" / "LibriSpeech" / "CTC-head"


def train(speech, folder, fails=False, **changes):
    """Runs the recipe; returns its metrics, or what is printed."""
    options = {
        "data_folder": speech,
        "splits": "{train: [train], valid: [valid]}",
        "tests": "[test]",
        "feature_folder": speech / "letters",
        "output_folder": folder,
        "size": 64,
        "number_of_epochs": 40,
        "batch_size": 4,
        "lr": 0.005,
        "augment": "null",
        "copies": 1,
        "distort": f"{{folder: {speech / 'distorted'}}}",
        **changes,
    }
    printed = run("sincnet", options, RECIPE, fails)
    if fails:
        return printed
    return json.loads((folder / "metrics.json").read_text())


def test_typed_commands_are_heard_by_their_letters(speech, commands, tmp_path):
    """None of the test set's wordings is spoken in training; all are typed.

    These words are too short for frames of 40 ms.
    """
    metrics = train(speech, tmp_path / "a", front_end="filter_bank")
    assert list((speech / "distorted").iterdir())
    assert metrics["test"]["cer"] < 60
    typed = partial(run_typed_commands, RECIPE, "trained")
    found = typed(tmp_path / "a", commands, tmp_path / "k4")
    assert found["test"]["intent_error"] < 50
    assert found["cost"]["milliseconds"] > 0
    options = {"trained": tmp_path / "a", "noises": 4, "keep": 0.9}
    options["output_folder"] = tmp_path / "rejection"
    run("rejection", options, RECIPE, script="rejection.py")
    rejection = tmp_path / "a" / "recogniser" / "rejection.json"
    assert 0 < json.loads(rejection.read_text())["threshold"] <= 1
    told = typed(tmp_path / "none", commands, tmp_path, fails=True)
    assert "error: trained: there is no" in told and "Traceback" not in told


def test_a_head_of_other_symbols_is_refused(speech, commands, tmp_path):
    train(speech, tmp_path / "a", number_of_epochs=1, written="characters")
    typed = partial(run_typed_commands, RECIPE, "trained", tmp_path / "a")
    told = typed(commands, tmp_path, fails=True)
    assert "does not write the letter ' '" in told


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"front_end_source": "no/such"}, "no/such"),
        (
            {"front_end": "whisper"},
            "'front_end' is 'whisper', which is not one",
        ),
    ],
)
def test_a_wrong_front_end_is_named(speech, tmp_path, changes, told):
    assert told in train(speech, tmp_path / "a", True, **changes)
