#!/usr/bin/env python3
"""Times a training epoch over stored features against on-the-fly encoding.

Both are the same command but for one key, run one after the other on the
same machine; the figure is the ratio. An epoch includes its validation.

> python benchmarks/epoch_time.py
> python benchmarks/epoch_time.py --data_folder=/path/to/corpus

What is not known here goes to train.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def epoch_seconds(folder, epochs, overrides, stored):
    """Seconds of an epoch: a run's training time by its epochs."""
    output = Path(folder) / f"stored_{stored}"
    command = [
        sys.executable,
        "train.py",
        "hparams/baseline.yaml",
        f"--output_folder={output}",
        f"--feature_folder={folder}/features",
        f"--store_features={stored}",
        f"--number_of_epochs={epochs}",
        *overrides,
    ]
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    metrics = json.loads((output / "metrics.json").read_text())
    return metrics["seconds"]["train"] / epochs, metrics


def main():
    """Runs both and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stored-epochs", type=int, default=10)
    parser.add_argument("--on-the-fly-epochs", type=int, default=2)
    arguments, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        stored, metrics = epoch_seconds(
            folder, arguments.stored_epochs, overrides, True
        )
        on_the_fly, _ = epoch_seconds(
            folder, arguments.on_the_fly_epochs, overrides, False
        )
    print(
        f"\n{metrics['n_train']} training utterances, {os.cpu_count()} cores\n"
        f"stored features  {stored:8.2f} s an epoch "
        f"(once: {metrics['seconds']['features']:.1f} s to compute them)\n"
        f"on the fly       {on_the_fly:8.2f} s an epoch\n"
        f"ratio            {on_the_fly / stored:8.1f}"
    )


if __name__ == "__main__":
    main()
