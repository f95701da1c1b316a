"""The KD weight over the epochs, eq. 5, and the teachers' weights, eq. 4."""

import math

import pytest
import torch

from slu_kd_lobes.losses.schedules import (
    BatchErrorTeachers,
    BatchErrorWeight,
    ConstantWeight,
    ExponentialWeight,
    FixedTeachers,
    TriangularWeight,
)

EPOCHS = 20
SCHEDULES = [
    ConstantWeight(0.1),
    ConstantWeight(0.5),
    BatchErrorWeight(),
    ExponentialWeight(),
    TriangularWeight(EPOCHS),
]


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_constant_weight_stays(beta):
    """Table 1 of the paper: 0.1 and 0.5."""
    schedule = ConstantWeight(beta)
    for epoch in (1, 2, 10, 15, 20):
        assert schedule(epoch, torch.rand(())) == beta


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
def test_constant_weight_outside_0_to_1_is_refused(beta):
    """Either term of eq. 1 would be driven up."""
    with pytest.raises(ValueError, match="outside 0 to 1"):
        ConstantWeight(beta)


@pytest.mark.parametrize("error", [0.0, 0.25, 1.0])
def test_error_weight_is_the_error_rate_of_the_batch(error):
    """Eq. 5a, in every epoch."""
    for epoch in (1, 2, 10, 15, 20):
        assert float(BatchErrorWeight()(epoch, torch.tensor(error))) == error


@pytest.mark.parametrize(
    "epoch, weight",
    [(1, 1.0), (2, 0.36787944), (10, math.exp(-9)), (20, math.exp(-19))],
)
def test_exponential_weight(epoch, weight):
    """Eq. 5b: exp(1 - t), so that the first epoch is pure distillation."""
    assert ExponentialWeight()(epoch, 0.5) == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize(
    "epoch, weight",
    # mu = 10: from mu / 2 to 3 mu / 2, with the peak of 0.1 at mu.
    [(1, 0), (2, 0), (5, 0), (6, 0.02), (9, 0.08), (10, 0.1)]
    + [(11, 0.08), (14, 0.02), (15, 0), (20, 0)],
)
def test_triangular_weight(epoch, weight):
    """Eq. 5c: 0.1 max(0, 1 - |t - mu| / (0.5 mu)), mu = T / 2."""
    schedule = TriangularWeight(epochs=EPOCHS)
    assert schedule(epoch, 0.5) == pytest.approx(weight, abs=1e-12)


def test_triangular_weight_of_an_odd_number_of_epochs():
    """mu = 2.5 of 5 epochs lies between two of them."""
    weights = [TriangularWeight(5, peak=0.5)(t, 0.0) for t in range(1, 6)]
    assert weights == pytest.approx([0, 0.3, 0.3, 0, 0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weights_make_a_convex_combination(schedule):
    """Eq. 1: beta is in 0 to 1, so alpha = 1 - beta is, too."""
    ce, kd = torch.tensor(2.0), torch.tensor(6.0)
    for epoch in range(1, EPOCHS + 1):
        for error in torch.linspace(0, 1, 5):
            beta = schedule(epoch, error)
            assert 0 <= beta <= 1
            assert 2 <= (1 - beta) * ce + beta * kd <= 6


def test_fixed_teachers_keep_their_weights():
    """Whatever the student does; any number of teachers, in any order."""
    for values in ([1], [0, 1], [0.2, 0.3, 0.5]):
        weights = dict(zip("abc", values))
        for error in (0.0, 0.7):
            for names in (list(weights), list(weights)[::-1]):
                given = FixedTeachers(weights)(names, torch.tensor(error))
                assert given == pytest.approx(weights)


def test_teachers_without_weights_share_alike():
    """Any number of them, with a sum of 1; none have none."""
    given = FixedTeachers()(["a", "b", "c", "d"], torch.tensor(0.7))
    assert given == dict.fromkeys("abcd", 0.25)
    assert FixedTeachers()([], torch.tensor(0.7)) == {}


@pytest.mark.parametrize("error", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("first", ["teacher", "professor"])
def test_professor_speaks_as_much_as_the_student_errs(error, first):
    """Eq. 4 with gamma = err: 1 - err for the teacher, err for the other."""
    names = sorted(["teacher", "professor"], key=lambda name: name != first)
    weights = BatchErrorTeachers()(names, torch.tensor(error))
    assert weights == pytest.approx({"teacher": 1 - error, "professor": error})


@pytest.mark.parametrize(
    "weights, kind",
    [
        (FixedTeachers({"teacher": 0.5, "professor": 0.5}), "fixed_weights"),
        (BatchErrorTeachers(), "batch_error"),
    ],
)
@pytest.mark.parametrize(
    "names",
    [[], ["teacher"], ["teacher", "aunt"], ["teacher", "professor", "aunt"]],
)
def test_weights_for_others_than_the_teachers_are_refused(weights, kind, names):
    """One less, another one, one more; both lists are named."""
    with pytest.raises(ValueError) as caught:
        weights(names, torch.tensor(0.5))
    said = ", ".join(names) or "none"
    assert str(caught.value) == (
        f"{kind} has weights for teacher, professor, and the teachers are "
        f"{said}: name the same in both"
    )
