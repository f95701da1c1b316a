"""Slot cross entropy and distances to a teacher, by hand."""

import math

import pytest
import torch

from slu_kd_lobes.losses.distances import (
    KLDistance,
    L1Distance,
    MSEDistance,
    SmoothL1Distance,
)
from slu_kd_lobes.losses.slots import SlotCrossEntropy

SLICES = {"action": slice(0, 2), "object": slice(2, 5)}
DISTANCES = [MSEDistance, SmoothL1Distance, L1Distance, KLDistance]

# Differences: 3, -0.5 | 0, 1, -2
STUDENT = torch.tensor([[3.0, 0.5], [1.0, 2.0]])
TEACHER = torch.tensor([[0.0, 1.0], [1.0, 0.0]])


def test_cross_entropy_is_the_sum_over_slots_of_the_batch_mean():
    """Eq. 2, with probabilities that one can see."""
    logits = torch.tensor(
        [
            [math.log(3), 0.0, 0.0, math.log(2), 0.0],  # 3/4 | 1/4 1/2 1/4
            [0.0, 0.0, 0.0, 0.0, math.log(8)],  # 1/2 | 1/10 1/10 8/10
        ]
    )
    targets = torch.tensor([[0, 1], [1, 2]])
    action = -(math.log(3 / 4) + math.log(1 / 2)) / 2
    object_ = -(math.log(1 / 2) + math.log(8 / 10)) / 2
    loss = SlotCrossEntropy()(logits, targets, SLICES)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(action + object_, rel=1e-6)


def test_cross_entropy_does_not_look_across_slots():
    """Adding a constant to the logits of one slot changes nothing."""
    logits, targets = torch.randn(4, 5), torch.tensor([[0, 1]] * 4)
    moved = logits + torch.tensor([7.0, 7, 0, 0, 0])
    loss = SlotCrossEntropy()
    torch.testing.assert_close(
        loss(moved, targets, SLICES), loss(logits, targets, SLICES)
    )


def test_label_smoothing_spreads_over_the_values_of_a_slot():
    """A share of 0.2 gives 0.9 and 0.1 to two values."""
    logits = torch.tensor([[math.log(3), 0.0]])
    loss = SlotCrossEntropy(label_smoothing=0.2)(
        logits, torch.tensor([[0]]), {"action": slice(0, 2)}
    )
    expected = -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "distance, values",
    [
        (MSEDistance, [9, 0.25, 0, 4]),
        # Quadratic below a difference of 1, linear above.
        (SmoothL1Distance, [2.5, 0.125, 0, 1.5]),
        (L1Distance, [3, 0.5, 0, 2]),
    ],
)
def test_elementwise_distances(distance, values):
    """Eq. 3: mean over the batch of the mean, or sum, over the values."""
    mean = distance()(STUDENT, TEACHER)
    assert mean.shape == ()
    assert mean.item() == pytest.approx(sum(values) / 4)
    total = distance(reduction="sum")(STUDENT, TEACHER)
    assert total.item() == pytest.approx(sum(values) / 2)


def test_smooth_l1_meets_at_a_difference_of_1():
    """Both branches give 0.5 there, and a pull of at most 1."""
    student = torch.tensor([[1.0, 0.999, 40.0]], requires_grad=True)
    distance = SmoothL1Distance(reduction="sum")
    loss = distance(student, torch.zeros(1, 3))
    assert loss.item() == pytest.approx(0.5 + 0.5 * 0.999**2 + 39.5)
    loss.backward()
    assert student.grad[0].tolist() == pytest.approx([1, 0.999, 1])


def test_unknown_reduction_is_refused():
    """With the two that there are."""
    with pytest.raises(ValueError, match="'none' is unknown: .*mean or sum"):
        MSEDistance(reduction="none")


def test_kl_is_the_divergence_of_the_student_from_the_teacher():
    """Summed over slots: sum of q log(q / p), q the teacher."""
    student = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0]])
    teacher = torch.tensor([[math.log(3), 0.0, 0.0, math.log(2), 0.0]])
    action = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    object_ = 1 / 2 * math.log(3 / 2) + 1 / 2 * math.log(3 / 4)
    kl = KLDistance()
    assert kl(student, teacher, SLICES).item() == pytest.approx(
        action + object_, rel=1e-5
    )
    # The other direction is another number.
    assert kl(teacher, student, SLICES).item() != pytest.approx(
        action + object_, rel=1e-2
    )
    twice = kl(student.repeat(2, 1), teacher.repeat(2, 1), SLICES)
    assert twice.item() == pytest.approx(action + object_, rel=1e-5)


def test_kl_softens_both_by_the_temperature():
    """T^2 times the divergence of logits that are divided by T."""
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    softened = KLDistance()(student / 4, teacher / 4, SLICES)
    torch.testing.assert_close(
        KLDistance(temperature=4.0)(student, teacher, SLICES), 16 * softened
    )


@pytest.mark.parametrize("distance", [d() for d in DISTANCES])
def test_distances_are_zero_at_equality_only(distance):
    """And never negative."""
    logits = 5 * torch.randn(6, 5)
    same = logits.clone().requires_grad_(True)
    loss = distance(same, logits, SLICES)
    assert loss.item() == 0
    loss.backward()
    assert same.grad.abs().max() < 1e-7
    for _ in range(5):
        assert distance(torch.randn(6, 5), logits, SLICES) > 0


def test_gradients_are_comparable_across_temperatures():
    """Which T^2 is for: without it they would shrink 400 times."""
    logits, teacher = 0.1 * torch.randn(64, 24), 0.1 * torch.randn(64, 24)
    slices = {"a": slice(0, 6), "o": slice(6, 20), "l": slice(20, 24)}
    norms = []
    for temperature in (1.0, 5.0, 20.0):
        student = logits.clone().requires_grad_(True)
        KLDistance(temperature)(student, teacher, slices).backward()
        norms.append(student.grad.norm().item())
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=0.05)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_impossible_temperature_is_refused(temperature):
    """Softmax needs one above 0."""
    with pytest.raises(ValueError, match="must be above 0"):
        KLDistance(temperature)


@pytest.mark.parametrize("distance", [d() for d in DISTANCES])
@pytest.mark.parametrize("shape", [(2, 7), (1, 5), (5,), (2, 5, 1)])
def test_other_shapes_are_refused(distance, shape):
    """Also those that would broadcast."""
    with pytest.raises(ValueError, match="differ in shape"):
        distance(torch.zeros(2, 5), torch.zeros(shape), SLICES)


@pytest.mark.parametrize("distance", [d() for d in DISTANCES])
def test_only_the_student_is_pulled(distance):
    """A table of logits has no gradient; the student has one everywhere."""
    student = torch.randn(2, 5, requires_grad=True)
    teacher = torch.randn(2, 5, requires_grad=True)
    distance(student, teacher.detach(), SLICES).backward()
    assert teacher.grad is None
    assert student.grad.ne(0).all()


@pytest.mark.parametrize("distance", [d() for d in DISTANCES])
def test_half_precision_is_computed_in_single(distance):
    """Squares of logits and small probabilities do not fit in 16 bits."""
    student, teacher = torch.randn(2, 8, 5).half()
    student[0, :2] = torch.tensor([300.0, -300])
    teacher[0, :2] = torch.tensor([-300.0, 300])
    loss = distance(student, teacher, SLICES)
    assert loss.dtype == torch.float32 and loss.isfinite()
    expected = distance(student.float(), teacher.float(), SLICES)
    torch.testing.assert_close(loss, expected)
