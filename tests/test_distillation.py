"""Eq. 4: the student between a teacher and a professor."""

import pytest
import torch

from slu_kd_lobes.distillation import Distillation, intent_errors
from slu_kd_lobes.losses import L1Distance, MSEDistance
from slu_kd_lobes.schedules import BatchErrorTeachers, FixedTeachers

SLICES = {"action": slice(0, 2), "object": slice(2, 4)}
STUDENT = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
# Mean squared differences: 1 and 4.
TEACHERS = torch.stack([STUDENT + 1, STUDENT - 2])


def distil(weights, error):
    """Loss and weights under the MSE."""
    return Distillation(MSEDistance(), weights)(
        STUDENT, TEACHERS, torch.tensor(error), SLICES
    )


def test_hybrid_weighs_teacher_and_professor_by_the_error():
    """(1 - err) * 1 + err * 4."""
    for error in (0.0, 0.25, 1.0):
        loss, weights = distil(BatchErrorTeachers(), error)
        assert loss.item() == pytest.approx((1 - error) * 1 + error * 4)
        assert weights.tolist() == pytest.approx([1 - error, error])


def test_gamma_0_is_the_teacher_and_gamma_1_the_professor():
    """The first two rows of the paper's tables."""
    assert distil(FixedTeachers([1, 0]), 0.5)[0].item() == pytest.approx(1)
    assert distil(FixedTeachers([0, 1]), 0.5)[0].item() == pytest.approx(4)
    loss, _ = Distillation(MSEDistance(), FixedTeachers([1]))(
        STUDENT, TEACHERS[1:], torch.tensor(0.5), SLICES
    )
    assert loss.item() == pytest.approx(4)


def test_any_number_of_teachers():
    """Distances 1, 2 and 3, each with a weight of its own."""
    teachers = torch.stack([STUDENT + shift for shift in (1, -2, 3)])
    loss, _ = Distillation(L1Distance(), FixedTeachers([0.5, 0.3, 0.2]))(
        STUDENT, teachers, torch.tensor(0.0), SLICES
    )
    assert loss.item() == pytest.approx(0.5 * 1 + 0.3 * 2 + 0.2 * 3)


@pytest.mark.parametrize(
    "weights", [FixedTeachers([1]), FixedTeachers([0.5, 0.3, 0.2])]
)
def test_wrong_number_of_weights_is_refused(weights):
    """A weight must not be left out in silence."""
    with pytest.raises(ValueError, match=r"gives \d weights for 2 teachers"):
        distil(weights, 0.5)


def test_hybrid_needs_two_teachers():
    """gamma shares out between two."""
    kd = Distillation(MSEDistance(), BatchErrorTeachers())
    with pytest.raises(ValueError, match="2 weights for 1 teachers"):
        kd(STUDENT, TEACHERS[:1], torch.tensor(0.5), SLICES)


def test_gradient_does_not_run_through_the_error_rate():
    """err weighs the distances; the student cannot lower it to gain."""
    student = STUDENT.clone().requires_grad_(True)
    error = student.sum() / 24  # 0.25, and it depends on the student
    kd = Distillation(MSEDistance(), BatchErrorTeachers())
    loss, weights = kd(student, TEACHERS, error, SLICES)
    assert not weights.requires_grad
    loss.backward()
    # d/ds of 0.75 * mean (s - t)^2 + 0.25 * mean (s - p)^2
    expected = (0.75 * 2 * -1 + 0.25 * 2 * 2) / 4
    assert student.grad.flatten().tolist() == pytest.approx([expected] * 4)


def test_a_teacher_with_another_schema_is_refused():
    """The shapes must agree."""
    kd = Distillation(MSEDistance(), FixedTeachers([1]))
    with pytest.raises(ValueError, match="differ in shape"):
        kd(STUDENT, torch.zeros(1, 1, 5), torch.tensor(0.0), SLICES)


def test_an_utterance_is_wrong_if_one_slot_is():
    """None, the first, the second and both."""
    logits = torch.tensor([[1.0, 0, 0, 1]] * 4, requires_grad=True)
    targets = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]])
    errors = intent_errors(logits, targets, SLICES)
    assert errors.tolist() == [0, 1, 1, 1]
    assert errors.mean().item() == pytest.approx(0.75)
    assert not errors.requires_grad
