"""A student that writes: one symbol, or the blank of CTC, at every frame.

Source: Graves et al. 2006, "Connectionist Temporal Classification: Labelling
Unsegmented Sequence Data with Recurrent Neural Networks".
"""

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from slu_kd_lobes.students.dropout import Dropout
from slu_kd_lobes.students.intent import LayerSum


class CTCWriter(torch.nn.Module):
    """BiLSTM over encoder features, and the symbols' probabilities a frame.

    Source: Yang et al. 2021 (SUPERB), section 3, for slot filling two layers
    of 1024.

    Arguments
    ---------
    num_symbols : int
        With the blank, which is number 0.
    input_size : int
        Channels of one layer of the encoder.
    hidden_size : int
        Units of each direction of the LSTM.
    num_layers : int
        Of the LSTM.
    dropout : float
        Between these layers and after them.
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
        self.norm = torch.nn.LayerNorm(input_size)
        # SpeechBrain's takes relative lengths, and cuts them to whole frames.
        self.rnn = torch.nn.LSTM(
            input_size,
            hidden_size,
            num_layers,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=True,
        )
        self.dropout = Dropout(dropout)
        self.symbols = torch.nn.Linear(2 * hidden_size, num_symbols)

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
        x = self.norm(self.layer_sum(features))
        options = {"batch_first": True}
        packed = pack_padded_sequence(
            x, lengths.cpu(), enforce_sorted=False, **options
        )
        x, _ = self.rnn(packed)
        x, _ = pad_packed_sequence(x, total_length=features.shape[1], **options)
        return self.symbols(self.dropout(x)).float().log_softmax(-1)
