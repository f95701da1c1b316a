"""The recipe passes SpeechBrain's own checks in a checkout of it.

> SPEECHBRAIN_CHECKOUT=/path/to/speechbrain pytest tests/test_graft.py
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKOUT = os.environ.get("SPEECHBRAIN_CHECKOUT")


@pytest.mark.skipif(not CHECKOUT, reason="SPEECHBRAIN_CHECKOUT is not set")
@pytest.mark.parametrize(
    "recipe",
    [
        "fluent-speech-commands/logit_distillation",
        "fluent-speech-commands/two_stage",
        "LibriSpeech/CIF-HKD",
        "LibriSpeech/PAD",
        "LibriSpeech/two_stage_pretraining",
    ],
)
def test_speechbrains_checks_pass_on_the_grafted_recipe(recipe, tmp_path):
    """In a clone of the checkout, which stays as it is."""
    clone = tmp_path / "speechbrain"
    subprocess.run(["git", "clone", "-q", CHECKOUT, clone], check=True)
    variables = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "graft.py", clone]
        + [f"--recipe={recipe}"],
        env=variables,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stdout
    assert "tests/consistency: passed" in done.stdout


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    """In one sentence; nothing is written."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "graft.py", tmp_path],
        text=True,
        capture_output=True,
    )
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path} is no checkout of SpeechBrain\n"
    assert not list(tmp_path.iterdir())
