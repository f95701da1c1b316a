"""Eq. 4: the student between a teacher and a professor."""

import itertools

import pytest
import torch

from slu_kd_lobes.evaluation.metrics import intent_errors
from slu_kd_lobes.losses.distances import L1Distance, MSEDistance
from slu_kd_lobes.losses.distillation import Distillation
from slu_kd_lobes.losses.schedules import BatchErrorTeachers, FixedTeachers

SLICES = {"action": slice(0, 2), "object": slice(2, 4)}
STUDENT = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
# Mean squared differences: 1 and 4.
LOGITS = {"teacher": STUDENT + 1, "professor": STUDENT - 2}


def only(name):
    """Weights with which one of the two is heard alone."""
    return FixedTeachers({key: float(key == name) for key in LOGITS})


def distil(weights, error, names=("teacher", "professor"), logits=LOGITS):
    """Loss and weights under the MSE."""
    return Distillation(names, MSEDistance(), weights)(
        STUDENT, logits, torch.tensor(error), SLICES
    )


def test_hybrid_weighs_teacher_and_professor_by_the_error():
    """(1 - err) * 1 + err * 4."""
    for error in (0.0, 0.25, 1.0):
        loss, weights = distil(BatchErrorTeachers(), error)
        assert loss.item() == pytest.approx((1 - error) * 1 + error * 4)
        expected = {"teacher": 1 - error, "professor": error}
        assert weights == pytest.approx(expected)


@pytest.mark.parametrize("names", list(itertools.permutations(LOGITS)))
@pytest.mark.parametrize("given", list(itertools.permutations(LOGITS)))
def test_the_order_of_the_teachers_does_not_matter(names, given):
    """Neither in their list nor in the mapping: gamma is the professor's."""
    logits = {name: LOGITS[name] for name in given}
    fixed = FixedTeachers({"professor": 0.3, "teacher": 0.7})
    for weights, gamma in ((BatchErrorTeachers(), 0.25), (fixed, 0.3)):
        loss, said = distil(weights, 0.25, names, logits)
        assert loss.item() == pytest.approx((1 - gamma) * 1 + gamma * 4)
        expected = {"teacher": 1 - gamma, "professor": gamma}
        assert said == pytest.approx(expected)


@pytest.mark.parametrize("weights", [BatchErrorTeachers(), FixedTeachers()])
def test_no_digit_follows_from_the_order_of_the_teachers(weights):
    """Neither of the loss nor of its gradient."""
    numbers = [torch.randn(5, 4) for _ in range(3)]
    found = []
    for names in itertools.permutations(LOGITS):
        student = numbers[0].clone().requires_grad_()
        logits = dict(zip(("teacher", "professor"), numbers[1:]))
        logits = {name: logits[name] for name in names}
        kd = Distillation(names, MSEDistance(), weights)
        loss, _ = kd(student, logits, torch.tensor(0.3), SLICES)
        loss.backward()
        found.append((loss.detach(), student.grad))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize(
    "names, weights, words",
    [
        (["teacher", "teacher"], None, "names one twice: teacher, teacher"),
        (["teacher"], {"teacher": -0.5}, "weight of the teacher is -0.5"),
        (
            ["teacher"],
            {"teacher": float("nan")},
            "weight of the teacher is nan",
        ),
    ],
)
def test_what_is_no_weighting_is_refused(names, weights, words):
    """Named twice, a teacher would be heard half as loud in silence."""
    with pytest.raises(ValueError, match=words):
        Distillation(names, MSEDistance(), FixedTeachers(weights))


def test_gamma_0_is_the_teacher_and_gamma_1_the_professor():
    """The first two rows of the paper's tables."""
    assert distil(only("teacher"), 0.5)[0].item() == pytest.approx(1)
    assert distil(only("professor"), 0.5)[0].item() == pytest.approx(4)
    for name, expected in (("teacher", 1), ("professor", 4)):
        logits = {name: LOGITS[name]}
        loss, weights = distil(FixedTeachers(), 0.5, [name], logits)
        assert loss.item() == pytest.approx(expected)
        assert weights == {name: 1.0}


def test_any_number_of_teachers():
    """Distances 1, 2 and 3, each with a weight of its own."""
    logits = {f"text {abs(i)}": STUDENT + i for i in (1, -2, 3)}
    shares = {"text 3": 0.2, "text 1": 0.5, "text 2": 0.3}
    loss, weights = Distillation(logits, L1Distance(), FixedTeachers(shares))(
        STUDENT, logits, torch.tensor(0.0), SLICES
    )
    assert loss.item() == pytest.approx(0.5 * 1 + 0.3 * 2 + 0.2 * 3)
    assert weights == shares


def test_no_teacher_is_no_distillation():
    """The baseline builds the term and never calls it."""
    Distillation([], MSEDistance(), FixedTeachers())


@pytest.mark.parametrize(
    "weights",
    [
        {"teacher": 1.0},
        {"teacher": 0.5, "professor": 0.3, "aunt": 0.2},
        {"teacher": 0.5, "aunt": 0.5},
    ],
)
def test_weights_of_other_names_are_refused(weights):
    """At once: a weight must not be left out in silence."""
    with pytest.raises(ValueError, match="fixed_weights has weights for teach"):
        Distillation(list(LOGITS), MSEDistance(), FixedTeachers(weights))


@pytest.mark.parametrize("name", LOGITS)
def test_hybrid_needs_two_teachers(name):
    """gamma shares out between two."""
    with pytest.raises(ValueError, match=f"and the teachers are {name}: name"):
        Distillation([name], MSEDistance(), BatchErrorTeachers())


@pytest.mark.parametrize(
    "logits",
    [
        {"teacher": STUDENT},
        {"teacher": STUDENT, "aunt": STUDENT},
        {**LOGITS, "aunt": STUDENT},
    ],
)
def test_logits_of_other_names_are_refused(logits):
    """One less, another one, one more: none is left out in silence."""
    for weights in (FixedTeachers(), BatchErrorTeachers()):
        with pytest.raises((KeyError, ValueError)):
            distil(weights, 0.5, logits=logits)


def test_gradient_does_not_run_through_the_error_rate():
    """err weighs the distances; the student cannot lower it to gain."""
    student = STUDENT.clone().requires_grad_(True)
    error = student.sum() / 24  # 0.25, and it depends on the student
    kd = Distillation(LOGITS, MSEDistance(), BatchErrorTeachers())
    loss, weights = kd(student, LOGITS, error, SLICES)
    assert not any(weight.requires_grad for weight in weights.values())
    loss.backward()
    # d/ds of 0.75 * mean (s - t)^2 + 0.25 * mean (s - p)^2
    expected = (0.75 * 2 * -1 + 0.25 * 2 * 2) / 4
    assert student.grad.flatten().tolist() == pytest.approx([expected] * 4)


def test_a_teacher_with_another_schema_is_refused():
    """The shapes must agree."""
    with pytest.raises(ValueError, match="differ in shape"):
        logits = {"teacher": torch.zeros(1, 5)}
        distil(FixedTeachers(), 0.0, ["teacher"], logits)


def test_an_utterance_is_wrong_if_one_slot_is():
    """None, the first, the second and both."""
    logits = torch.tensor([[1.0, 0, 0, 1]] * 4, requires_grad=True)
    targets = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]])
    errors = intent_errors(logits, targets, SLICES)
    assert errors.tolist() == [0, 1, 1, 1]
    assert errors.mean().item() == pytest.approx(0.75)
    assert not errors.requires_grad
