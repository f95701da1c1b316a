"""A Conformer whose frames become fewer on the way, and know their padding.

Source: Gulati et al. 2020, "Conformer: Convolution-augmented Transformer for
Speech Recognition", in the sizes of Han et al. 2023, "Knowledge Transfer from
Pre-trained Language Models to Cif-based Speech Recognizers via Hierarchical
Distillation", and its published code.
"""

import torch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.nnet.attention import RelPosEncXL

from slu_kd_lobes.students.dropout import Dropout
from slu_kd_lobes.students.sincnet import halve


class PoolingConformer(torch.nn.Module):
    """A convolution, then Conformer layers with a pooling after some of them.

    An item's frames are the same in any batch: what is behind its end is set
    to nothing before whatever reaches over it. SpeechBrain's Conformer lets
    padding into its convolutions. Normalised is each frame by itself, as there;
    the published model normalises over the batch, padding included.

    Arguments
    ---------
    input_size : int
        Channels of the features, such as filters of a filter bank.
    size : int
        Channels of a frame.
    ffn_size : int
        Units of the feed-forward modules.
    num_heads, num_layers : int
    kernel_size : int
        Frames that the convolution of a layer takes in, odd.
    pool_after : list of int
        Layers, counted from 1, after which the greater one of two frames is
        kept in each channel.
    channels : int
        Maps of the first convolution, which takes three features by three
        channels, every other one.
    dropout : float

    Raises
    ------
    ValueError
        If there is no such layer, or the heads do not share the channels.

    Example
    -------
    >>> encoder = PoolingConformer(20, 16, 32, 2, num_layers=2, pool_after=[1])
    >>> x, lengths = encoder(torch.rand(2, 41, 20), torch.tensor([41, 23]))
    >>> x.shape, lengths
    (torch.Size([2, 10, 16]), tensor([10,  6]))
    """

    def __init__(
        self,
        input_size=80,
        size=256,
        ffn_size=2048,
        num_heads=4,
        num_layers=15,
        kernel_size=15,
        pool_after=(5, 10),
        channels=128,
        dropout=0.1,
    ):
        super().__init__()
        if missing := [n for n in pool_after if not 1 <= n <= num_layers]:
            raise ValueError(
                f"pool_after names layer {missing[0]}, and there are "
                f"{num_layers}: leave it out"
            )
        check_heads(size, num_heads)
        self.convolution = torch.nn.Conv2d(1, channels, 3, stride=2)
        self.narrow = torch.nn.Linear(channels * ((input_size - 1) // 2), size)
        self.enter = torch.nn.Linear(size, size)
        self.dropout = Dropout(dropout)
        self.positions = RelPosEncXL(size)
        self.layers = torch.nn.ModuleList(
            ConformerLayer(size, ffn_size, num_heads, kernel_size, dropout)
            for _ in range(num_layers)
        )
        self.pool_after = set(pool_after)
        self.output_size = size

    def forward(self, features, lengths):
        """Returns the frames.

        Arguments
        ---------
        features : torch.Tensor
            [batch, time, input_size], at least 3 of time.
        lengths : torch.Tensor
            Of each item, [batch].

        Returns
        -------
        frames : torch.Tensor
            [batch, frames, size], zero after an item's end.
        lengths : torch.Tensor
            Frames of each item, [batch].
        """
        x = self.convolution(features.unsqueeze(1)).relu()
        x = self.narrow(x.transpose(1, 2).flatten(2))
        # As many as the convolution finds without any padding.
        lengths = (lengths.to(x.device) - 1).div(2, rounding_mode="floor")
        x = self.dropout(self.enter(x * self.output_size**0.5))
        inside, positions = self._places(x, lengths)
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, inside, positions)
            if number in self.pool_after:
                x, lengths = pool(x, inside), halve(lengths)
                inside, positions = self._places(x, lengths)
        return x.masked_fill(~inside.unsqueeze(2), 0), lengths

    def frames_of(self, time):
        """Number of frames that come of a number of features."""
        frames = (time - 1) // 2
        for _ in self.pool_after:
            frames = halve(frames)
        return frames

    def _places(self, x, lengths):
        inside = length_to_mask(lengths, x.shape[1], dtype=torch.bool)
        return inside, self.positions(x).to(x.dtype)


def check_heads(size, num_heads):
    """Refuses channels that the heads of an attention cannot share.

    Arguments
    ---------
    size, num_heads : int

    Raises
    ------
    ValueError
        If one is not a multiple of the other.
    """
    if size % num_heads:
        raise ValueError(
            f"size {size} cannot be shared by {num_heads} heads: choose a "
            "multiple"
        )


def pool(x, inside):
    """The greater one of two frames, in each channel; an odd last one stays.

    Arguments
    ---------
    x : torch.Tensor
        [batch, frames, channels].
    inside : torch.Tensor
        False at padding, [batch, frames].

    Returns
    -------
    torch.Tensor
        [batch, ceil(frames / 2), channels], zero after an item's end.

    Example
    -------
    >>> x = torch.tensor([[[-1.0], [-2.0], [-3.0], [0.0]]])
    >>> pool(x, torch.tensor([[True, True, True, False]])).squeeze()
    tensor([-1., -3.])
    """
    nothing = float("-inf")
    x = x.masked_fill(~inside.unsqueeze(2), nothing)
    x = torch.nn.functional.pad(x, (0, 0, 0, x.shape[1] % 2), value=nothing)
    x = x.unflatten(1, (-1, 2)).amax(2)
    return x.masked_fill(x == nothing, 0)


class ConformerLayer(torch.nn.Module):
    """Half a feed-forward, attention, a convolution, and the other half.

    Arguments
    ---------
    size, ffn_size, num_heads, kernel_size : int
    dropout : float
    """

    def __init__(self, size, ffn_size, num_heads, kernel_size, dropout):
        super().__init__()
        sizes = (size, ffn_size, torch.nn.SiLU(), dropout)
        self.before = feed_forward(*sizes)
        self.attention = RelativeAttention(size, num_heads, dropout)
        self.convolution = MaskedConvolution(size, kernel_size, dropout)
        self.after = feed_forward(*sizes)
        self.norm = torch.nn.LayerNorm(size)

    def forward(self, x, inside, positions):
        """Returns frames as many as there are, [batch, frames, size].

        Arguments
        ---------
        x : torch.Tensor
            [batch, frames, size].
        inside : torch.Tensor
            False at padding, [batch, frames].
        positions : torch.Tensor
            Of the distances from frames - 1 to 1 - frames, [1, 2 * frames - 1,
            size].
        """
        x = x + 0.5 * self.before(x)
        x = x + self.attention(x, inside, positions)
        x = x + self.convolution(x, inside)
        return self.norm(x + 0.5 * self.after(x))


def feed_forward(size, ffn_size, activation, dropout):
    """A normalisation, and two layers with an activation between them.

    Arguments
    ---------
    size, ffn_size : int
    activation : torch.nn.Module
    dropout : float

    Returns
    -------
    torch.nn.Module
    """
    return torch.nn.Sequential(
        torch.nn.LayerNorm(size),
        torch.nn.Linear(size, ffn_size),
        activation,
        Dropout(dropout),
        torch.nn.Linear(ffn_size, size),
        Dropout(dropout),
    )


class RelativeAttention(torch.nn.Module):
    """Attention by content and by distance.

    Source: Dai et al. 2019, "Transformer-XL: Attentive Language Models beyond a
    Fixed-Length Context", section 3.3.

    Arguments
    ---------
    size, num_heads : int
    dropout : float
    """

    def __init__(self, size, num_heads, dropout):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norm = torch.nn.LayerNorm(size)
        self.queries, self.keys, self.values, self.out = (
            torch.nn.Linear(size, size) for _ in range(4)
        )
        self.distances = torch.nn.Linear(size, size, bias=False)
        bias = torch.zeros(num_heads, 1, size // num_heads)
        self.content_bias = torch.nn.Parameter(bias)
        self.distance_bias = torch.nn.Parameter(bias.clone())
        self.leave = Dropout(dropout)

    def forward(self, x, inside, positions):
        """Returns what each frame takes from others; see `ConformerLayer`."""
        x = self.norm(x)
        query, key, value, distance = (
            layer(y).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, y in (
                (self.queries, x),
                (self.keys, x),
                (self.values, x),
                (self.distances, positions),
            )
        )
        by_distance = (query + self.distance_bias) @ distance.transpose(2, 3)
        scores = by_own_distance(by_distance) / query.shape[3] ** 0.5
        x = torch.nn.functional.scaled_dot_product_attention(
            query + self.content_bias,
            key,
            value,
            scores.masked_fill(~inside[:, None, None], float("-inf")),
            self.dropout if self.training else 0.0,
        )
        return self.leave(self.out(x.transpose(1, 2).flatten(2)))


def by_own_distance(scores):
    """From scores by distance to scores by frame, by a shift of each row.

    Arguments
    ---------
    scores : torch.Tensor
        Of each frame and the distances from frames - 1 to 1 - frames, [...,
        frames, 2 * frames - 1].

    Returns
    -------
    torch.Tensor
        Of each frame and each frame, [..., frames, frames].

    Example
    -------
    >>> by_own_distance(torch.tensor([[1, 0, -1], [1, 0, -1]]))
    tensor([[ 0, -1],
            [ 1,  0]])
    """
    frames, distances = scores.shape[-2:]
    scores = torch.nn.functional.pad(scores, (1, 0)).flatten(-2)
    scores = scores[..., frames:].unflatten(-1, (frames, distances))
    return scores[..., :frames]


class MaskedConvolution(torch.nn.Module):
    """A gate, a convolution over frames in each channel, and a mixing.

    Arguments
    ---------
    size, kernel_size : int
    dropout : float
    """

    def __init__(self, size, kernel_size, dropout):
        super().__init__()
        self.norm = torch.nn.LayerNorm(size)
        self.gate = torch.nn.Linear(size, 2 * size, bias=False)
        self.convolution = torch.nn.Conv1d(
            size,
            size,
            kernel_size,
            padding=kernel_size // 2,
            groups=size,
            bias=False,
        )
        self.leave = torch.nn.Sequential(
            torch.nn.LayerNorm(size),
            torch.nn.SiLU(),
            torch.nn.Linear(size, size, bias=False),
            Dropout(dropout),
        )

    def forward(self, x, inside):
        """Returns the change of each frame; see `ConformerLayer`."""
        x = torch.nn.functional.glu(self.gate(self.norm(x)), dim=2)
        x = x.masked_fill(~inside.unsqueeze(2), 0)
        return self.leave(self.convolution(x.transpose(1, 2)).transpose(1, 2))
