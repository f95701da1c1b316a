#!/usr/bin/env python3
"""Times the extraction of encoder features against the encoder alone.

`stored`: a feature store fills an empty folder with a manifest's features, as
a first training does. `forward`: the encoder's forward pass on ready batches
in memory, the least that any extraction takes. The forward pass is measured
on batches that are evenly spaced over the store's own (shortest to longest,
about 2,000 utterances) and scaled up by their padded seconds of audio.

> python benchmarks/extraction.py stored --manifest train.csv \
>     --corpus CORPUS --json out.json
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from speechbrain.utils.data_utils import batch_pad_right

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.data.feature_store import FeatureStore, _batches_of
from slu_kd_lobes.students.sincnet import SincNetEncoder
from slu_kd_lobes.utils.environment import bundled, peak_memory_mb
from slu_kd_lobes.utils.files import write_json

SAMPLE_RATE = 16000
SAMPLED_UTTERANCES = 2000


def bundled_encoder():
    """The frozen encoder that comes with the project, in eval mode.

    Returns
    -------
    SincNetEncoder
    """
    encoder = SincNetEncoder()
    path = Path(bundled("pretrained/sincnet-read-speech")) / "encoder.ckpt"
    encoder.load_state_dict(torch.load(path, weights_only=True))
    return encoder.requires_grad_(False).eval()


def read_manifest(path, corpus):
    """Paths and durations of a manifest's audio files.

    Arguments
    ---------
    path : str
        The training manifest of train.py, or the folder that it is in.
    corpus : str
        What `$data_root` stands for in it.

    Returns
    -------
    wavs : list
    durations : list
        In seconds.
    """
    if Path(path).is_dir():
        (path,) = Path(path).glob("*/train.csv")
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    wavs = [row["wav"].replace("$data_root", corpus) for row in rows]
    return wavs, [float(row["duration"]) for row in rows]


def time_store(wavs, durations, folder):
    """Seconds that a feature store needs to fill an empty folder.

    Arguments
    ---------
    wavs : list
    durations : list
    folder : str
        Where the store goes for the time of the measurement.

    Returns
    -------
    dict
    """
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        store = FeatureStore(empty, bundled_encoder())
        start = time.perf_counter()
        store.load(wavs, durations)
        return {"seconds": time.perf_counter() - start}


@torch.inference_mode()
def time_forward(wavs, durations, folder):
    """Seconds of the encoder's forward pass on the store's batches.

    Arguments
    ---------
    wavs : list
    durations : list
    folder : str
        Not written to.

    Returns
    -------
    dict
    """
    encoder = bundled_encoder()
    order = np.argsort(durations, kind="stable")
    ordered = [durations[i] for i in order]
    batches = _batches_of(ordered, FeatureStore(folder, encoder).batch_seconds)
    share = min(1, SAMPLED_UTTERANCES / len(wavs))
    count = max(1, int(share * len(batches)))
    places = np.linspace(0, len(batches) - 1, count).round().astype(int)
    ready = [
        batch_pad_right(
            [read_waveform(wavs[order[i]], SAMPLE_RATE) for i in batches[place]]
        )
        for place in places
    ]
    encoder(*ready[0])
    start = time.perf_counter()
    for wav, lengths in ready:
        encoder(wav, lengths)
    seconds = time.perf_counter() - start
    padded = sum(ordered[batch[-1]] * len(batch) for batch in batches)
    measured = sum(wav.numel() for wav, _ in ready) / SAMPLE_RATE
    return {
        "seconds": seconds * padded / measured,
        "measured_batches": count,
        "batches": len(batches),
    }


def main():
    """Takes one of the times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    times = {"stored": time_store, "forward": time_forward}
    parser.add_argument("what", choices=times)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    wavs, durations = read_manifest(arguments.manifest, arguments.corpus)
    figures = times[arguments.what](wavs, durations, arguments.json.parent)
    figures["peak_memory_mb"] = peak_memory_mb()
    write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
