#!/usr/bin/env python3
"""Shows where the time of training, or of extraction, goes.

Runs train.py on the bundled corpus under torch's profiler and prints the
operators that cost most, in milliseconds a training step or a batch of the
extraction, and the time that its matrix products alone would take at the speed
of a large one. With PYTHONPATH and --checkout it profiles another version of this
project.

> python benchmarks/profile_run.py training
> python benchmarks/profile_run.py extraction
> PYTHONPATH=OTHER python benchmarks/profile_run.py training --checkout OTHER
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[1]
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


def profiled(owner, method, calls):
    """Replaces a method by one that is profiled.

    Arguments
    ---------
    owner : type
        Class with the method.
    method : str
        Its name.
    calls : list
        Gets the profile of each call.
    """
    function = getattr(owner, method)

    def run(*args, **kwargs):
        activities = [ProfilerActivity.CPU]
        with profile(activities=activities, with_flops=True) as profiler:
            result = function(*args, **kwargs)
        calls.append(profiler.key_averages())
        return result

    setattr(owner, method, run)


def count(owner, method, calls):
    """Replaces a method by one that notes each call."""
    function = getattr(owner, method)

    def run(*args, **kwargs):
        calls.append(None)
        return function(*args, **kwargs)

    setattr(owner, method, run)


def flops_a_second(size=2048, repeats=20):
    """Speed of a matrix product in single precision, the best of several.

    Arguments
    ---------
    size : int
        Rows and columns of both matrices.
    repeats : int

    Returns
    -------
    float
    """
    a, b = torch.rand(size, size), torch.rand(size, size)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def main():
    """Profiles and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["training", "extraction"])
    parser.add_argument("--checkout", type=Path, default=ROOT)
    parser.add_argument("--top", type=int, default=12)
    arguments = parser.parse_args()
    recipe = "recipes/fluent-speech-commands/logit_distillation"
    sys.path.insert(0, str(arguments.checkout.resolve() / recipe))
    os.chdir(arguments.checkout)
    import train
    from slu_kd_lobes.data.feature_store import FeatureStore
    from slu_kd_lobes.students.sincnet import SincNetEncoder

    profiles, steps = [], []
    if arguments.what == "training":
        profiled(train.SLUBrain, "_fit_train", profiles)
        count(train.SLUBrain, "fit_batch", steps)
    else:
        profiled(FeatureStore, "_encode", profiles)
        count(SincNetEncoder, "forward", steps)
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(sys.stderr):
            train.main(
                [
                    "hparams/baseline.yaml",
                    f"--output_folder={folder}/run",
                    f"--feature_folder={folder}/features",
                    "--number_of_epochs=2",
                    "--device=cpu",
                ]
            )
    # The last epoch alone: the first one warms up.
    share = len(steps) / len(profiles)
    rows = sorted(profiles[-1], key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    unit, units = ("step", "steps")
    if arguments.what == "extraction":
        unit, units = ("batch", "batches")
    print(
        f"{arguments.what}, threads: {torch.get_num_threads()}, "
        f"{share:.0f} {units}, {total / share / 1e3:.1f} ms a {unit} "
        "(with the profiler's own time)\n\n"
        f"| operator | ms a {unit} | share | calls a {unit} |\n"
        "|---|---:|---:|---:|"
    )
    for row in rows[: arguments.top]:
        print(
            f"| `{row.key}` | {row.self_cpu_time_total / share / 1e3:.2f} | "
            f"{row.self_cpu_time_total / total:.0%} | "
            f"{row.count / share:.0f} |"
        )
    products = sum(row.flops for row in rows if row.key in PRODUCTS) / share
    speed = flops_a_second()
    print(
        f"\nProducts: {products / 1e9:.2f} GFLOP a {unit}; a large one runs at "
        f"{speed / 1e9:.0f} GFLOP/s: at least {1e3 * products / speed:.1f} ms "
        f"a {unit}."
    )


if __name__ == "__main__":
    main()
