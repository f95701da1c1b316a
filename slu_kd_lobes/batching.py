"""Batches of utterances of similar length."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from speechbrain.dataio.sampler import DynamicBatchSampler


def bucketed_batches(lengths, batch_size, seed, max_buckets=8):
    """Random batches of one size, each out of one bucket of lengths.

    Arguments
    ---------
    lengths : list
        Length of each item.
    batch_size : int
        Items in a batch.
    seed : int
        Seed of the shuffling; the epoch is added to it.
    max_buckets : int
        Number of buckets. Smaller sets get fewer, at least 16 batches each,
        so that bucketing adds next to no incomplete batches.

    Returns
    -------
    speechbrain.dataio.sampler.DynamicBatchSampler
        Yields lists of indices; ``set_epoch`` shuffles anew.

    Example
    -------
    >>> sampler = bucketed_batches([3, 5, 4, 9], batch_size=3, seed=0)
    >>> sorted(len(batch) for batch in sampler)
    [1, 3]
    """
    lengths = [int(length) for length in lengths]
    buckets = min(max_buckets, max(1, len(lengths) // (16 * batch_size)))
    shares = np.linspace(0, 1, buckets + 1)[1:]
    bounds = np.unique(np.quantile(lengths, shares, method="higher"))
    return DynamicBatchSampler(
        lengths,  # only its size is used
        # Never the limit: the number of items is.
        max_batch_length=int(bounds[-1]) * batch_size,
        bucket_boundaries=bounds.tolist(),
        lengths_list=lengths,
        max_batch_ex=batch_size,
        seed=seed,
    )


@dataclass
class UtteranceBatch:
    """What the student needs of a batch of utterances.

    Arguments
    ---------
    indices : list
        Place of each utterance in its data set.
    inputs : torch.Tensor
        Encoder features, [batch, frames, channels], or waveforms,
        [batch, samples].
    lengths : torch.Tensor
        Frames, or relative lengths of waveforms, [batch].
    targets : torch.Tensor
        True value of each slot, [batch, slots].
    teacher_rows : torch.Tensor
        Row of each teacher's table, [batch, teachers].

    Example
    -------
    >>> zeros = torch.zeros(1, 2)
    >>> batch = UtteranceBatch([0], zeros, torch.ones(1), zeros, zeros)
    >>> batch.to("cpu").inputs.shape
    torch.Size([1, 2])
    """

    indices: list
    inputs: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor
    teacher_rows: torch.Tensor

    def to(self, device):
        """Returns the batch on a device."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in fields(self)
            if field.name != "indices"
        }
        return replace(self, **moved)


class UtteranceDataset(torch.utils.data.Dataset):
    """Utterances that are read a batch at a time.

    Arguments
    ---------
    ids : list
        Name of each utterance.
    read : callable
        Given indices, returns inputs and lengths of a batch.
    targets : torch.Tensor
        True value of each slot, [utterances, slots].
    teacher_rows : torch.Tensor
        Row of each teacher's table, [utterances, teachers].
    lengths : list
        Length of each utterance in any unit, for the buckets.

    Example
    -------
    >>> def read(indices):
    ...     return torch.zeros(len(indices), 5, 1), torch.full(
    ...         (len(indices),), 5
    ...     )
    >>> data = UtteranceDataset(
    ...     ids=["a", "b"],
    ...     read=read,
    ...     targets=torch.tensor([[0], [1]]),
    ...     teacher_rows=torch.zeros(2, 0, dtype=torch.long),
    ...     lengths=[5, 5],
    ... )
    >>> for batch in data.loader(batch_size=2):
    ...     batch.targets.tolist()
    [[0], [1]]
    """

    def __init__(self, ids, read, targets, teacher_rows, lengths):
        self.ids = ids
        self.read = read
        self.targets = targets
        self.teacher_rows = teacher_rows
        self.lengths = lengths

    def __len__(self):
        return len(self.ids)

    def __getitems__(self, indices):
        inputs, lengths = self.read(indices)
        return UtteranceBatch(
            indices,
            inputs,
            lengths,
            self.targets[indices],
            self.teacher_rows[indices],
        )

    def loader(self, batch_size, seed=None, num_workers=0):
        """A loader of batches.

        Arguments
        ---------
        batch_size : int
            Utterances in a batch.
        seed : int or None
            Seed of the shuffling; None keeps the order of the lengths, which
            pads least.
        num_workers : int
            Processes that read ahead.

        Returns
        -------
        torch.utils.data.DataLoader
        """
        if seed is not None:
            batches = bucketed_batches(self.lengths, batch_size, seed)
        else:
            order = np.argsort(self.lengths, kind="stable").tolist()
            batches = [
                order[i : i + batch_size]
                for i in range(0, len(order), batch_size)
            ]
        return torch.utils.data.DataLoader(
            self,
            batch_sampler=batches,
            collate_fn=_as_it_is,
            num_workers=num_workers,
        )


def _as_it_is(batch):
    return batch
