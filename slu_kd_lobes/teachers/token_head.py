"""A professor that reads vectors of tokens, whoever gives them.

Trained on a text model's vectors of typed sentences, it answers to vectors
that a recogniser gives of speech, if these learnt to be like them.

Source: Cho et al. 2020, section 3.3 (the professor); Dong et al. 2023, "CIF-PT:
Bridging Speech and Text Representations for Spoken Language Understanding via
Continuous Integrate-and-Fire Pre-Training", for vectors of CIF in place of text.
"""

import torch
from torch.nn.functional import normalize

from slu_kd_lobes.losses.slots import SlotCrossEntropy
from slu_kd_lobes.teachers.text_teacher import MaxPooling


class TokenHead(torch.nn.Module):
    """Logits of each token, and the maximum of them over the tokens.

    Vectors count by their direction alone, which is what the contrastive
    distillation teaches.

    Arguments
    ---------
    size : int
        Channels of a vector.
    num_logits : int
        Values of all slots together.

    Example
    -------
    >>> TokenHead(8, 24)(torch.rand(3, 5, 8), torch.ones(3, 5)).shape
    torch.Size([3, 24])
    """

    def __init__(self, size, num_logits):
        super().__init__()
        self.classifier = torch.nn.Linear(size, num_logits)
        self.pooling = MaxPooling()

    def forward(self, vectors, mask):
        """Returns the logits of sentences, [batch, num_logits].

        Arguments
        ---------
        vectors : torch.Tensor
            Of tokens, [batch, tokens, size].
        mask : torch.Tensor
            1 for tokens, 0 for padding, [batch, tokens].
        """
        logits = self.classifier(normalize(vectors, dim=2))
        return self.pooling(logits, mask)

    def learn(self, vectors, mask, targets, slices, steps, lr):
        """Trains on sentences, all of them in each step.

        Arguments
        ---------
        vectors, mask : torch.Tensor
            See `forward`.
        targets : torch.Tensor
            Index of the true value of each slot, [batch, slots].
        slices : dict
            Columns of each slot.
        steps : int
        lr : float
        """
        measure = SlotCrossEntropy()
        optimiser = torch.optim.AdamW(self.parameters(), lr=lr)
        for _ in range(steps):
            optimiser.zero_grad()
            loss = measure(self(vectors, mask), targets, slices)
            loss.backward()
            optimiser.step()
