"""Continuous integrate-and-fire (CIF): one vector a token, from many frames.

Every frame has a weight; where the running sum of the weights passes a whole
number, a token ends. Frames count as much as they fill of it.

Source: Dong and Xu 2020, "CIF: Continuous Integrate-and-Fire for End-to-End
Speech Recognition", section 2.
"""

from typing import NamedTuple

import torch

#: Products of a token and a frame up to which `integrate` takes all of them.
DENSE_UP_TO = 2**12


class Fired(NamedTuple):
    """What CIF, or a rival of it, makes of frames.

    Arguments
    ---------
    vectors : torch.Tensor
        [batch, tokens, channels], zero after an item's end.
    lengths : torch.Tensor
        Tokens of each item, [batch].
    weights : torch.Tensor or None
        Of each frame before they were scaled, [batch, frames]; their sum is
        the quantity of tokens that the frames hold.
    """

    vectors: torch.Tensor
    lengths: torch.Tensor
    weights: torch.Tensor | None


class CIF(torch.nn.Module):
    """Predicts the weights of frames, and integrates the frames by them.

    Weights and vectors are of single precision under autocast, too, and the
    running sum of the weights is of double precision: a bfloat16 knows no 257,
    and the 300th token of a sum in single precision is late by some 0.0001.

    Arguments
    ---------
    input_size : int
        Channels of the frames.
    kernel_size : int
        Frames that a weight depends on, odd.
    dropout : float
    tail : float
        In inference, what is left at the end makes a token if it weighs more
        than this, and its vector is divided by that weight.

    Example
    -------
    >>> _ = torch.manual_seed(0)
    >>> cif = CIF(16).eval()
    >>> frames, lengths = torch.randn(2, 12, 16), torch.tensor([12, 7])
    >>> fired = cif(frames, lengths, torch.tensor([3, 2]))  # in training
    >>> fired.vectors.shape, fired.lengths
    (torch.Size([2, 3, 16]), tensor([3, 2]))
    >>> cif(frames, lengths).lengths  # in inference, by the weights alone
    tensor([6, 4])
    """

    def __init__(self, input_size, kernel_size=3, dropout=0.2, tail=0.5):
        super().__init__()
        self.convolution = torch.nn.Conv1d(
            input_size, input_size, kernel_size, padding=kernel_size // 2
        )
        self.dropout = torch.nn.Dropout(dropout)
        self.weight = torch.nn.Linear(input_size, 1)
        self.tail = tail

    def forward(self, frames, lengths, target_lengths=None, size=None):
        """Returns the vectors of the tokens.

        Arguments
        ---------
        frames : torch.Tensor
            [batch, frames, channels].
        lengths : torch.Tensor
            Frames of each item, [batch].
        target_lengths : torch.Tensor or None
            Tokens that each item has, [batch]: weights are scaled to them.
            None: as many as there are.
        size : int or None
            Of the longest target. None: it is found, for which the host waits.

        Returns
        -------
        Fired
        """
        order = torch.arange(frames.shape[1], device=frames.device)
        inside = order < lengths.to(frames.device).unsqueeze(1)
        weights = self.frame_weights(frames, inside)
        if target_lengths is None:
            ends = exact(weights).cumsum(1)
            whole = ends[:, -1].floor()
            left = ends[:, -1] - whole
            more = left > self.tail
            counts = (whole + more).long()
        else:
            counts = target_lengths.to(frames.device)
            ends = exact(weights).cumsum(1)
            ends = ends * (counts / (ends[:, -1] + 1e-8)).unsqueeze(1)
        if size is None:
            size = counts.max()
        vectors = integrate(frames, ends, size)
        tokens = torch.arange(size, device=frames.device)
        if target_lengths is None:
            last = more.unsqueeze(1) & (tokens == whole.unsqueeze(1))
            full = torch.where(last, left.unsqueeze(1), 1.0)
            vectors = vectors / full.to(vectors.dtype).unsqueeze(2)
        after = (tokens >= counts.unsqueeze(1)).unsqueeze(2)
        return Fired(vectors.masked_fill(after, 0), counts, weights)

    def frame_weights(self, frames, inside):
        """Returns the weight of each frame, from 0 to 1, [batch, frames].

        Arguments
        ---------
        frames : torch.Tensor
            [batch, frames, channels].
        inside : torch.Tensor
            False at padding, which weighs nothing, [batch, frames].
        """
        x = frames.masked_fill(~inside.unsqueeze(2), 0)
        x = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        x = single(self.weight(self.dropout(x)).squeeze(2))
        return x.sigmoid().masked_fill(~inside, 0)


