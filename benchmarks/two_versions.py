#!/usr/bin/env python3
"""Times two versions of this project side by side, in one run.

An epoch of training at the size of Fluent Speech Commands on stored features,
and the answer to one command on one core. The versions take turns, so that a
machine that slows down slows down both.

> git worktree add /tmp/before bf07c29
> python benchmarks/two_versions.py --other /tmp/before
> python benchmarks/two_versions.py --other /tmp/before --scale 0.05 --rounds 2
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "hparams/distill_teacher_mae_exp.yaml"
LATENCY = """
import importlib, json, os, statistics, sys, time
import slu_kd_lobes, torch
torch.set_num_threads(1)
package, audio = sys.argv[1:]
folder = os.path.dirname(slu_kd_lobes.__file__)
name = "slu_kd_lobes.inference.classifier"
if not os.path.isdir(os.path.join(folder, "inference")):  # before version 0.2
    name = "slu_kd_lobes.interface"
module = importlib.import_module(name)
model = module.SpokenIntentClassifier.from_hparams(source=package)
wavs = torch.load(audio, weights_only=True)
seconds = []
for wav in wavs[:20] + wavs:
    start = time.perf_counter()
    model.classify_batch(wav.unsqueeze(0))
    seconds.append(time.perf_counter() - start)
print(json.dumps(1e3 * statistics.median(seconds[20:])))
"""


def run(checkout, *command, threads):
    """Runs Python on the code of a checkout; returns what it printed last."""
    variables = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=checkout,
        env={**os.environ, **variables, "HF_HUB_OFFLINE": "1"},
        text=True,
        capture_output=True,
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout.strip().splitlines()[-1] if done.stdout else ""


def epoch_seconds(checkout, folder, corpus, epochs):
    """Median time of a training epoch; the store is filled on the way."""
    run(
        checkout,
        "train.py",
        CONFIG,
        f"--data_folder={corpus}",
        f"--output_folder={folder}/run",
        f"--feature_folder={folder}/features",
        f"--teacher_folder={folder}/teachers",
        f"--number_of_epochs={epochs}",
        "--device=cpu",
        threads=os.cpu_count(),
    )
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    return metrics["seconds"]["train_epoch"]


def main():
    """Measures in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5, help="in a round")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or ROOT / "results" / "two_versions"
    folder = folder.resolve() / f"{options.scale:g}"
    corpus = folder / "corpus"
    standin = str(ROOT / "benchmarks" / "standin.py")
    arguments = [f"--folder={corpus}", f"--scale={options.scale}"]
    run(ROOT, standin, *arguments, threads=os.cpu_count())
    versions = {"this": ROOT, "other": options.other.resolve()}
    audio = folder / "audio.pt"
    save_audio(audio)
    seconds = {name: [] for name in versions}
    milliseconds = {name: [] for name in versions}
    for number in range(options.rounds + 1):
        for name, checkout in versions.items():
            place = folder / name / str(number)
            place.mkdir(parents=True, exist_ok=True)
            for store in ("features", "teachers"):  # of the first round
                if not (place / store).exists():
                    (folder / name / store).mkdir(exist_ok=True)
                    (place / store).symlink_to(folder / name / store)
            shutil.rmtree(place / "run", ignore_errors=True)  # of a stop
            epochs = options.epochs if number else 1
            found = epoch_seconds(checkout, place, corpus, epochs)
            package = folder / name / "package"
            if not package.exists():
                command = "from slu_kd_lobes{}.package import package_run"
                where = ".inference" if name == "this" else ""
                code = f"{command.format(where)}; package_run(*__import__('sys').argv[1:])"
                run(checkout, "-c", code, place / "run", package, threads=1)
            answer = run(
                checkout, "-c", LATENCY, str(package), str(audio), threads=1
            )
            if number:  # the first round fills the stores
                seconds[name].append(found)
                milliseconds[name].append(float(answer))
            print(f"round {number}, {name}: {found:.2f} s, {answer} ms")
    print(f"\n| {options.rounds} rounds | this | other | ratio |")
    print("|---|---:|---:|---:|")
    for title, found in (
        ("s an epoch", seconds),
        ("ms a command, one thread", milliseconds),
    ):
        this, other = (statistics.median(found[name]) for name in versions)
        print(f"| {title} | {this:.2f} | {other:.2f} | {this / other:.3f} |")


def save_audio(path, count=100):
    """Keeps some commands of the bundled corpus, read once."""
    import torch

    from slu_kd_lobes.data.audio import read_waveform
    from slu_kd_lobes.utils.environment import bundled

    files = sorted(Path(bundled("data/synthetic-commands")).rglob("*.ogg"))
    step = len(files) // count
    wavs = [read_waveform(file, 16000) for file in files[::step][:count]]
    torch.save(wavs, path)


if __name__ == "__main__":
    main()
