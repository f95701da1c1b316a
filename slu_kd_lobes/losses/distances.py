"""Distances of the student's logits to a teacher's.

Every distance is a module with the same call, chosen in YAML:
``distance(student_logits, teacher_logits, slices)`` gives one scalar, the mean
over the batch. Logits of all slots stand side by side, [batch, values];
`slices` says which columns belong to which slot.

Source: Cho et al. 2020, section 3.3, equation 3.
"""

import torch
import torch.nn.functional as F


def check_same_shape(student_logits, teacher_logits):
    """Refuses logits that do not match; silent broadcasting hides mistakes.

    Arguments
    ---------
    student_logits : torch.Tensor
        [batch, values].
    teacher_logits : torch.Tensor
        [batch, values].

    Raises
    ------
    ValueError
        If the shapes differ.

    Example
    -------
    >>> check_same_shape(torch.zeros(2, 24), torch.zeros(2, 29))
    Traceback (most recent call last):
    ...
    ValueError: student logits [2, 24] and teacher logits [2, 29] differ in \
shape: both must follow one slot schema
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {list(student_logits.shape)} and teacher logits "
            f"{list(teacher_logits.shape)} differ in shape: both must follow "
            "one slot schema"
        )


class ElementwiseDistance(torch.nn.Module):
    """Mean over the batch of an elementwise distance of raw logits, eq. 3.

    Arguments
    ---------
    reduction : str
        How the values of all slots combine: ``mean`` (the paper is silent;
        our reading) or ``sum``.

    Raises
    ------
    ValueError
        If the reduction is neither.
    """

    def __init__(self, reduction="mean"):
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(
                f"reduction '{reduction}' is unknown: choose mean or sum"
            )
        self.reduction = reduction

    def forward(self, student_logits, teacher_logits, slices=None):
        """Returns the distance.

        Arguments
        ---------
        student_logits : torch.Tensor
            [batch, values].
        teacher_logits : torch.Tensor
            [batch, values].
        slices : dict
            Not used: all values count alike.

        Returns
        -------
        torch.Tensor
            A scalar.
        """
        check_same_shape(student_logits, teacher_logits)
        distance = self.elementwise(
            student_logits.float(), teacher_logits.float()
        )
        if self.reduction == "sum":
            distance = distance.sum(-1)
        return distance.mean()


class MSEDistance(ElementwiseDistance):
    """Squared difference of the logits, the paper's MSE.

    Example
    -------
    >>> student, teacher = (
    ...     torch.tensor([[1.0, 0.0]]),
    ...     torch.tensor([[4.0, 1.0]]),
    ... )
    >>> MSEDistance()(student, teacher)  # (9 + 1) / 2
    tensor(5.)
    >>> MSEDistance(reduction="sum")(student, teacher)
    tensor(10.)
    """

    def elementwise(self, student_logits, teacher_logits):
        """Returns (s - t)^2, [batch, values]."""
        return (student_logits - teacher_logits) ** 2


class SmoothL1Distance(ElementwiseDistance):
    """Smooth L1, which the paper calls MAE.

    Quadratic for differences below 1, linear above, so that a teacher whose
    logits are far off pulls no harder than one at a distance of 1.

    Example
    -------
    >>> student, teacher = (
    ...     torch.tensor([[1.0, 0.0]]),
    ...     torch.tensor([[4.0, 0.5]]),
    ... )
    >>> SmoothL1Distance()(student, teacher)  # ((3 - 0.5) + 0.5 * 0.25) / 2
    tensor(1.3125)
    """

    def elementwise(self, student_logits, teacher_logits):
        """Returns the smooth L1 differences, [batch, values]."""
        return F.smooth_l1_loss(
            student_logits, teacher_logits, reduction="none"
        )


class L1Distance(ElementwiseDistance):
    """Absolute difference of the logits.

    Example
    -------
    >>> student, teacher = (
    ...     torch.tensor([[1.0, 0.0]]),
    ...     torch.tensor([[4.0, 0.5]]),
    ... )
    >>> L1Distance()(student, teacher)  # (3 + 0.5) / 2
    tensor(1.7500)
    """

    def elementwise(self, student_logits, teacher_logits):
        """Returns |s - t|, [batch, values]."""
        return (student_logits - teacher_logits).abs()


class KLDistance(torch.nn.Module):
    """Kullback-Leibler divergence of softened slot distributions.

    Summed over slots, as the cross entropy is, and multiplied by the squared
    temperature, which keeps the gradients' size (Hinton et al. 2015, section
    2). Not in the paper, which uses no temperature.

    Arguments
    ---------
    temperature : float
        Divides the logits of both; above 1 it softens.

    Example
    -------
    >>> kl = KLDistance(temperature=2.0)
    >>> slices = {"action": slice(0, 2)}
    >>> same = torch.tensor([[3.0, -1.0]])
    >>> kl(same, same, slices)
    tensor(0.)
    >>> round(kl(torch.zeros(1, 2), same, slices).item(), 4)
    1.3113
    """

    def __init__(self, temperature=1.0):
        super().__init__()
        if not temperature > 0:
            raise ValueError(
                f"temperature {temperature} is not possible: it must be above 0"
            )
        self.temperature = temperature

    def forward(self, student_logits, teacher_logits, slices):
        """Returns the divergence of the student from the teacher.

        Arguments
        ---------
        student_logits : torch.Tensor
            [batch, values].
        teacher_logits : torch.Tensor
            [batch, values].
        slices : dict
            Columns of each slot.

        Returns
        -------
        torch.Tensor
            A scalar.
        """
        check_same_shape(student_logits, teacher_logits)
        student = student_logits.float() / self.temperature
        teacher = teacher_logits.float() / self.temperature
        divergence = sum(
            F.kl_div(
                student[:, columns].log_softmax(-1),
                teacher[:, columns].log_softmax(-1),
                reduction="batchmean",
                log_target=True,
            )
            for columns in slices.values()
        )
        return self.temperature**2 * divergence
