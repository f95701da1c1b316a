#!/usr/bin/env python3
"""Times the preparation of corpora of many rows, and measures its memory.

Each corpus has the rows of the bundled one again and again, every one with a
file of its own name: a link to one of a few recordings, so that a million take
no room. What a first look at a million files on a disk costs is not measured.

> python benchmarks/preparation.py
> python benchmarks/preparation.py --rows 1000000 --folder /tmp
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speechbrain.dataio import audio_io

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.utils.environment import bundled, peak_memory_mb
from slu_kd_lobes.utils.files import read_csv

RECIPE = Path(__file__).parents[1] / "recipes" / "fluent-speech-commands"
SHARES = {"train": 0.77, "valid": 0.1, "test": 0.13}  # as FSC
SLOTS = ["action", "object", "location"]
RECORDINGS = 100  # of each split; a file can have about 65,000 names
FILES = 1000  # in a folder


def make_corpus(folder, size):
    """Writes CSV files of a size, and links in place of audio.

    Arguments
    ---------
    folder : Path
        An empty folder.
    size : int
        Rows of all splits together.
    """
    source = Path(bundled("data/synthetic-commands"))
    (folder / "data").mkdir()
    for split, share in SHARES.items():
        rows = read_csv(source / "data" / f"{split}_data.csv")
        for i, row in enumerate(rows[:RECORDINGS]):
            wav = read_waveform(source / row["path"], 16000)
            audio_io.save(folder / f"{split}-{i}.wav", wav, 16000)
        path = folder / "data" / f"{split}_data.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            for i in range(round(share * size)):
                row = rows[i % len(rows)]
                name = f"wavs/{split}/{i // FILES:05d}/{i:08d}.wav"
                if i % FILES == 0:
                    (folder / name).parent.mkdir(parents=True)
                os.link(folder / f"{split}-{i % RECORDINGS}.wav", folder / name)
                writer.writerow({**row, "path": name})


def measure(corpus):
    """Prepares a corpus twice.

    Arguments
    ---------
    corpus : Path

    Returns
    -------
    dict
        Seconds, seconds of the processor, MB; ``again``, the seconds of a
        preparation that finds nothing changed; ``start_mb``, the memory before.
    """
    sys.path.insert(0, str(RECIPE))
    from prepare import prepare_fsc

    figures = {"start_mb": peak_memory_mb()}
    for name in ("seconds", "again"):
        start, busy = time.perf_counter(), time.process_time()
        prepare_fsc(corpus, corpus / "manifests", SLOTS)
        figures[name] = time.perf_counter() - start
        figures[f"{name}_cpu"] = time.process_time() - busy
        figures.setdefault("mb", peak_memory_mb())
    return figures


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1000, 10000, 100000]
    )
    parser.add_argument("--folder", help="where the corpora are for a time")
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.corpus:
        print(json.dumps(measure(arguments.corpus)))
        return
    print("| rows | s | CPU s | CPU ms a row | again, s | MB | KB a row |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for size in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            make_corpus(Path(folder), size)
            # In a process of its own, which starts with its own memory alone.
            command = [sys.executable, __file__, f"--corpus={folder}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {size:,} | {found['seconds']:.1f} | {found['seconds_cpu']:.1f} "
            f"| {1000 * found['seconds_cpu'] / size:.2f} "
            f"| {found['again']:.1f} | {found['mb']:,} "
            f"| {1024 * (found['mb'] - found['start_mb']) / size:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
