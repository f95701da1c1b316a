"""A token's state is drawn to its teacher vector.

Source: Han et al. 2023, "Knowledge Transfer from Pre-trained Language Models to
Cif-based Speech Recognizers via Hierarchical Distillation", the linguistic
distillation (LRD).
"""

import torch


class TokenRegression(torch.nn.Module):
    """Squared differences, summed over the values of a vector and all tokens.

    The published weight of 0.01 is that of this sum; the mean over 768 values
    would take 7.68.

    Example
    -------
    >>> student, teacher = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    >>> TokenRegression()(student, teacher, torch.tensor([[True, False]]))
    tensor(3.)
    """

    def forward(self, student, teacher, mask):
        """Returns the sum, a scalar, in single precision.

        Arguments
        ---------
        student, teacher : torch.Tensor
            [batch, tokens, values].
        mask : torch.Tensor
            True for tokens, False for padding, [batch, tokens].

        Returns
        -------
        torch.Tensor
        """
        squares = (student.float() - teacher.float()).square().sum(-1)
        return squares.masked_fill(~mask, 0).sum()
