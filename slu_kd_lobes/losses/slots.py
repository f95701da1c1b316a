"""The loss of the labels.

Source: Cho et al. 2020, section 3.3, equation 2.
"""

import torch
import torch.nn.functional as F


class SlotCrossEntropy(torch.nn.Module):
    """Sum over slots of the mean cross entropy, eq. 2.

    Arguments
    ---------
    label_smoothing : float
        Share of the probability spread over all values of a slot.

    Example
    -------
    >>> loss = SlotCrossEntropy()
    >>> slices = {"action": slice(0, 2), "object": slice(2, 5)}
    >>> targets = torch.tensor([[0, 2]])
    >>> round(
    ...     loss(torch.zeros(1, 5), targets, slices).item(), 4
    ... )  # log 2 + log 3
    1.7918
    """

    def __init__(self, label_smoothing=0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits, targets, slices):
        """Returns the loss.

        Arguments
        ---------
        logits : torch.Tensor
            [batch, values].
        targets : torch.Tensor
            Index of the true value of each slot, [batch, slots].
        slices : dict
            Columns of each slot, in the order of `targets`.

        Returns
        -------
        torch.Tensor
            A scalar.
        """
        return sum(
            F.cross_entropy(
                logits[:, columns].float(),
                target,
                label_smoothing=self.label_smoothing,
            )
            for columns, target in zip(slices.values(), targets.unbind(1))
        )

    def extra_repr(self):
        """What `print` shows beside the name."""
        return f"label_smoothing={self.label_smoothing}"
