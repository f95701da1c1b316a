"""Random numbers that depend on the seed and the place in training alone.

Every training step begins with a seed of its own, so a student draws the same
numbers whether it trains alone or beside others, after a restart, or spread
over several processes.
"""

import threading

import numpy as np
import torch

from slu_kd_lobes.distributed import rank_and_processes

_thread = threading.local()  # the generators of this thread, by device


def seed_step(seed, epoch, step, stream=0):
    """Seeds one training step.

    It seeds torch as a whole, and `Dropout` in this thread alone, so that
    students can train in several threads.

    Arguments
    ---------
    seed : int
        Seed of the run, at least 0.
    epoch : int
        Epoch, counted from 1.
    step : int
        Step within the epoch.
    stream : int
        Different numbers for different uses in the same step.

    Example
    -------
    >>> seed_step(1234, epoch=2, step=7)
    >>> first = torch.rand(1)
    >>> seed_step(1234, epoch=2, step=7)
    >>> bool(torch.rand(1) == first)
    True
    """
    mixed = np.random.SeedSequence([seed, epoch, step, stream])
    _thread.seed = int(mixed.generate_state(1, np.uint64)[0] >> 1)
    _thread.generators = {}
    # What torch.manual_seed does, but for a stack trace of each call.
    torch.default_generator.manual_seed(_thread.seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(_thread.seed)


def _generator(device):
    """What `Dropout` draws from; None, torch's own, in an unseeded thread."""
    if not hasattr(_thread, "seed"):
        return None
    if device not in _thread.generators:
        generator = torch.Generator(device).manual_seed(_thread.seed)
        _thread.generators[device] = generator
    return _thread.generators[device]


class Dropout(torch.nn.Module):
    """Dropout that is the same however a batch is spread over processes.

    Under torch.distributed every process draws the noise of the whole batch
    and takes its own rows, the processes holding equal parts of it in the
    order of their ranks. Sixteen random bits decide each value, because a CPU
    draws them several times faster than the Bernoulli numbers of
    `torch.nn.Dropout`.

    Arguments
    ---------
    p : float
        Probability of a zero, at least 0 and below 1; rounded to 1 / 65,536.

    Raises
    ------
    ValueError
        If the probability is out of range.

    Example
    -------
    >>> dropout = Dropout(0.5)
    >>> sorted(set(dropout(torch.ones(1000)).tolist()))
    [0.0, 2.0]
    >>> dropout.eval()(torch.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, p):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout {p} must be at least 0 and below 1")
        self.p = p
        # Of the 65,536 values of 16 bits, those that make a zero.
        self.zeros = min(round(p * 2**16), 2**16 - 1)

    def forward(self, x):
        """Returns x with some values zero and the others scaled.

        Arguments
        ---------
        x : torch.Tensor
            [batch, ...].

        Returns
        -------
        torch.Tensor
            The shape of x.
        """
        if not self.training or self.p == 0:
            return x
        rank, processes = rank_and_processes()
        size = x.numel()
        # Four values a word.
        words = torch.empty(
            -(-processes * size // 4), dtype=torch.int64, device=x.device
        ).random_(-(2**63), None, generator=_generator(x.device))
        noise = words.view(torch.int16)[rank * size : (rank + 1) * size]
        kept = noise.view(x.shape) >= self.zeros - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - self.zeros))

    def extra_repr(self):
        """What `print` shows beside the name."""
        return f"p={self.p}"
