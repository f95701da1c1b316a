#!/usr/bin/env python3
"""Makes a stand-in for Fluent Speech Commands out of the bundled corpus.

It has the size of the real corpus (number of utterances, seconds of audio),
its folders and its CSV columns, so that anyone can measure what the real one
would cost. Each item is a bundled recording of the same split between two
random silences. Nothing can be learned from its error rates.

> python benchmarks/standin.py --folder results/fsc_scale/1 --scale 1
"""

import argparse
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
from speechbrain.dataio import audio_io
from tqdm import tqdm

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.training.run_folder import one_sentence_errors
from slu_kd_lobes.utils.environment import bundled
from slu_kd_lobes.utils.files import check_writable, write_json, write_text

VERSION = 1  # counts up when the same seed gives other files
SPLITS = {"train": 23132, "valid": 3118, "test": 3793}  # utterances of FSC
MEAN_SECONDS = 2.3
SAMPLE_RATE = 16000
# The silences are gamma distributed: mostly short, with a long tail. This
# shape gives durations a standard deviation of 0.75 s (FSC: about 0.8 s).
SILENCE_SHAPE = 0.4
NOISE = 2  # amplitude in steps of 16 bits; makes every file's content its own
MARKER = "standin.json"


def utterances(scale):
    """Number of utterances of each split.

    Arguments
    ---------
    scale : float
        1 for the size of FSC.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If a split would be empty.
    """
    if not scale > 0 or min(SPLITS.values()) * scale < 1:
        raise ValueError(
            f"a scale of {scale:g} leaves a split without utterances: choose "
            "0.001 or more"
        )
    return {split: round(size * scale) for split, size in SPLITS.items()}


def make_standin(folder, scale=1.0, seed=0):
    """Makes the corpus, unless it is there.

    Arguments
    ---------
    folder : str or Path
        Where it goes; a corpus of another scale, an unfinished one and what
        was measured on them are deleted.
    scale : float
        1 for the size of FSC.
    seed : int
        The same seed gives the same bytes.

    Raises
    ------
    ValueError
        If the scale cannot be used, or the folder holds something else.
    OSError
        If the disk is too small.
    """
    folder = Path(folder)
    sizes = utterances(scale)
    marker = {"version": VERSION, "scale": scale, "seed": seed}
    if is_finished(folder, marker):
        return
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise ValueError(
                f"{folder} holds something else than a stand-in corpus: "
                "choose another --folder"
            )
        shutil.rmtree(folder)
    megabytes = sum(sizes.values()) * MEAN_SECONDS * SAMPLE_RATE * 2 / 2**20
    check_writable(folder, megabytes)
    write_json(folder / MARKER, {**marker, "finished": False})
    progress = tqdm(
        total=sum(sizes.values()), desc="Stand-in corpus", unit="utterance"
    )
    with progress:
        for number, (split, size) in enumerate(sizes.items()):
            rng = np.random.default_rng([seed, number])
            _make_split(folder, split, size, rng, progress)
    write_json(folder / MARKER, {**marker, "finished": True})


def is_finished(folder, marker):
    """Whether a folder has the corpus that a marker describes, complete."""
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return found == {**marker, "finished": True}


def _make_split(folder, split, size, rng, progress):
    """Writes the audio of a split, and its CSV file last."""
    source = Path(bundled("data/synthetic-commands"))
    path = source / "data" / f"{split}_data.csv"
    with open(path, encoding="utf-8", newline="") as f:
        reader = csv.DictReader(f)
        columns, rows = reader.fieldnames, list(reader)
    recordings = [_read(source / row["path"]) for row in rows]
    drawn = rng.integers(len(rows), size=size)
    spoken = np.array([len(recordings[i]) for i in drawn])
    silence = rng.gamma(SILENCE_SHAPE, size=size)
    # Scaled so that the mean is right whatever was drawn.
    total = MEAN_SECONDS * SAMPLE_RATE * size - spoken.sum()
    silence = (silence * max(total, 0) / silence.sum()).astype(int)
    leading = (silence * rng.random(size)).astype(int)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for i, row in enumerate(rows[index] for index in drawn):
        wav = rng.integers(
            -NOISE, NOISE + 1, spoken[i] + silence[i], dtype=np.int16
        )
        wav[leading[i] : leading[i] + spoken[i]] += recordings[drawn[i]]
        name = f"wavs/speakers/{row['speakerId']}/{split}-{i:06d}.wav"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        audio_io.save(folder / name, wav, SAMPLE_RATE)
        writer.writerow({**row, "": i, "path": name}.values())
        progress.update()
    write_text(folder / "data" / f"{split}_data.csv", out.getvalue())


def _read(path):
    """A recording as 16-bit numbers with room for the noise."""
    limit = 2**15 - 1 - NOISE
    wav = read_waveform(path, SAMPLE_RATE).numpy() * 2**15
    return wav.clip(-limit, limit).astype(np.int16)


def main():
    """Makes the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with one_sentence_errors():
        make_standin(**vars(arguments))


if __name__ == "__main__":
    main()
