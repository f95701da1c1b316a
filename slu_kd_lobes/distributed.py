"""What training over several processes needs beside SpeechBrain's Brain."""

import torch
from speechbrain.utils.distributed import is_distributed_initialized


def rank_and_processes():
    """Number of this process, and how many there are.

    Returns
    -------
    rank : int
    processes : int

    Example
    -------
    >>> rank_and_processes()
    (0, 1)
    """
    if not is_distributed_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def sum_over_processes(x):
    """Sum of a tensor that every process has.

    Arguments
    ---------
    x : torch.Tensor
        Without gradient; it is not changed.

    Returns
    -------
    torch.Tensor
        The shape of x, the same in every process.

    Example
    -------
    >>> sum_over_processes(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    if is_distributed_initialized():
        x = x.clone()
        torch.distributed.all_reduce(x)
    return x


def part_of_batch(indices, rank, processes):
    """One process's equal part of a batch.

    Arguments
    ---------
    indices : list
        Utterances of the whole batch.
    rank : int
        Number of this process.
    processes : int
        Number of processes.

    Returns
    -------
    part : list
        As many utterances in every process; the last one of the batch fills
        up what does not divide.
    size : int
        How many of them, from the first, count.

    Example
    -------
    >>> [part_of_batch([5, 6, 7], rank, 2) for rank in (0, 1)]
    [([5, 6], 2), ([7, 7], 1)]
    """
    length = -(-len(indices) // processes)
    part = indices[rank * length : (rank + 1) * length]
    return part + indices[-1:] * (length - len(part)), len(part)
