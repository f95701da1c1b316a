"""Data sets whose utterances are read a batch at a time, by length."""

from types import SimpleNamespace

import numpy as np
import torch
from speechbrain.dataio.sampler import DynamicBatchSampler

#: Full batches of a bucket, at least: each bucket ends with an incomplete one.
BATCHES_A_BUCKET = 4


class Batch(SimpleNamespace):
    """Fields of the utterances of a batch; SpeechBrain moves them by `to`.

    Example
    -------
    >>> batch = Batch(indices=[0], logits={"teacher": torch.zeros(1, 2)})
    >>> batch.to("meta").logits["teacher"].device
    device(type='meta')
    """

    def to(self, device):
        """Moves all tensors to a device, in place as SpeechBrain's batches."""
        for name, value in vars(self).items():
            setattr(self, name, _move(value, device))
        return self


def _move(value, device):
    if isinstance(value, dict):
        return {name: _move(part, device) for name, part in value.items()}
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    return value


class UtteranceDataset(torch.utils.data.Dataset):
    """Utterances with what is known of each.

    Arguments
    ---------
    ids : list
        Name of each utterance.
    inputs : StoredFeatures or Waveforms
        What the student hears; see :mod:`slu_kd_lobes.data.features`.
    **columns : torch.Tensor or dict of torch.Tensor
        What else a batch has, [utterances, ...]; a mapping gives a mapping.

    Example
    -------
    >>> from slu_kd_lobes.data.features import StoredFeatures
    >>> data = UtteranceDataset(
    ...     ["a", "b"],
    ...     StoredFeatures(
    ...         [torch.rand(5, 1)],
    ...         shard=torch.tensor([0, 0]),
    ...         starts=torch.tensor([0, 2]),
    ...         lengths=torch.tensor([2, 3]),
    ...     ),
    ...     targets=torch.tensor([[7], [8]]),
    ...     teacher_logits={"professor": torch.tensor([[0.5], [0.6]])},
    ... )
    >>> batch = data.__getitems__([1])
    >>> batch.inputs.shape, batch.targets, batch.teacher_logits["professor"]
    (torch.Size([1, 3, 1]), tensor([[8]]), tensor([[0.6000]]))
    """

    def __init__(self, ids, inputs, **columns):
        self.ids = ids
        self.inputs = inputs
        self.columns = columns

    def __len__(self):
        return len(self.ids)

    def __getitems__(self, indices):
        """Returns the `Batch` of some utterances, as torch's loader asks."""
        inputs, lengths = self.inputs.batch(indices)
        columns = {
            name: {key: part[indices] for key, part in column.items()}
            if isinstance(column, dict)
            else column[indices]
            for name, column in self.columns.items()
        }
        return Batch(indices=indices, inputs=inputs, lengths=lengths, **columns)

    def loader_options(
        self, batch_size, seed=None, num_workers=0, batch_frames=None
    ):
        """What SpeechBrain's `make_dataloader` needs beside the data set.

        Arguments
        ---------
        batch_size : int
            Utterances in a batch.
        seed : int or None
            Of the shuffling, for training. None keeps the order of the
            lengths, which pads least.
        num_workers : int
            Processes that read ahead.
        batch_frames : int or None
            Of the inputs of a training batch, padding counted; None is no
            limit.

        Returns
        -------
        dict
        """
        lengths = torch.as_tensor(self.inputs.lengths).tolist()
        if seed is None:
            order = np.argsort(lengths, kind="stable").tolist()
            steps = range(0, len(order), batch_size)
            batches = [order[i : i + batch_size] for i in steps]
        else:
            batches = random_batches(
                self, lengths, batch_size, seed, batch_frames
            )
        return {
            "batch_sampler": batches,
            "collate_fn": _as_it_is,
            "num_workers": num_workers,
        }


def random_batches(dataset, lengths, batch_size, seed, longest=None):
    """SpeechBrain's random batches of utterances of similar length.

    Arguments
    ---------
    dataset : torch.utils.data.Dataset
    lengths : list
        Length of each utterance, in any unit.
    batch_size : int
        Utterances in a batch; the last one of a bucket may have fewer.
    seed : int
        Of the shuffling.
    longest : int or None
        What the lengths of a batch come to, padding counted; None is no limit.

    Returns
    -------
    speechbrain.dataio.sampler.DynamicBatchSampler

    Example
    -------
    >>> batches = random_batches(range(4), [30, 50, 31, 90], 2, seed=0)
    >>> sorted(sum(batches, []))
    [0, 1, 2, 3]
    """
    buckets = max(1, len(lengths) // (BATCHES_A_BUCKET * batch_size))
    shares = np.linspace(0, 1, buckets + 1)[1:]
    ends = np.unique(np.quantile(lengths, shares, method="inverted_cdf"))
    return DynamicBatchSampler(
        dataset,
        max_batch_length=longest or batch_size * float(ends[-1]),
        max_batch_ex=batch_size,
        bucket_boundaries=ends.tolist(),
        lengths_list=lengths,
        # The sampler adds the epoch: seeds that follow one another would have
        # each other's orders.
        seed=int(np.random.SeedSequence(seed).generate_state(1)[0]),
    )


def _as_it_is(batch):
    return batch


def batches_within(durations, seconds):
    """Consecutive items whose padded length stays within a budget.

    Arguments
    ---------
    durations : list of float
        In seconds, the shortest first.
    seconds : float
        Of a batch, its padding counted.

    Returns
    -------
    list of list of int

    Example
    -------
    >>> batches_within([1.0, 1.0, 2.0, 9.0], 4.0)
    [[0, 1], [2], [3]]
    """
    batches, batch = [], []
    for index, duration in enumerate(durations):
        if batch and duration * (len(batch) + 1) > seconds:
            batches.append(batch)
            batch = []
        batch.append(index)
    return [*batches, batch]
