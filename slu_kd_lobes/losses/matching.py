"""Utterance matching: speech is pulled towards the vector of its sentence.

A logit teacher says what the labels say, more softly; the vector of a text
encoder that never saw them also says how a command is worded. The student's
frames are averaged, projected and compared with it; the projection is left
behind after training.

Source: Kim et al. 2020, "Two-stage Textual Knowledge Distillation for
End-to-End Spoken Language Understanding", section 2 (the distance of utterance
vectors); its weight beside other losses is ours.
"""

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask


class CosineDistance(torch.nn.Module):
    """One minus the cosine of two vectors.

    Example
    -------
    >>> x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    >>> CosineDistance()(x, x), CosineDistance()(x, y)
    (tensor([0.]), tensor([1.]))
    """

    def forward(self, vectors, sentences):
        """Returns the distances.

        Arguments
        ---------
        vectors : torch.Tensor
            [batch, values].
        sentences : torch.Tensor
            [batch, values].

        Returns
        -------
        torch.Tensor
            [batch].
        """
        return 1 - F.cosine_similarity(vectors, sentences, dim=-1)


class UtteranceMatching(torch.nn.Module):
    """Distance of an utterance's projected frames to its sentence vector.

    Arguments
    ---------
    frame_size : int
        Channels of the student's frames.
    vector_size : int
        Values of a sentence vector.
    weight : float
        Of the distance in the loss.
    distance : torch.nn.Module or None
        Of two vectors, one value an utterance; None is `CosineDistance`.

    Example
    -------
    >>> matching = UtteranceMatching(frame_size=256, vector_size=384)
    >>> frames, sentences = torch.rand(2, 23, 256), torch.rand(2, 384)
    >>> matching(frames, torch.tensor([23, 12]), sentences).shape
    torch.Size([])
    """

    def __init__(self, frame_size, vector_size, weight=1.0, distance=None):
        super().__init__()
        self.projection = torch.nn.Linear(frame_size, vector_size)
        self.distance = distance or CosineDistance()
        self.weight = weight

    def forward(self, frames, lengths, sentences):
        """Returns the weighted mean distance.

        Arguments
        ---------
        frames : torch.Tensor
            [batch, frames, frame_size].
        lengths : torch.Tensor
            Frames of each item, [batch].
        sentences : torch.Tensor
            Vectors of the transcripts, [batch, vector_size].

        Returns
        -------
        torch.Tensor
            A scalar.
        """
        lengths = lengths.to(frames.device)
        mask = length_to_mask(lengths, frames.shape[1], dtype=frames.dtype)
        mean = (frames * mask.unsqueeze(-1)).sum(1) / lengths.unsqueeze(-1)
        distances = self.distance(self.projection(mean), sentences)
        return self.weight * distances.mean()
