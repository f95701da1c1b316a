"""Recurrent students that write: one symbol, or the blank of CTC, a frame.

Source: Graves et al. 2006, "Connectionist Temporal Classification: Labelling
Unsegmented Sequence Data with Recurrent Neural Networks".
"""

import torch

from slu_kd_lobes.students.dropout import Dropout
from slu_kd_lobes.students.gru import MaskedBiGRU
from slu_kd_lobes.students.intent import LayerSum


class GRUEncoder(torch.nn.Module):
    """BiGRUs over frames, such as those of a frozen encoder.

    Arguments
    ---------
    input_size : int
        Channels of the features.
    size : int
        Channels of a frame, half of them of each direction; even.
    num_layers : int
        GRUs.
    dropout : float
        After each of them.

    Example
    -------
    >>> encoder = GRUEncoder(16, size=16)
    >>> x, lengths = encoder(torch.rand(2, 23, 16), torch.tensor([23, 12]))
    >>> x.shape, lengths
    (torch.Size([2, 23, 16]), tensor([23, 12]))
    """

    def __init__(self, input_size, size=384, num_layers=2, dropout=0.2):
        super().__init__()
        self.norm = torch.nn.LayerNorm(input_size)
        self.rnns = torch.nn.ModuleList(
            MaskedBiGRU(width, size // 2)
            for width in [input_size] + (num_layers - 1) * [size]
        )
        self.output_size = size
        self.dropout = Dropout(dropout)

    def forward(self, features, lengths):
        """Returns the frames, zero after an item's end, and their number.

        Arguments
        ---------
        features : torch.Tensor
            [batch, frames, input_size].
        lengths : torch.Tensor
            Frames of each item, [batch].
        """
        x = self.norm(features)
        for rnn in self.rnns:
            x = self.dropout(rnn(x, lengths))
        return x, lengths

    def frames_of(self, time):
        """Number of frames that come of a number of features."""
        return time


class CTCWriter(torch.nn.Module):
    """BiGRUs over encoder features, and the symbols' probabilities a frame.

    Source: Yang et al. 2021 (SUPERB), section 3, which has two BiLSTMs of 1024
    for slot filling.

    Arguments
    ---------
    num_symbols : int
        With the blank, which is number 0.
    input_size : int
        Channels of one layer of the encoder.
    hidden_size : int
        Units of each direction of a GRU.
    num_layers : int
        GRUs.
    dropout : float
        After each of them.
    layers : int
        Layers of the encoder that stand side by side in the features; of
        several, a weighted sum is learnt.

    Example
    -------
    >>> student = CTCWriter(num_symbols=30, input_size=16, hidden_size=8)
    >>> student(torch.rand(2, 23, 16), torch.tensor([23, 12])).shape
    torch.Size([2, 23, 30])
    """

    def __init__(
        self,
        num_symbols,
        input_size,
        hidden_size=256,
        num_layers=2,
        dropout=0.2,
        layers=1,
    ):
        super().__init__()
        several = layers > 1
        self.layer_sum = LayerSum(layers) if several else torch.nn.Identity()
        size = 2 * hidden_size
        self.encoder = GRUEncoder(input_size, size, num_layers, dropout)
        self.symbols = torch.nn.Linear(size, num_symbols)

    def forward(self, features, lengths):
        """Returns the logarithm of the probabilities.

        Arguments
        ---------
        features : torch.Tensor
            Encoder features, [batch, frames, layers * input_size].
        lengths : torch.Tensor
            Frames of each item, [batch].

        Returns
        -------
        torch.Tensor
            [batch, frames, num_symbols], float32.
        """
        x, _ = self.encoder(self.layer_sum(features), lengths)
        return self.symbols(x).float().log_softmax(-1)
