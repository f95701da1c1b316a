"""A token's vector must be more like its own teacher vector than like others.

Source: Han et al. 2023, "Knowledge Transfer from Pre-trained Language Models to
Cif-based Speech Recognizers via Hierarchical Distillation", the acoustic
distillation (ACD).
"""

import torch


class ContrastiveDistillation(torch.nn.Module):
    """Cross entropy of the own teacher vector among those of other tokens.

    Arguments
    ---------
    temperature : float
        Divides the cosines.
    negatives : int
        Other tokens of the batch that each one is compared with, drawn anew
        for each batch; of a small batch four fifths.

    Raises
    ------
    ValueError
        If the temperature is not above 0.

    Example
    -------
    >>> loss = ContrastiveDistillation(temperature=1.0, negatives=1)
    >>> vectors, mask = torch.eye(2).unsqueeze(0), torch.ones(1, 2).bool()
    >>> loss(vectors, vectors, mask)  # 2 log(1 + exp(0 - 1))
    tensor(0.6265)
    """

    def __init__(self, temperature=0.02, negatives=700):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature {temperature} is not above 0")
        self.temperature = temperature
        self.negatives = negatives

    def forward(self, student, teacher, mask):
        """Returns the sum over all tokens, a scalar, in single precision.

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
        inside = mask.flatten()
        with torch.autocast(student.device.type, enabled=False):
            heard, said = (
                torch.nn.functional.normalize(
                    side.flatten(0, 1).float(), dim=-1, eps=1e-6
                )
                for side in (student, teacher)
            )
            scores = heard @ said.T / self.temperature
            own = scores.diagonal()
            others = draw_negatives(inside, self.negatives)
            others.fill_diagonal_(True)
            scores = scores.masked_fill(~others, float("-inf"))
            return ((scores.logsumexp(-1) - own) * inside).sum()


def draw_negatives(inside, number):
    """Which tokens each one is compared with.

    The tokens stand in a random circle, and each is compared with those that
    follow it there: so many, none twice, and never itself. Nothing waits for
    the host.

    Arguments
    ---------
    inside : torch.Tensor
        True for tokens, False for padding, [tokens].
    number : int
        Of others that are wanted; at most four fifths of the tokens are taken,
        and at least one.

    Returns
    -------
    torch.Tensor
        True for those, [tokens, tokens]; padding has none and is none.

    Example
    -------
    >>> draw_negatives(torch.tensor([True, False, True]), 700)
    tensor([[False, False,  True],
            [False, False, False],
            [ True, False, False]])
    """
    order = torch.rand(len(inside), device=inside.device)
    order = order.masked_fill(~inside, 2).argsort().argsort()
    count = inside.sum()
    wanted = (count * 4 // 5).clamp(1, number)
    ahead = (order - order.unsqueeze(1)) % count.clamp(min=1)
    drawn = (ahead >= 1) & (ahead <= wanted)
    return drawn & inside & inside.unsqueeze(1)
