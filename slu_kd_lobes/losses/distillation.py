"""The distillation term: distances to any number of teachers, weighted.

Source: Cho et al. 2020, section 3.3, equations 1, 3 and 4.
"""

import torch


class Distillation(torch.nn.Module):
    """Weighted sum of the student's distances to its teachers.

    Arguments
    ---------
    teachers : list of str
        Their names; their order does not matter.
    distance : torch.nn.Module
        Distance of two sets of logits, see
        :mod:`slu_kd_lobes.losses.distances`.
    teacher_weights : callable
        Weight of each teacher given the batch's error rate, see
        :mod:`slu_kd_lobes.losses.schedules`.

    Raises
    ------
    ValueError
        If `teacher_weights` does not go with the teachers or is no weight, or
        one of them is named twice.

    Example
    -------
    >>> from slu_kd_lobes.losses.distances import L1Distance
    >>> from slu_kd_lobes.losses.schedules import FixedTeachers
    >>> names = ["teacher", "professor"]
    >>> kd = Distillation(names, L1Distance(), FixedTeachers())
    >>> logits = {
    ...     "professor": torch.tensor([[1.0, 1.0]]),
    ...     "teacher": torch.tensor([[3.0, 3.0]]),
    ... }
    >>> kd(torch.zeros(1, 2), logits, torch.tensor(0.0), {})
    (tensor(2.), {'teacher': 0.5, 'professor': 0.5})
    """

    def __init__(self, teachers, distance, teacher_weights):
        super().__init__()
        self.teachers = list(teachers)
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError(
                f"teachers names one twice: {', '.join(self.teachers)}"
            )
        self.distance = distance
        self.teacher_weights = teacher_weights
        weights = teacher_weights(self.teachers, torch.tensor(0.0))  # or raises
        for name, weight in weights.items():
            if not 0 <= float(weight) < float("inf"):
                raise ValueError(f"the weight of the {name} is {weight}")

    def forward(self, student_logits, teacher_logits, error_rate, slices):
        """Returns the loss and the weights that made it.

        Arguments
        ---------
        student_logits : torch.Tensor
            [batch, values].
        teacher_logits : dict
            [batch, values] by teacher.
        error_rate : torch.Tensor
            Share of the batch's utterances with a wrong slot; its gradient is
            not followed.
        slices : dict
            Columns of each slot.

        Returns
        -------
        loss : torch.Tensor
            A scalar.
        weights : dict
            Weight by teacher.

        Raises
        ------
        ValueError
            If the logits are those of others than the teachers.
        """
        if set(teacher_logits) != set(self.teachers):
            raise ValueError(
                f"there are logits of {', '.join(teacher_logits)}, and the "
                f"teachers are {', '.join(self.teachers)}"
            )
        weights = self.teacher_weights(self.teachers, error_rate.detach())
        loss = sum(
            weight * self.distance(student_logits, teacher_logits[name], slices)
            for name, weight in weights.items()
        )
        return loss, weights
