"""Metrics of a slot filler, from its logits.

An intent is right when all its slots are. Its probability is the product of
the slots' largest probabilities.
"""

import math

import numpy as np
import torch
from scipy.special import log_softmax


def intent_errors(logits, targets, slices):
    """Which utterances of a batch have at least one slot wrong.

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
    wrong = (torch.stack(guesses, 1) != targets).any(1)
    return (wrong | logits.isnan().any(1)).float()


def expected_calibration_error(confidence, correct, bins=15):
    """How far confidence is from accuracy, averaged over bins of confidence.

    Arguments
    ---------
    confidence : numpy.ndarray
        Probability of each prediction, [items].
    correct : numpy.ndarray
        Whether each prediction is right, [items].
    bins : int
        Number of equally wide bins.

    Returns
    -------
    float
        0 to 1; 0 is perfect.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks", ICML
    2017, equation 3.

    Example
    -------
    >>> confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.4])
    >>> correct = np.array([True, True, True, False, False])
    >>> expected_calibration_error(confidence, correct)  # .8 * .15 + .2 * .4
    0.2
    """
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    which = np.digitize(confidence, edges, right=True)
    gap = np.bincount(which, weights=confidence - correct, minlength=bins)
    return round(float(np.abs(gap).sum() / len(confidence)), 6)


def slot_predictions(logits, slices):
    """Predicted value of each slot and its probability.

    Arguments
    ---------
    logits : numpy.ndarray
        [items, values].
    slices : dict
        Columns of each slot.

    Returns
    -------
    values : numpy.ndarray
        Index of the most probable value, [items, slots].
    probabilities : numpy.ndarray
        Its probability, [items, slots].

    Raises
    ------
    ValueError
        If a logit is NaN: there is no most probable value.

    Example
    -------
    >>> values, probabilities = slot_predictions(
    ...     np.array([[0.0, 0.0, 2.0]]), {"object": slice(0, 3)}
    ... )
    >>> values.tolist(), probabilities.round(3).tolist()
    ([[2]], [[0.787]])
    """
    values, probabilities = [], []
    for columns in slices.values():
        log_probs = log_softmax(logits[:, columns].astype(np.float64), axis=1)
        values.append(log_probs.argmax(1))
        probabilities.append(np.exp(log_probs.max(1)))
    probabilities = np.stack(probabilities, 1)
    lost = np.isnan(probabilities).any(1)
    if lost.any():
        raise ValueError(
            f"the model answers {lost.sum()} of {len(lost)} utterances, first "
            f"number {lost.argmax()}, with NaN: its training diverged or its "
            "weights are damaged; train it again, with a lower lr"
        )
    return np.stack(values, 1), probabilities


def rejection_threshold(confidence, right, keep):
    """The highest threshold that keeps a share of the right answers.

    Arguments
    ---------
    confidence : numpy.ndarray
        Probability of each answer, [items].
    right : numpy.ndarray
        Whether each answer is right, [items].
    keep : float
        Share of the right answers to be kept, above 0 and at most 1.

    Returns
    -------
    float
        Answers of at least this confidence are kept; rounded down to four
        digits. 0 if no answer is right.

    Raises
    ------
    ValueError
        If the share is out of range.

    Example
    -------
    >>> confidence = np.array([0.2, 0.5, 0.9, 0.9])
    >>> right = np.array([False, True, True, True])
    >>> rejection_threshold(confidence, right, keep=1.0)
    0.5
    >>> rejection_threshold(confidence, right, keep=0.6)  # two of three
    0.9
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep {keep} must be above 0 and at most 1")
    if not right.any():
        return 0.0
    confidence = np.sort(confidence[right])
    last = confidence[-math.ceil(keep * len(confidence))]
    return math.floor(1e4 * last) / 1e4


def error_threshold(confidence, right, max_wrong):
    """The lowest threshold that leaves few of the accepted answers wrong.

    Arguments
    ---------
    confidence : numpy.ndarray
        Probability of each answer, [items].
    right : numpy.ndarray
        Whether each answer is right, [items].
    max_wrong : float
        Share of the accepted answers that may be wrong, from 0 to below 1.

    Returns
    -------
    float
        Answers of at least this confidence are accepted; four digits.

    Raises
    ------
    ValueError
        If the share is out of range, or no threshold leaves so few.

    Example
    -------
    >>> confidence = np.array([0.2, 0.5, 0.9, 0.95])
    >>> right = np.array([False, False, True, True])
    >>> error_threshold(confidence, right, max_wrong=0.1)
    0.9
    >>> error_threshold(confidence, right, max_wrong=0.4)  # one of three
    0.5
    """
    if not 0 <= max_wrong < 1:
        raise ValueError(
            f"max_wrong {max_wrong} must be at least 0 and below 1; 0.05 is 5 %"
        )
    least = 1.0
    for threshold in np.unique(np.floor(1e4 * confidence) / 1e4):
        wrong = float((~right[confidence >= threshold]).mean())
        if wrong <= max_wrong:
            return float(threshold)
        least = min(least, wrong)
    raise ValueError(
        f"no threshold leaves at most {100 * max_wrong:g} % of the accepted "
        f"validation answers wrong; the least is {100 * least:.1f} %: allow "
        "more, or train on more data or for more epochs"
    )


def slot_metrics(logits, targets, slices):
    """Errors and calibration of a data set.

    Arguments
    ---------
    logits : numpy.ndarray
        [items, values].
    targets : numpy.ndarray
        Index of the true value of each slot, [items, slots].
    slices : dict
        Columns of each slot.

    Returns
    -------
    dict
        ``n`` items; ``intent_error`` and ``slot_error`` (by slot) in percent;
        ``nll``, mean negative log likelihood of the intent in nats; ``ece``,
        expected calibration error of the intent, 0 to 1.

    Example
    -------
    >>> logits = np.array([[4.0, 0.0, 0.0, 4.0], [4.0, 0.0, 0.0, 4.0]])
    >>> slices = {"action": slice(0, 2), "object": slice(2, 4)}
    >>> metrics = slot_metrics(logits, np.array([[0, 1], [0, 0]]), slices)
    >>> metrics["n"], metrics["intent_error"], metrics["slot_error"]
    (2, 50.0, {'action': 0.0, 'object': 50.0})
    """
    values, probabilities = slot_predictions(logits, slices)
    wrong = values != targets
    nll = np.zeros(len(logits))
    for columns, target in zip(slices.values(), targets.T):
        log_probs = log_softmax(logits[:, columns].astype(np.float64), axis=1)
        nll -= log_probs[np.arange(len(target)), target]
    right = ~wrong.any(1)
    return {
        "n": len(logits),
        "intent_error": round(100 * float(1 - right.mean()), 4),
        "slot_error": {
            name: round(100 * float(share), 4)
            for name, share in zip(slices, wrong.mean(0))
        },
        "nll": round(float(nll.mean()), 6),
        "ece": expected_calibration_error(probabilities.prod(1), right),
    }
