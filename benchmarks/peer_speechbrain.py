#!/usr/bin/env python3
"""Times training on features that SpeechBrain's own means have cached.

What one writes with SpeechBrain alone: `DynamicItemDataset`, the frozen
encoder in a cached dynamic item, `SaveableDataLoader` and `Brain`. The student
has the same layers as ours, the loss is the cross entropy alone. The first
epoch fills the cache; the two that follow are timed.

> python benchmarks/peer_speechbrain.py --manifest train.csv \
>     --corpus CORPUS --json out.json
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import speechbrain as sb
import torch
from extraction import SAMPLE_RATE, bundled_encoder
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.dataio.dataloader import SaveableDataLoader
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.nnet.RNN import GRU
from speechbrain.utils.data_pipeline import CachedDynamicItem, provides, takes

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.utils.environment import peak_memory_mb
from slu_kd_lobes.utils.files import write_json

SLOTS = ("action", "object", "location")


class Student(torch.nn.Module):
    """BiGRU, dropout, one logit a value and frame, maximum over time.

    Arguments
    ---------
    sizes : list
        Number of values of each slot.
    """

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.rnn = GRU(hidden_size=128, input_size=256, bidirectional=True)
        self.dropout = torch.nn.Dropout(0.5)
        self.classifier = torch.nn.Linear(256, sum(sizes))

    def forward(self, features, lengths):
        """Returns the logits of each slot.

        Arguments
        ---------
        features : torch.Tensor
            [batch, frames, 256].
        lengths : torch.Tensor
            Relative, [batch].

        Returns
        -------
        tuple
            [batch, values] each.
        """
        hidden, _ = self.rnn(features, lengths=lengths)
        logits = self.classifier(self.dropout(hidden))
        frames = (lengths * logits.shape[1]).round()
        inside = length_to_mask(frames, logits.shape[1], dtype=torch.bool)
        logits = logits.masked_fill(~inside.unsqueeze(-1), float("-inf"))
        return logits.amax(dim=1).split(self.sizes, dim=1)


class TimedBrain(sb.Brain):
    """Trains the student and takes the time of each epoch."""

    def compute_forward(self, batch, stage):
        """Returns the logits of each slot."""
        batch = batch.to(self.device)
        return self.modules.student(*batch.features)

    def compute_objectives(self, predictions, batch, stage):
        """Returns the cross entropy, summed over the slots."""
        targets = batch.targets.data.T
        return sum(map(torch.nn.functional.cross_entropy, predictions, targets))

    def on_stage_start(self, stage, epoch=None):
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Stops it."""
        self.seconds.append(time.perf_counter() - self.start)


def dataio_prep(manifest, corpus, cache):
    """Builds the data set and the number of values of each slot.

    Arguments
    ---------
    manifest : str
        The training manifest of train.py, or the folder that it is in.
    corpus : str
        What `$data_root` stands for in it.
    cache : callable
        Decorator that caches a dynamic item.

    Returns
    -------
    DynamicItemDataset
    list
    """
    if Path(manifest).is_dir():
        (manifest,) = map(str, Path(manifest).glob("*/train.csv"))
    encoder = bundled_encoder()
    labels = {slot: CategoricalEncoder() for slot in SLOTS}

    @cache
    @takes("id", "wav")
    @provides("features")
    def audio_pipeline(id, wav):
        sig = read_waveform(wav, SAMPLE_RATE)
        with torch.no_grad():
            return encoder(sig.unsqueeze(0), torch.ones(1))[0][0]

    @takes(*SLOTS)
    @provides("targets")
    def slot_pipeline(*values):
        encoded = map(CategoricalEncoder.encode_label, labels.values(), values)
        return torch.tensor(list(encoded))

    dataset = DynamicItemDataset.from_csv(
        manifest,
        replacements={"data_root": corpus},
        dynamic_items=[audio_pipeline, slot_pipeline],
    )
    for slot in SLOTS:
        labels[slot].update_from_didataset(dataset, slot)
        labels[slot].ignore_len()
    dataset.set_output_keys(["id", "features", "targets"])
    return dataset, [len(labels[slot]) for slot in SLOTS]


def cached_item(kind, folder):
    """Decorator that caches a dynamic item in a folder.

    Arguments
    ---------
    kind : str
        ``files``, one an utterance, or ``hdf5``, which needs h5py.
    folder : str

    Returns
    -------
    callable
    """
    if kind == "files":
        return CachedDynamicItem.cache(folder)
    from speechbrain.integrations.hdf5.cached_item import CachedHDF5DynamicItem

    return CachedHDF5DynamicItem.cache(folder)


def main():
    """Fills the cache, trains on it and writes the seconds of an epoch."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--cache", choices=["files", "hdf5"], default="files")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.json.parent) as folder:
        dataset, sizes = dataio_prep(
            arguments.manifest,
            arguments.corpus,
            cached_item(arguments.cache, folder),
        )
        loader = SaveableDataLoader(
            dataset, batch_size=64, shuffle=True, collate_fn=PaddedBatch
        )
        brain = TimedBrain(
            modules={"student": Student(sizes)},
            opt_class=lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
            run_opts={"device": "cpu"},
        )
        brain.seconds = []
        brain.fit(range(3), loader)
    fill, *epochs = brain.seconds
    figures = {
        "train_epoch_seconds": statistics.median(epochs),
        "fill_seconds": fill,
        "peak_memory_mb": peak_memory_mb(),
    }
    write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