def single(x):
    """The values in single precision, or in double if they are."""
    return x if x.dtype == torch.float64 else x.float()


def exact(x):
    """The values in double precision, where the device has it."""
    return x.float() if x.device.type == "mps" else x.double()


def integrate(frames, ends, size, dense=None):
    """Sums the frames of each token, as much of them as lies in it.

    Token u reaches from u to u + 1 of the running sum of the weights.

    Arguments
    ---------
    frames : torch.Tensor
        [batch, frames, channels].
    ends : torch.Tensor
        The running sum of the weights at the end of each frame, [batch,
        frames]; best in double precision.
    size : int or torch.Tensor
        Number of tokens.
    dense : bool or None
        Takes the products of all tokens with all frames, which is faster for
        few. None: by their number.

    Returns
    -------
    torch.Tensor
        [batch, tokens, channels].

    Example
    -------
    >>> frames = torch.tensor([[[1.0], [10.0], [100.0]]])
    >>> integrate(frames, torch.tensor([[0.5, 1.25, 2.0]]), 2).squeeze()
    tensor([ 5.5000, 77.5000])
    """
    if dense is None:  # ONNX knows no search in a sorted list
        small = size * frames.shape[1] <= DENSE_UP_TO
        dense = torch.onnx.is_in_onnx_export() or small
    with torch.autocast(frames.device.type, enabled=False):
        return (_dense if dense else _sparse)(single(frames), ends, size)


def _dense(frames, ends, size):
    """One product of matrices."""
    tokens = torch.arange(size, device=frames.device).unsqueeze(1)
    whole = ends.floor()
    # Near its token a place is the sum of two small numbers.
    places = (whole.unsqueeze(1) - tokens).to(frames.dtype)
    places = places + (ends - whole).to(frames.dtype).unsqueeze(1)
    filled = places.clamp(0, 1)  # how much of a token, [batch, tokens, frames]
    return (filled - shifted(filled)) @ frames


def shifted(x):
    """The value of the frame before, 0 for the first one."""
    return torch.nn.functional.pad(x[..., :-1], (1, 0))


def _sparse(frames, ends, size):
    """A sum of pieces: a frame has one more for each token that ends in it.

    Pieces lie between neighbours among the ends of frames and of tokens.
    """
    batch, number, channels = frames.shape
    rows = torch.arange(batch, device=frames.device).unsqueeze(1)
    tokens = torch.arange(1, size + 1, device=frames.device, dtype=ends.dtype)
    tokens = tokens.expand(batch, -1).contiguous()
    marks, source = torch.cat([ends, tokens], 1).sort(stable=True, dim=1)
    of_frame = (source < number).long()
    frame = of_frame.cumsum(1) - of_frame  # whose end comes next
    shares = (marks - shifted(marks)).masked_fill(frame == number, 0)
    frame = frame.clamp(max=number - 1) + rows * number
    before = torch.searchsorted(ends.detach(), tokens, right=True)
    first = torch.nn.functional.pad((before + tokens).long(), (1, 0))
    sums = torch.nn.functional.embedding_bag(
        frame.flatten(),
        frames.flatten(0, 1),
        (first + rows * marks.shape[1]).flatten(),
        mode="sum",
        per_sample_weights=shares.to(frames.dtype).flatten(),
    )
    # What lies behind the last token went into one more.
    return sums.view(batch, first.shape[1], channels)[:, :-1]
