"""The distillation term: distances to any number of teachers, weighted.

Source: Cho et al. 2020, section 3.3, equations 1, 3 and 4.
"""

import torch


def intent_errors(logits, targets, slices):
    """Which utterances have at least one slot wrong.

    Arguments
    ---------
    logits : torch.Tensor
        [batch, values].
    targets : torch.Tensor
        Index of the true value of each slot, [batch, slots].
    slices : dict
        Columns of each slot.

    Returns
    -------
    torch.Tensor
        1.0 where an utterance is wrong, [batch].

    Example
    -------
    >>> slices = {"action": slice(0, 2), "object": slice(2, 4)}
    >>> logits = torch.tensor([[1.0, 0, 0, 1], [1, 0, 0, 1]])
    >>> intent_errors(logits, torch.tensor([[0, 1], [0, 0]]), slices)
    tensor([0., 1.])
    """
    guesses = [logits[:, columns].argmax(-1) for columns in slices.values()]
    return (torch.stack(guesses, 1) != targets).any(1).float()


class Distillation(torch.nn.Module):
    """Weighted sum of the student's distances to its teachers.

    Arguments
    ---------
    distance : torch.nn.Module
        Distance of two sets of logits, see :mod:`slu_kd_lobes.losses`.
    teacher_weights : callable
        Weights of the teachers given the batch's error rate, see
        :mod:`slu_kd_lobes.schedules`.

    Example
    -------
    >>> from slu_kd_lobes.losses import L1Distance
    >>> from slu_kd_lobes.schedules import FixedTeachers
    >>> kd = Distillation(L1Distance(), FixedTeachers([0.5, 0.5]))
    >>> teachers = torch.tensor([[[1.0, 1.0]], [[3.0, 3.0]]])
    >>> loss, weights = kd(torch.zeros(1, 2), teachers, torch.tensor(0.0), {})
    >>> loss, weights
    (tensor(2.), tensor([0.5000, 0.5000]))
    """

    def __init__(self, distance, teacher_weights):
        super().__init__()
        self.distance = distance
        self.teacher_weights = teacher_weights

    def forward(self, student_logits, teacher_logits, error_rate, slices):
        """Returns the loss and the weights that made it.

        Arguments
        ---------
        student_logits : torch.Tensor
            [batch, values].
        teacher_logits : torch.Tensor
            [teachers, batch, values].
        error_rate : torch.Tensor
            Share of the batch's utterances with a wrong slot; its gradient is
            not followed.
        slices : dict
            Columns of each slot.

        Returns
        -------
        loss : torch.Tensor
            A scalar.
        weights : torch.Tensor
            [teachers].

        Raises
        ------
        ValueError
            If there are not as many weights as teachers.
        """
        weights = self.teacher_weights(error_rate.detach())
        if len(weights) != len(teacher_logits):
            raise ValueError(
                f"teacher_weights gives {len(weights)} weights for "
                f"{len(teacher_logits)} teachers: list one for each"
            )
        distances = torch.stack(
            [
                self.distance(student_logits, logits, slices)
                for logits in teacher_logits
            ]
        )
        return (weights * distances).sum(), weights
