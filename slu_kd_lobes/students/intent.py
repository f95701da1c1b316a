"""The student's intent module: encoder features to slot logits.

Source: Lugosch et al. 2019, section 3.2; Cho et al. 2020, section 3.3.
"""

import torch
from speechbrain.dataio.dataio import length_to_mask

from slu_kd_lobes.students.dropout import Dropout
from slu_kd_lobes.students.gru import MaskedBiGRU


class LayerSum(torch.nn.Module):
    """Weighted sum of layers that stand side by side; the weights are learnt.

    Source: Yang et al. 2021 (SUPERB), section 3.

    Arguments
    ---------
    layers : int
        Number of layers.

    Example
    -------
    >>> x = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]])  # layers [1, 2] and [3, 6]
    >>> LayerSum(2)(x).tolist()  # equal weights at first
    [[[2.0, 4.0]]]
    """

    def __init__(self, layers):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(layers))

    def forward(self, x):
        """Returns the sum.

        Arguments
        ---------
        x : torch.Tensor
            [batch, frames, layers * channels].

        Returns
        -------
        torch.Tensor
            [batch, frames, channels].
        """
        x = x.unflatten(-1, (len(self.weights), -1))
        return (x * self.weights.softmax(0).unsqueeze(-1)).sum(-2)


class IntentClassifier(torch.nn.Module):
    """BiGRU, dropout, one logit a value and frame, maximum over time.

    Arguments
    ---------
    num_logits : int
        Values of all slots together (24 for Fluent Speech Commands).
    input_size : int
        Channels of one layer of the encoder.
    hidden_size : int
        Units of each direction of the GRU.
    dropout : float
        Dropout probability before the classifier.
    input_dropout : float
        Dropout probability of the features. The published code leaves the
        dropout of its frozen encoder on while the classifier trains; this is
        what stored features can have of it. After pooling two frames, 1/3
        has the variance of 0.5 before it.
    layers : int
        Layers of the encoder that stand side by side in the features. Of
        several, a weighted sum is learnt.

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
        layers=1,
    ):
        super().__init__()
        several = layers > 1
        self.layer_sum = LayerSum(layers) if several else torch.nn.Identity()
        self.input_dropout = Dropout(input_dropout)
        self.rnn = MaskedBiGRU(input_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.frame_size = 2 * hidden_size
        self.classifier = torch.nn.Linear(self.frame_size, num_logits)

    def forward(self, features, lengths=None, return_frames=False):
        """Returns the logits of each utterance.

        Arguments
        ---------
        features : torch.Tensor
            Encoder features, [batch, frames, layers * input_size].
        lengths : torch.Tensor or None
            Frames of each item, [batch].
        return_frames : bool
            Whether what the classifier sees is returned as well.

        Returns
        -------
        logits : torch.Tensor
            [batch, num_logits].
        frames : torch.Tensor
            Only if asked for, [batch, frames, frame_size].
        """
        frames = self.frames(features, lengths)
        logits = self.classify(frames, lengths).amax(dim=1)
        return (logits, frames) if return_frames else logits

    def frames(self, features, lengths=None):
        """Returns what the classifier sees, [batch, frames, frame_size]."""
        features = self.input_dropout(self.layer_sum(features))
        return self.dropout(self.rnn(features, lengths))

    def frame_logits(self, features, lengths=None):
        """Returns the logits of every frame, -inf after the end of an item.

        Arguments
        ---------
        features : torch.Tensor
            Encoder features, [batch, frames, layers * input_size].
        lengths : torch.Tensor or None
            Frames of each item, [batch].

        Returns
        -------
        torch.Tensor
            [batch, frames, num_logits].
        """
        return self.classify(self.frames(features, lengths), lengths)

    def classify(self, frames, lengths=None):
        """Returns the logits of frames; see `frame_logits`."""
        logits = self.classifier(frames)
        if lengths is None:
            return logits
        mask = length_to_mask(
            lengths.to(frames.device), frames.shape[1], dtype=torch.bool
        )
        return logits.masked_fill(~mask.unsqueeze(-1), float("-inf"))
