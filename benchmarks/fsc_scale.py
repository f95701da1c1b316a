#!/usr/bin/env python3
"""Times all that a run costs at the size of Fluent Speech Commands.

The corpus itself is not needed: a stand-in of its size is made from the
bundled recordings (standin.py). Every figure is taken in a process of its
own, one after the other, on the CPU. The parts that are complete in --folder
are used again, as long as neither the code nor the threads have changed; to
measure again, delete its folder `runs`.

> python benchmarks/fsc_scale.py
> python benchmarks/fsc_scale.py --reference /path/to/end-to-end-SLU
> python benchmarks/fsc_scale.py --scale 4 --only stored

It writes benchmarks/RESULTS.md with the plot and the figures beside it; with
--json FILE, only the figures to FILE.
"""

import argparse
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from peer_end_to_end_slu import check_reference
from results_page import plot_scaling, results_tables, write_page
from standin import utterances

from slu_kd_lobes.training.run_folder import one_sentence_errors
from slu_kd_lobes.utils.environment import git_commit, package_versions
from slu_kd_lobes.utils.files import check_writable, write_json
from slu_kd_lobes.utils.fingerprints import fingerprint

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CONFIG = "hparams/distill_teacher_mae_exp.yaml"
MEGABYTES = 1500  # of features and caches, at scale 1


