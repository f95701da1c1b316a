"""The student's intent module: encoder features to slot logits.

Source: Lugosch et al. 2019, section 3.2; Cho et al. 2020, section 3.3.
"""

import torch
from speechbrain.dataio.dataio import length_to_mask

from slu_kd_lobes.randomness import Dropout
from slu_kd_lobes.sincnet import MaskedBiGRU


class IntentClassifier(torch.nn.Module):
    """BiGRU, dropout, one logit a value and frame, maximum over time.

    Arguments
    ---------
    num_logits : int
        Values of all slots together (24 for Fluent Speech Commands).
    input_size : int
        Channels of the encoder features.
    hidden_size : int
        Units of each direction of the GRU.
    dropout : float
        Dropout probability before the classifier.
    input_dropout : float
        Dropout probability of the features. The published code leaves the
        dropout of its frozen encoder on while the classifier trains; this is
        what stored features can have of it. After pooling two frames, 1/3
        has the variance of 0.5 before it.

    Example
    -------
    >>> student = IntentClassifier(num_logits=24)
    >>> student(torch.rand(2, 23, 256), torch.tensor([23, 12])).shape
    torch.Size([2, 24])
    >>> sum(p.numel() for p in student.parameters())  # GRU and classifier
    302616
    """

    def __init__(
        self,
        num_logits,
        input_size=256,
        hidden_size=128,
        dropout=0.5,
        input_dropout=0.0,
    ):
        super().__init__()
        self.input_dropout = Dropout(input_dropout)
        self.rnn = MaskedBiGRU(input_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.classifier = torch.nn.Linear(2 * hidden_size, num_logits)

    def forward(self, features, lengths=None):
        """Returns the logits of each utterance.

        Arguments
        ---------
        features : torch.Tensor
            Encoder features, [batch, frames, input_size].
        lengths : torch.Tensor or None
            Frames of each item, [batch].

        Returns
        -------
        torch.Tensor
            [batch, num_logits].
        """
        return self.frame_logits(features, lengths).amax(dim=1)

    def frame_logits(self, features, lengths=None):
        """Returns the logits of every frame, -inf after the end of an item.

        Arguments
        ---------
        features : torch.Tensor
            Encoder features, [batch, frames, input_size].
        lengths : torch.Tensor or None
            Frames of each item, [batch].

        Returns
        -------
        torch.Tensor
            [batch, frames, num_logits].
        """
        features = self.input_dropout(features)
        x = self.dropout(self.rnn(features, lengths))
        logits = self.classifier(x)
        if lengths is None:
            return logits
        mask = length_to_mask(
            lengths.to(x.device), x.shape[1], dtype=torch.bool
        )
        return logits.masked_fill(~mask.unsqueeze(-1), float("-inf"))
