r"""Who teaches, and how strongly: the KD weight and the teachers' weights.

A schedule gives :math:`\beta_t` of ``L = (1 - beta) L_ce + beta L_kd`` (eq. 1)
from the epoch, counted from 1, and the error rate of the batch. Teacher
weights share the distillation loss out between several teachers (eq. 4).

Source: Cho et al. 2020, section 3.3 (equations 1 and 4), section 4.2.2
(equation 5).
"""

import math


class ConstantWeight:
    """The same KD weight all the time.

    Arguments
    ---------
    beta : float
        KD weight, from 0 (no distillation) to 1 (nothing else).

    Raises
    ------
    ValueError
        If the weight is outside 0 to 1.

    Example
    -------
    >>> ConstantWeight(0.1)(epoch=7, error_rate=0.5)
    0.1
    """

    def __init__(self, beta):
        if not 0 <= beta <= 1:
            raise ValueError(f"KD weight {beta} is outside 0 to 1")
        self.beta = beta

    def __call__(self, epoch, error_rate):
        """Returns the KD weight.

        Arguments
        ---------
        epoch : int
            Epoch, counted from 1.
        error_rate : torch.Tensor or float
            Share of the batch's utterances with a wrong slot.

        Returns
        -------
        float or torch.Tensor
            Beta, 0 to 1.
        """
        return self.beta


class BatchErrorWeight:
    """The KD weight is the error rate of the batch, eq. 5a.

    Example
    -------
    >>> BatchErrorWeight()(epoch=7, error_rate=0.25)
    0.25
    """

    def __call__(self, epoch, error_rate):
        """Returns the KD weight; see :class:`ConstantWeight`."""
        return error_rate


class ExponentialWeight:
    """The KD weight decays as exp(1 - t), eq. 5b.

    The first epoch is nothing but distillation; after five the teacher is
    silent.

    Example
    -------
    >>> schedule = ExponentialWeight()
    >>> [round(schedule(t, 0.0), 4) for t in (1, 2, 3)]
    [1.0, 0.3679, 0.1353]
    """

    def __call__(self, epoch, error_rate):
        """Returns the KD weight; see :class:`ConstantWeight`."""
        return math.exp(1 - epoch)


class TriangularWeight:
    """The KD weight rises to a peak in mid-training and falls again, eq. 5c.

    ``peak * max(0, 1 - |t - mu| / (0.5 mu))`` with mu = T / 2: nothing before
    a quarter of the epochs and after three quarters.

    Arguments
    ---------
    epochs : int
        Number of epochs T.
    peak : float
        Largest weight; 0.1 in the paper.

    Example
    -------
    >>> schedule = TriangularWeight(epochs=20)
    >>> [round(schedule(t, 0.0), 4) for t in (5, 6, 10, 14, 15)]
    [0.0, 0.02, 0.1, 0.02, 0.0]
    """

    def __init__(self, epochs, peak=0.1):
        self.middle = epochs / 2
        self.peak = peak

    def __call__(self, epoch, error_rate):
        """Returns the KD weight; see :class:`ConstantWeight`."""
        distance = abs(epoch - self.middle) / (0.5 * self.middle)
        return self.peak * max(0.0, 1 - distance)


class AddedWeight:
    """Distillation is added to the labels' loss, which keeps its weight.

    ``L = L_ce + w L_kd`` in place of eq. 1.

    Source: Kim et al. 2020, "Two-stage Textual Knowledge Distillation for
    End-to-End Spoken Language Understanding", section 2, with w = 1.

    Arguments
    ---------
    weight : float
        Of the distillation.

    Raises
    ------
    ValueError
        If it is below 0.

    Example
    -------
    >>> schedule = AddedWeight(1.0)
    >>> schedule(epoch=7, error_rate=0.5), label_weight(schedule, 1.0)
    (1.0, 1.0)
    """

    def __init__(self, weight=1.0):
        if weight < 0:
            raise ValueError(f"KD weight {weight} is below 0")
        self.weight = weight

    def __call__(self, epoch, error_rate):
        """Returns the KD weight; see :class:`ConstantWeight`."""
        return self.weight


def label_weight(schedule, beta):
    """Weight of the labels' loss beside that of the distillation.

    Arguments
    ---------
    schedule : callable
        One of this module.
    beta : float or torch.Tensor
        What it gave.

    Returns
    -------
    float or torch.Tensor
        1 - beta, eq. 1, or 1 where distillation is added.
    """
    return 1.0 if isinstance(schedule, AddedWeight) else 1 - beta


class FixedTeachers:
    """Every teacher has a weight of its own that stays.

    Arguments
    ---------
    weights : dict or None
        By name of the teacher; None gives all the same, with a sum of 1.

    Example
    -------
    >>> FixedTeachers()(["teacher"], error_rate=0.5)
    {'teacher': 1.0}
    >>> weights = FixedTeachers({"teacher": 0.7, "professor": 0.3})
    >>> weights(["professor", "teacher"], error_rate=0.5)
    {'professor': 0.3, 'teacher': 0.7}
    """

    def __init__(self, weights=None):
        self.weights = weights

    def __call__(self, teachers, error_rate):
        """Returns the weights.

        Arguments
        ---------
        teachers : list of str
            Names.
        error_rate : torch.Tensor or float
            Share of the batch's utterances with a wrong slot.

        Returns
        -------
        dict
            Weight of each teacher.

        Raises
        ------
        ValueError
            If there are weights for others than the teachers.
        """
        if self.weights is None:
            return dict.fromkeys(teachers, 1 / max(1, len(teachers)))
        check_teachers(teachers, self.weights, "fixed_weights")
        return {name: self.weights[name] for name in teachers}


class BatchErrorTeachers:
    """The professor speaks the more, the more the student errs, eq. 4.

    ``gamma = err``: 1 - err is the weight of the teacher and err that of the
    professor.

    Example
    -------
    >>> weights = BatchErrorTeachers()
    >>> weights(["professor", "teacher"], error_rate=0.25)
    {'teacher': 0.75, 'professor': 0.25}
    """

    def __call__(self, teachers, error_rate):
        """Returns the weights; see :class:`FixedTeachers`."""
        weights = {"teacher": 1 - error_rate, "professor": error_rate}
        check_teachers(teachers, weights, "batch_error")
        return weights


def check_teachers(teachers, weights, kind):
    """Refuses weights for others than the teachers.

    Arguments
    ---------
    teachers : list of str
    weights : dict
        By name.
    kind : str
        What gives the weights, for the message.

    Raises
    ------
    ValueError
        If the names differ.

    Example
    -------
    >>> check_teachers(["teacher"], {"professor": 1.0}, "batch_error")
    Traceback (most recent call last):
    ...
    ValueError: batch_error has weights for professor, and the teachers are \
teacher: name the same in both
    """
    if set(teachers) != set(weights):
        raise ValueError(
            f"{kind} has weights for {', '.join(weights)}, and the teachers "
            f"are {', '.join(teachers) or 'none'}: name the same in both"
        )
