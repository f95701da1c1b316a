"""Runs the recipe as a user does."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "fluent-speech-commands"))

from prepare import prepare_fsc  # noqa: E402

from slu_kd_lobes.training.checkpoints import CHECKSUMS, checksums  # noqa: E402

CORPUS = ROOT / "data" / "synthetic-commands"
UNSTEADY = ("seconds", "peak_memory_mb", "commit")


def command(config, options, script="train.py", processes=1):
    """The command line, as the README gives it."""
    yaml = f"hparams/{config}.yaml" if "/" not in config else config
    overrides = [f"--{key}={value}" for key, value in options.items()]
    python = [sys.executable]
    if processes > 1:
        python += ["-m", "torch.distributed.run", "--standalone"]
        python += [f"--nproc_per_node={processes}"]
    return [*python, script, yaml, *overrides, "--device=cpu"]


def environment():
    """No hub, and the same thread count everywhere."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(config, options, cwd=ROOT, fails=False, script="train.py", processes=1):
    """Runs the recipe; returns what it printed."""
    result = subprocess.run(
        command(config, options, script, processes),
        cwd=cwd,
        env=environment(),
        text=True,
        capture_output=True,
    )
    output = result.stdout + result.stderr
    assert (result.returncode != 0) == fails, output
    return output


def metrics_of(folder):
    """The metrics that the same command must repeat."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return {k: v for k, v in metrics.items() if k not in UNSTEADY}


def manifest_rows(folder, split):
    """Rows of a split as a run read them; `wav` can be opened."""
    text = (folder / "hyperparams.yaml").read_text()
    corpus = load_hyperpyyaml(text)["corpus"]
    manifests = prepare_fsc(**{**corpus, "skip_prep": True})
    return manifests.read(split)


def seal_checkpoint(folder):
    """Makes a checkpoint whole again that a test has changed."""
    sums = json.dumps(checksums(folder))
    (folder / CHECKSUMS).write_text(sums)


def error_of_predictions(path):
    """Percent of the rows with a wrong slot, from the file alone."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    slots = [name[:-5] for name in rows[0] if name.endswith("_true")]
    wrong = sum(
        any(row[f"{slot}_true"] != row[f"{slot}_predicted"] for slot in slots)
        for row in rows
    )
    return 100 * wrong / len(rows)
