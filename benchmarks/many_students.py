#!/usr/bin/env python3
"""Counts students an hour: trained together against one after the other.

The same students, by `train.py` in a process each and by `train_many.py` in
one, with features and teachers ready; their metrics are compared too. One
thread for each worker everywhere, so that the numbers must be the same, and
once more one after the other with all threads.

> python benchmarks/many_students.py
> python benchmarks/many_students.py --students 8 --workers 2 \
>     --train_fraction=0.1 --number_of_epochs=100

What is not known here goes to both scripts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "baseline"
UNSTEADY = ("seconds", "peak_memory_mb", "commit")


def timed(script, arguments, threads):
    """Seconds of a command.

    Arguments
    ---------
    script : str
        ``train.py`` or ``train_many.py``.
    arguments : list
        Its command line.
    threads : int
        Threads of torch.

    Returns
    -------
    float
    """
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, script, f"hparams/{CONFIG}.yaml", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def main():
    """Runs both and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--students", type=int, default=4)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options, overrides = parser.parse_known_args()
    seeds = [str(seed) for seed in range(1, options.students + 1)]
    with tempfile.TemporaryDirectory() as folder:
        overrides += [f"--feature_folder={folder}/features", "--device=cpu"]

        def alone(name, seed, threads):
            places = [f"--output_folder={folder}/{name}/{seed}"]
            own = [f"--seed={seed}", *places, *overrides]
            return timed("train.py", own, threads)

        def together(name, workers, threads):
            own = ["--seeds", *seeds, f"--workers={workers}"]
            own += [f"--results={folder}/{name}", *overrides]
            return timed("train_many.py", own, threads)

        alone("warm", "0", 1)  # fills the store
        cores, workers = os.cpu_count(), options.workers
        rows = {
            "one after the other, one thread": sum(
                alone("alone", seed, 1) for seed in seeds
            ),
            f"one after the other, {cores} threads": sum(
                alone("threads", seed, cores) for seed in seeds
            ),
            "together, one worker, one thread": together("one", 1, 1),
            f"together, {workers} workers, a thread each": together(
                "many", workers, workers
            ),
        }
        metrics = [
            [
                json.loads(
                    (Path(folder) / name / seed / "metrics.json").read_text()
                )
                for seed in seeds
            ]
            for name in ("alone", f"one/{CONFIG}", f"many/{CONFIG}")
        ]
    for row in metrics:
        for own in row:
            for key in UNSTEADY:
                own.pop(key)
    first = next(iter(rows.values()))
    print(f"| {options.students} students | seconds | students an hour | |")
    print("|---|---:|---:|---:|")
    for name, seconds in rows.items():
        hourly = 3600 * options.students / seconds
        print(
            f"| {name} | {seconds:.1f} | {hourly:.0f} | {first / seconds:.2f} |"
        )
    same = all(row == metrics[0] for row in metrics)
    print(
        f"\nmetrics of the rows with one thread: {'the same' if same else 'DIFFERENT'}"
    )


if __name__ == "__main__":
    main()
