"""Batches of utterances of similar length."""

from dataclasses import dataclass

import numpy as np
import torch

from slu_kd_lobes.distributed import part_of_batch, rank_and_processes


class LengthBatches:
    """Random batches of utterances of similar length, all but one full.

    In every epoch each length is multiplied by a random factor, the utterances
    are sorted by that, cut into batches, and the batches shuffled. So an
    utterance keeps changing company and little is padded, however small the
    set: SpeechBrain's DynamicBatchSampler leaves an incomplete batch in every
    bucket.

    Arguments
    ---------
    lengths : list
        Length of each item.
    batch_size : int
        Items in a batch.
    seed : int
        Seed of the shuffling; the epoch is added to it.
    spread : float
        The random factors are from 1 - spread to 1 + spread.

    Example
    -------
    >>> batches = LengthBatches([30, 50, 31, 90], batch_size=2, seed=0)
    >>> sorted(sorted(batch) for batch in batches)
    [[0, 2], [1, 3]]
    """

    def __init__(self, lengths, batch_size, seed, spread=0.1):
        self.lengths = np.asarray(lengths, dtype=np.float64)
        self.batch_size = batch_size
        self.seed = seed
        self.spread = spread
        self.epoch = 0

    def set_epoch(self, epoch):
        """Shuffles anew; the same epoch gives the same batches."""
        self.epoch = epoch

    def __len__(self):
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self):
        rng = np.random.default_rng([self.seed, self.epoch])
        factors = rng.uniform(
            1 - self.spread, 1 + self.spread, len(self.lengths)
        )
        order = np.argsort(self.lengths * factors).tolist()
        for number in rng.permutation(len(self)).tolist():
            start = number * self.batch_size
            yield order[start : start + self.batch_size]


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
    size : int
        Utterances that count; any after them only fill a process's part.
    total : int
        Utterances of the batch in all processes.
    encoded : bool
        Whether the inputs are features.

    Example
    -------
    >>> zeros = torch.zeros(1, 2)
    >>> batch = UtteranceBatch([0], zeros, torch.ones(1), zeros, zeros, 1, 1)
    >>> batch.to("cpu").inputs.shape
    torch.Size([1, 2])
    """

    indices: list
    inputs: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor
    teacher_rows: torch.Tensor
    size: int
    total: int
    encoded: bool = False

    def to(self, device):
        """Moves the batch to a device, in place as SpeechBrain's batches."""
        for field in ("inputs", "lengths", "targets", "teacher_rows"):
            moved = getattr(self, field).to(device, non_blocking=True)
            setattr(self, field, moved)
        return self


class UtteranceDataset(torch.utils.data.Dataset):
    """Utterances that are read a batch at a time.

    Arguments
    ---------
    ids : list
        Name of each utterance.
    read : callable
        Given indices and the length of the longest utterance in any process,
        returns inputs and lengths of a batch.
    targets : torch.Tensor
        True value of each slot, [utterances, slots].
    teacher_rows : torch.Tensor
        Row of each teacher's table, [utterances, teachers].
    lengths : list
        Length of each utterance in any unit, for the batches.
    encoded : bool
        Whether `read` gives features; otherwise waveforms.

    Example
    -------
    >>> def read(indices, size):
    ...     return torch.zeros(len(indices), size, 1), torch.full(
    ...         (len(indices),), size
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

    def __init__(
        self, ids, read, targets, teacher_rows, lengths, encoded=False
    ):
        self.ids = ids
        self.read = read
        self.targets = targets
        self.teacher_rows = teacher_rows
        self.lengths = torch.as_tensor(lengths).tolist()
        self.encoded = encoded

    def __len__(self):
        return len(self.ids)

    def loader(self, batch_size, seed=None, num_workers=0):
        """A loader of batches.

        Arguments
        ---------
        batch_size : int
            Utterances in a batch, all processes together.
        seed : int or None
            Seed of the shuffling, for training: under torch.distributed each
            process gets its part of every batch. None keeps the order of the
            lengths, which pads least, and gives all processes everything.
        num_workers : int
            Processes that read ahead.

        Returns
        -------
        torch.utils.data.DataLoader
        """
        rank, processes = 0, 1
        if seed is not None:
            batches = LengthBatches(self.lengths, batch_size, seed)
            rank, processes = rank_and_processes()
        else:
            order = np.argsort(self.lengths, kind="stable").tolist()
            batches = [
                order[i : i + batch_size]
                for i in range(0, len(order), batch_size)
            ]
        return torch.utils.data.DataLoader(
            _Parts(self, rank, processes),
            batch_sampler=batches,
            collate_fn=_as_it_is,
            num_workers=num_workers,
        )


class _Parts(torch.utils.data.Dataset):
    """Reads one process's part of every batch."""

    def __init__(self, dataset, rank, processes):
        self.dataset = dataset
        self.rank = rank
        self.processes = processes

    def __len__(self):
        return len(self.dataset)

    def __getitems__(self, indices):
        data = self.dataset
        part, size = part_of_batch(indices, self.rank, self.processes)
        # Padded as in one process, so that dropout draws the same numbers.
        longest = max(data.lengths[index] for index in indices)
        inputs, lengths = data.read(part, longest)
        return UtteranceBatch(
            part,
            inputs,
            lengths,
            data.targets[part],
            data.teacher_rows[part],
            size=size,
            total=len(indices),
            encoded=data.encoded,
        )


def _as_it_is(batch):
    return batch
