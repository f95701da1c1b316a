#!/usr/bin/env python3
"""Times two versions of this project side by side, in one run.

An epoch of training at the size of Fluent Speech Commands on stored features,
and the answer to one command on one core. The versions take turns. A machine
that others share may change its speed by the second, so before and after each
training step and each command the same small GRU runs, and the time is told in
runs of that, too.

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
CLOCK = """
import importlib, json, os, runpy, statistics, sys, time
import speechbrain, torch

class Clock:
    gru, noise = torch.nn.GRU(60, 128, batch_first=True), torch.randn(1, 60, 60)

    def __init__(self):
        self.seconds, self.ratios = [], []

    @torch.no_grad()
    def start(self):
        start = time.perf_counter()
        for _ in range(4):
            self.gru(self.noise)
        self.started = time.perf_counter()
        self.yard = self.started - start

    def stop(self):
        seconds, before = time.perf_counter() - self.started, self.yard
        self.start()
        self.seconds.append(seconds)
        self.ratios.append(2 * seconds / (before + self.yard))

clock = Clock()
"""
LATENCY = (
    CLOCK
    + """
import slu_kd_lobes
torch.set_num_threads(1)
package, audio = sys.argv[1:]
folder = os.path.dirname(slu_kd_lobes.__file__)
name = "slu_kd_lobes.inference.classifier"
if not os.path.isdir(os.path.join(folder, "inference")):  # before version 0.2
    name = "slu_kd_lobes.interface"
model = importlib.import_module(name).SpokenIntentClassifier.from_hparams(source=package)
wavs = torch.load(audio, weights_only=True)
for wav in wavs[:20]:
    model.classify_batch(wav.unsqueeze(0))
clock.start()
for wav in 3 * wavs:
    model.classify_batch(wav.unsqueeze(0))
    clock.stop()
seconds, ratios = map(statistics.median, (clock.seconds, clock.ratios))
print(json.dumps([1e3 * seconds, ratios]))
"""
)
TRAINING = (
    CLOCK
    + """
take_step = speechbrain.Brain.optimizers_step

def timed_step(brain):
    take_step(brain)
    # What is before the first step of an epoch is no step.
    clock.start() if brain.step == 1 else clock.stop()

speechbrain.Brain.optimizers_step = timed_step
epochs = int(sys.argv.pop(1))
sys.path.insert(0, os.path.dirname(os.path.realpath("train.py")))
runpy.run_path("train.py", run_name="__main__")
seconds, ratios = sum(clock.seconds) / epochs, sum(clock.ratios) / epochs
print(json.dumps([seconds, ratios]))
"""
)


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


def train(checkout, folder, corpus, epochs):
    """Seconds and yardsticks of an epoch; the stores are filled on the way."""
    return run(
        checkout,
        "-c",
        TRAINING,
        str(epochs),
        CONFIG,
        f"--data_folder={corpus}",
        f"--output_folder={folder}/run",
        f"--feature_folder={folder}/features",
        f"--teacher_folder={folder}/teachers",
        f"--number_of_epochs={epochs}",
        "--device=cpu",
        threads=os.cpu_count(),
    )


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
    found = {name: {"an epoch": [], "a command": []} for name in versions}
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
            epoch = train(checkout, place, corpus, epochs)
            package = folder / name / "package"
            if not package.exists():
                where = ".inference" if name == "this" else ""
                code = (
                    f"from slu_kd_lobes{where}.package import package_run; "
                    "package_run(*__import__('sys').argv[1:])"
                )
                run(checkout, "-c", code, place / "run", package, threads=1)
            answer = run(
                checkout, "-c", LATENCY, str(package), str(audio), threads=1
            )
            epoch, answer = json.loads(epoch), json.loads(answer)
            if number:  # the first round fills the stores
                found[name]["an epoch"].append(epoch)
                found[name]["a command"].append(answer)
            print(
                f"round {number}, {name}: {epoch[0]:.2f} s, {answer[0]:.1f} ms; "
                f"{epoch[1]:.0f} and {answer[1]:.3f} times the small GRU",
                flush=True,
            )
    print(f"\n| medians of {options.rounds} rounds | this | other | ratio |")
    print("|---|---:|---:|---:|")
    for title in ("an epoch", "a command"):
        unit = "s" if title == "an epoch" else "ms, one thread"
        for i, what in enumerate((unit, "in small GRUs")):
            this, other = (
                statistics.median(row[i] for row in found[name][title])
                for name in versions
            )
            print(
                f"| {title}, {what} | {this:.2f} | {other:.2f} "
                f"| {this / other:.3f} |"
            )


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
