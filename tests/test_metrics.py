"""Errors, likelihood and calibration, by hand and against scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import accuracy_score, log_loss

from slu_kd_lobes.evaluation.metrics import (
    error_threshold,
    expected_calibration_error,
    intent_errors,
    slot_metrics,
    slot_predictions,
)
from slu_kd_lobes.losses.slots import SlotCrossEntropy

SLICES = {"action": slice(0, 6), "object": slice(6, 20), "place": slice(20, 24)}


@pytest.fixture
def outputs():
    """Logits and targets of 500 items, about half of them right."""
    rng = np.random.default_rng(0)
    targets = np.stack([rng.integers(n, size=500) for n in (6, 14, 4)], 1)
    logits = rng.normal(size=(500, 24)).astype(np.float32)
    for columns, target in zip(SLICES.values(), targets.T):
        logits[np.arange(500), columns.start + target] += 3
    return logits, targets


def test_calibration_error_by_hand():
    """Two bins: 0.6 * |0.25 - 1/3| + 0.4 * |0.9 - 0.5|."""
    confidence = np.array([0.2, 0.25, 0.3, 0.8, 1.0])
    correct = np.array([False, True, False, True, False])
    error = expected_calibration_error(confidence, correct, bins=2)
    assert error == pytest.approx(0.6 * (1 / 3 - 0.25) + 0.4 * 0.4, abs=1e-6)


def test_bins_are_open_below_and_closed_above():
    """Guo et al. 2017: ((m - 1) / M, m / M]."""
    confidence, correct = np.array([0.5, 0.6]), np.array([True, False])
    # Together they would be |0.55 - 0.5| = 0.05.
    error = expected_calibration_error(confidence, correct, bins=2)
    assert error == pytest.approx((0.5 + 0.6) / 2)


def test_perfect_calibration_is_0_and_the_worst_is_1():
    """Sure and right, sure and wrong; one bin more changes nothing."""
    sure = np.ones(10)
    for bins in (1, 15, 16):
        assert expected_calibration_error(sure, sure > 0, bins) == 0
        assert expected_calibration_error(sure, sure < 0, bins) == 1
    half = np.full(10, 0.5)
    assert expected_calibration_error(half, np.arange(10) < 5) == 0


def test_calibration_error_against_a_loop(outputs):
    """Equation 3 of Guo et al., bin by bin."""
    logits, targets = outputs
    values, probabilities = slot_predictions(logits, SLICES)
    confidence = probabilities.prod(1)
    right = (values == targets).all(1)
    error = 0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            error += inside.mean() * gap
    assert slot_metrics(logits, targets, SLICES)["ece"] == pytest.approx(
        error, abs=1e-6
    )


def test_predictions_are_those_of_a_softmax_over_each_slot(outputs):
    """Index within the slot, and its probability."""
    logits, _ = outputs
    values, probabilities = slot_predictions(logits, SLICES)
    for i, columns in enumerate(SLICES.values()):
        expected = softmax(logits[:, columns].astype(float), axis=1)
        assert (values[:, i] == expected.argmax(1)).all()
        np.testing.assert_allclose(probabilities[:, i], expected.max(1))


def test_errors_and_likelihood_against_scikit_learn(outputs):
    """In percent; an intent is right when all slots are."""
    logits, targets = outputs
    metrics = slot_metrics(logits, targets, SLICES)
    values, _ = slot_predictions(logits, SLICES)
    nll = 0
    for i, (name, columns) in enumerate(SLICES.items()):
        accuracy = accuracy_score(targets[:, i], values[:, i])
        assert metrics["slot_error"][name] == pytest.approx(
            100 * (1 - accuracy), abs=1e-4
        )
        probabilities = softmax(logits[:, columns].astype(float), axis=1)
        size = probabilities.shape[1]
        nll += log_loss(targets[:, i], probabilities, labels=range(size))
    right = (values == targets).all(1)
    assert 0.2 < right.mean() < 0.8
    assert metrics["intent_error"] == pytest.approx(
        100 * (1 - right.mean()), abs=1e-4
    )
    assert metrics["nll"] == pytest.approx(nll, abs=1e-5)
    assert metrics["n"] == 500


def test_likelihood_is_the_cross_entropy_of_the_labels(outputs):
    """The loss of eq. 2 on the whole set."""
    logits, targets = outputs
    loss = SlotCrossEntropy()(
        torch.from_numpy(logits), torch.from_numpy(targets), SLICES
    )
    assert slot_metrics(logits, targets, SLICES)["nll"] == pytest.approx(
        loss.item(), abs=1e-5
    )


def test_hand_worked_block():
    """Four items; wrong in nothing, the first slot, the second, both."""
    slices = {"action": slice(0, 2), "object": slice(2, 4)}
    logits = np.array([[np.log(3), 0, 0, np.log(4)]] * 4)  # 3/4 and 4/5
    targets = np.array([[0, 1], [1, 1], [0, 0], [1, 0]])
    metrics = slot_metrics(logits, targets, slices)
    likelihoods = [0.75 * 0.8, 0.25 * 0.8, 0.75 * 0.2, 0.25 * 0.2]
    assert metrics == {
        "n": 4,
        "intent_error": 75.0,
        "slot_error": {"action": 50.0, "object": 50.0},
        "nll": pytest.approx(-np.log(likelihoods).mean(), abs=1e-6),
        "ece": pytest.approx(0.6 - 0.25, abs=1e-6),
    }


def test_half_precision_logits_lose_nothing_more(outputs):
    """Their probabilities are computed in double precision."""
    logits, targets = outputs
    half = logits.astype(np.float16)
    assert slot_metrics(half, targets, SLICES) == slot_metrics(
        half.astype(np.float64), targets, SLICES
    )


def test_extreme_logits_stay_finite():
    """A probability of 0 in single precision is still a likelihood."""
    logits = np.array([[500.0, -500.0]], dtype=np.float32)
    metrics = slot_metrics(logits, np.array([[1]]), {"action": slice(0, 2)})
    assert metrics["nll"] == pytest.approx(1000)


def test_threshold_by_the_share_of_wrong_answers_by_hand():
    """Of ten accepted answers one is wrong, of nine none, of eleven two."""
    confidence = np.arange(11) / 20 + 0.30004
    right = np.arange(11) > 1
    assert error_threshold(confidence, right, 0.1) == 0.35
    assert error_threshold(confidence, right, 0.09) == 0.4
    assert error_threshold(confidence, right, 0.0) == 0.4
    assert error_threshold(confidence, right, 0.19) == 0.3  # 2 / 11


def test_a_higher_share_accepts_no_fewer():
    """And what is accepted keeps to the share, to the last digit."""
    rng = np.random.default_rng(1)
    confidence = rng.random(3000)
    right = rng.random(3000) < confidence
    accepted = []
    for share in (0.05, 0.1, 0.2, 0.4):
        threshold = error_threshold(confidence, right, share)
        assert (~right[confidence >= threshold]).mean() <= share
        accepted.append((confidence >= threshold).sum())
    assert accepted == sorted(accepted) and accepted[0] > 0


@pytest.mark.parametrize("share", [-0.1, 1.0, 5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    """A percentage, for instance."""
    with pytest.raises(ValueError, match="must be at least 0 and below 1"):
        error_threshold(np.ones(2), np.ones(2, bool), share)


def test_a_share_that_no_threshold_reaches_is_refused():
    """The most confident answer is wrong; one in four at the best."""
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    right = np.array([False, True, True, True])
    with pytest.raises(ValueError, match=r"at most 20 % .* least is 25.0 %"):
        error_threshold(confidence, right, 0.2)
    assert error_threshold(confidence, right, 0.25) == 0.6


@pytest.mark.parametrize("row", [[np.nan] * 24, [*[0.0] * 20, np.nan, 0, 0, 0]])
def test_answers_that_are_not_numbers_are_no_answers(outputs, row):
    """They are refused, and not the first value of each slot."""
    logits, targets = outputs
    logits[[7, 9]] = row
    with pytest.raises(ValueError, match="2 of 500 utterances, first number 7"):
        slot_metrics(logits, targets, SLICES)
    targets[:] = 0
    errors = intent_errors(
        torch.from_numpy(logits), torch.from_numpy(targets), SLICES
    )
    assert errors[7] == errors[9] == 1
