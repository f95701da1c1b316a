"""What vectors of tokens are answered with, among wordings that were typed."""

import torch

from slu_kd_lobes.losses.alignment import LocalAlignment, Units
from slu_kd_lobes.teachers.token_head import TokenHead


def units_of(vectors, mask):
    """Vectors that all count alike."""
    return Units(vectors, mask, mask / mask.sum(1, keepdim=True).clamp(min=1))


class Nearest:
    """The distance to each typed wording, token by token, both ways.

    Arguments
    ---------
    said : Units
        Vectors of the wordings.
    targets, slices, seed
        Not used.
    """

    def __init__(self, said, targets, slices, seed):
        self.said, self.nearness = said, LocalAlignment()

    def to(self, device):
        """Moves what it knows."""
        said = self.said.vectors.to(device), self.said.mask.to(device)
        self.said = units_of(*said)
        return self

    def __call__(self, heard):
        """Returns the distances, [utterances, wordings]."""
        measure = self.nearness.distances
        rows = [heard.item(i) for i in range(len(heard.vectors))]
        return torch.stack(
            [measure(row, self.said) + measure(self.said, row) for row in rows]
        )


class Understood:
    """How improbable a head finds what each typed wording means.

    Arguments
    ---------
    said : Units
        Vectors of the wordings, on which it learns.
    targets : torch.Tensor
        Their values, [wordings, slots].
    slices : dict
        Columns of each slot.
    seed : int
    steps : int
    lr : float
    """

    def __init__(self, said, targets, slices, seed, steps=500, lr=0.01):
        torch.manual_seed(seed)
        width = max(columns.stop for columns in slices.values())
        self.head = TokenHead(said.vectors.shape[2], width)
        texts = said.vectors, said.mask
        self.head.learn(*texts, targets, slices, steps, lr)
        self.targets, self.slices = targets, slices

    def to(self, device):
        """Moves what it knows."""
        self.head.to(device)
        return self

    @torch.no_grad()
    def __call__(self, heard):
        """Returns the surprise, [utterances, wordings]."""
        logits = self.head(heard.vectors, heard.mask)
        return -sum(
            logits[:, columns].log_softmax(1)[:, values]
            for columns, values in zip(self.slices.values(), self.targets.T)
        )