class Steps:
    """Runs commands and keeps what they measured.

    Arguments
    ---------
    folder : Path
        Where each command gets a folder; it leaves metrics.json there.
    threads : int
        Threads of each process.
    """

    def __init__(self, folder, threads):
        self.folder = folder
        self.threads = str(threads)
        names = ("slu_kd_lobes", "recipes", "benchmarks")
        files = sorted(
            path
            for name in names
            for path in (ROOT / name).rglob("*")
            if path.suffix in (".py", ".yaml")
            # What prints the figures does not change them.
            and path.stem not in ("fsc_scale", "results_page")
        )
        self.code = fingerprint(b"".join(path.read_bytes() for path in files))

    def run(self, name, *command):
        """Runs a Python script in an empty folder, unless that is done.

        Arguments
        ---------
        name : str
            Name of the folder.
        *command : str
            The script and its arguments.

        Returns
        -------
        dict
            Its metrics.json, and `wall_seconds` of the command.

        Raises
        ------
        ValueError
            If it fails.
        """
        folder, log = self.folder / name, self.folder / f"{name}.log"
        done = folder / "step.json"
        step = {
            "command": list(command),
            "threads": self.threads,
            "code": self.code,
        }
        found = json.loads(done.read_text()) if done.is_file() else {}
        seconds = found.pop("wall_seconds", None)
        if found == step:
            print(f"{name}: as measured before, in {folder}", flush=True)
        else:
            print(f"{name}: running, see {log}", flush=True)
            seconds = self._run(folder, log, command)
            write_json(done, {**step, "wall_seconds": seconds})
        metrics = json.loads((folder / "metrics.json").read_text())
        return {**metrics, "wall_seconds": seconds}

    def _run(self, folder, log, command):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        env = {
            **os.environ,
            "OMP_NUM_THREADS": self.threads,
            "MKL_NUM_THREADS": self.threads,
            "CUDA_VISIBLE_DEVICES": "",
        }
        with open(log, "w") as out:
            start = time.perf_counter()
            result = subprocess.run(
                [sys.executable, *command],
                cwd=ROOT,
                env=env,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            seconds = time.perf_counter() - start
        if result.returncode:
            last = log.read_text().strip().splitlines() or ["no output"]
            raise ValueError(f"{folder.name} failed, see {log}: {last[-1]}")
        return seconds


def train_command(output, cold, *overrides):
    """The command that trains on the corpus, with shared stores.

    Arguments
    ---------
    output : Path
        The run's folder.
    cold : Path
        Folder of the run that filled the stores.
    *overrides : str

    Returns
    -------
    list
    """
    return [
        "train.py",
        CONFIG,
        f"--data_folder={cold.parents[1]}",
        f"--output_folder={output}",
        f"--feature_folder={cold}/features",
        f"--teacher_folder={cold}/teachers",
        f"--manifest_folder={cold}/manifests",
        # A small stand-in has too few transcripts to teach a teacher.
        "--fine_tuning={max_train_error: 100}",
        "--device=cpu",
        *overrides,
    ]


def measure(folder, scale, threads, epochs, reference=None, only=None):
    """Takes all figures.

    Arguments
    ---------
    folder : Path
        Gets the corpus and, below `runs`, what is measured on it.
    scale : float
        1 for the size of FSC.
    threads : int
        Threads of each process.
    epochs : int
        Of the run on stored features.
    reference : Path or None
        A clone of lorenlugosch/end-to-end-SLU.
    only : str or None
        ``stored`` for this project's default path alone.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If an argument cannot be used or a part fails.
    OSError
        If the disk is too small.
    """
    sizes = utterances(scale)
    if reference is not None:
        check_reference(reference)
        reference = reference.resolve()
    # In a process of its own: this one stays small, because a child counts
    # its parent's memory at the start as its own peak.
    standin = [str(HERE / "standin.py"), f"--folder={folder}"]
    made = subprocess.run([sys.executable, *standin, f"--scale={scale}"])
    if made.returncode:
        raise SystemExit(made.returncode)
    check_writable(folder, MEGABYTES * scale)

    runs = folder / "runs"
    steps = Steps(runs, threads)
    cold = runs / "cold"

    def train(name, *overrides):
        command = train_command(runs / name, cold, *overrides)
        return steps.run(name, *command)

    def script(name, file, *arguments):
        out = f"--json={runs / name / 'metrics.json'}"
        return steps.run(name, str(HERE / file), *arguments, out)

    manifest = [f"--manifest={cold / 'manifests'}", f"--corpus={folder}"]
    first = train("cold", "--number_of_epochs=1")
    extraction = script("extraction", "extraction.py", "stored", *manifest)
    forward = script("forward", "extraction.py", "forward", *manifest)
    stored = train("stored", f"--number_of_epochs={epochs}")
    figures = {
        "scale": scale,
        "utterances": sizes,
        "epochs": epochs,
        "train_epoch_seconds": {"stored": stored["seconds"]["train_epoch"]},
        "valid_epoch_seconds": stored["seconds"]["valid_epoch"],
        "run_seconds": stored["wall_seconds"],
        "peak_memory_mb": stored["peak_memory_mb"],
        "prepare_seconds": first["seconds"]["prepare"],
        "teacher_seconds": first["seconds"]["teacher"],
        "first_run_seconds": first["wall_seconds"],
        "extraction_seconds": extraction["seconds"],
        "extraction_forward_seconds": forward["seconds"],
        "extraction_peak_memory_mb": extraction["peak_memory_mb"],
        "measured_batches": {"extraction_forward": forward["measured_batches"]},
    }
    epoch, batches = figures["train_epoch_seconds"], figures["measured_batches"]
    if only == "stored":
        return figures

    variants = {
        "stored_bf16": ["--precision=bf16", "--number_of_epochs=3"],
        "stored_compiled": ["--compile", "--number_of_epochs=3"],
        "on_the_fly": ["--features=on_the_fly", "--number_of_epochs=1"],
    }
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        variants.pop("stored_compiled")  # torch.compile needs a compiler
    for name, overrides in variants.items():
        result = train(name, *overrides)
        epoch[name] = result["seconds"]["train_epoch"]
    peers = {"speechbrain_cached": ["peer_speechbrain.py", *manifest]}
    if importlib.util.find_spec("h5py") is not None:
        hdf5 = [*peers["speechbrain_cached"], "--cache=hdf5"]
        peers["speechbrain_cached_hdf5"] = hdf5
    if reference is not None:
        for variant in ("fixed", "published"):
            peers[f"reference_{variant}"] = [
                "peer_end_to_end_slu.py",
                variant,
                f"--reference={reference}",
                f"--corpus={folder}",
            ]
    for name, command in peers.items():
        result = script(name, *command)
        epoch[name] = result["train_epoch_seconds"]
        if "measured_batches" in result:
            batches[name] = result["measured_batches"]
    return figures


def shown_command(arguments):
    """The command line, without places on this machine."""
    names = {"CLONE": arguments.reference, "FOLDER": arguments.folder}
    shown = {str(place): name for name, place in names.items()}
    return "python " + shlex.join(shown.get(part, part) for part in sys.argv)


def cpu_model():
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--scale", type=float, default=1.0, help="1 for the size of FSC"
    )
    parser.add_argument(
        "--json", type=Path, help="where the figures go, and nothing else"
    )
    parser.add_argument(
        "--folder", type=Path, help="default: results/fsc_scale/<scale>"
    )
    parser.add_argument(
        "--reference", type=Path, help="clone of lorenlugosch/end-to-end-SLU"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--only", choices=["stored"], help="skips the peers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def main():
    """Takes the figures, saves them and prints them."""
    arguments = parse_arguments()
    out = arguments.json
    with one_sentence_errors():
        if arguments.threads < 1 or arguments.epochs < 1:
            raise ValueError("--threads and --epochs must be at least 1")
        folder = arguments.folder
        if folder is None:
            folder = ROOT / "results" / "fsc_scale" / f"{arguments.scale:g}"
        check_writable(HERE / "results" if out is None else out.parent)
        figures = measure(
            folder.resolve(),
            arguments.scale,
            arguments.threads,
            arguments.epochs,
            arguments.reference,
            arguments.only,
        )
    figures.update(
        {
            "threads": arguments.threads,
            "machine": {"cpu": cpu_model(), "cores": os.cpu_count()},
            "versions": package_versions(),
            "commit": git_commit(),
            "command": shown_command(arguments),
        }
    )
    print(f"\n{results_tables(figures)}\n")
    if out is not None:
        write_json(out, figures)
        print(f"figures: {out}")
        return
    results = HERE / "results"
    write_json(results / f"fsc_scale_{arguments.scale:g}.json", figures)
    saved = [
        json.loads(path.read_text())
        for path in results.glob("fsc_scale_*.json")
    ]
    plot_scaling(saved, results / "scaling.png")
    write_page(saved, HERE / "RESULTS.md")
    print(f"plot:    {results / 'scaling.png'}")
    print(f"results: {HERE / 'RESULTS.md'}")


if __name__ == "__main__":
    main()
