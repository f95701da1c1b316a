"""Intervals and tests for error rates, on SciPy.

What is compared decides the test: two systems on the same items (McNemar),
on the same speakers (bootstrap), or over the same draws (paired t).
"""

import numpy as np
from scipy import stats


def wilson_interval(errors, items, confidence=0.95):
    """Interval of an error rate.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and
    Statistical Inference", 1927.

    Arguments
    ---------
    errors : int
    items : int
    confidence : float

    Returns
    -------
    low, high : float
        In percent.

    Example
    -------
    >>> low, high = wilson_interval(45, 3793)
    >>> round(low, 2), round(high, 2)
    (0.89, 1.58)
    """
    interval = stats.binomtest(int(errors), int(items)).proportion_ci(
        confidence, method="wilson"
    )
    return float(100 * interval.low), float(100 * interval.high)


def mcnemar(first, second):
    """Exact test of two systems on the same items.

    Source: Q. McNemar, "Note on the sampling error of the difference between
    correlated proportions or percentages", 1947.

    Arguments
    ---------
    first : numpy.ndarray
        Whether the first system is wrong, [items].
    second : numpy.ndarray
        The same of the second.

    Returns
    -------
    float
        Two-sided p: how likely so unequal a split of the items on which they
        differ is by chance. 1 if they never differ.

    Example
    -------
    >>> first = np.array([1, 1, 1, 1, 1, 1, 0, 0], dtype=bool)
    >>> mcnemar(first, np.zeros(8, dtype=bool))  # 2 / 2**6
    0.03125
    """
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    test = stats.binomtest(only_first, only_first + only_second)
    return float(test.pvalue)


def bootstrap_difference(first, second, groups, confidence=0.95, seed=0):
    """Interval of a difference of error rates, over speakers or wordings.

    Utterances of a speaker, or of a wording, succeed or fail together, so
    whole ones are drawn.

    Source: M. Bisani, H. Ney, "Bootstrap estimates for confidence intervals
    in ASR performance evaluation", 2004.

    Arguments
    ---------
    first : numpy.ndarray
        Errors of the first system on each item, 0 to 1, [items].
    second : numpy.ndarray
        The same of the second.
    groups : list
        Speaker, or wording, of each item.
    confidence : float
    seed : int

    Returns
    -------
    low, high : float
        Of first minus second, in points of a percent. None in place of both
        with less than two groups: one says nothing of others.

    Example
    -------
    >>> errors = np.array([1.0, 1.0, 0.0, 0.0])
    >>> bootstrap_difference(errors, errors - 0.5, ["a", "a", "b", "b"])
    (50.0, 50.0)
    """
    names, which = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None
    difference = np.bincount(which, weights=first - second)
    items = np.bincount(which)

    def rate(difference, items, axis=-1):
        return 100 * difference.sum(axis) / items.sum(axis)

    result = stats.bootstrap(
        (difference, items),
        rate,
        paired=True,
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)


def paired_difference(first, second, confidence=0.95):
    """Mean difference of two systems over the same draws and seeds.

    Arguments
    ---------
    first : list of float
        Error of the first system in each run, in percent.
    second : list of float
        The same of the second.
    confidence : float

    Returns
    -------
    dict
        ``difference``, first minus second; ``low`` and ``high`` of its
        interval; ``p`` of the paired t test. The last three are NaN with less
        than two runs.

    Example
    -------
    >>> result = paired_difference([3.0, 5.0, 4.0], [2.0, 3.0, 3.0])
    >>> {name: round(value, 2) for name, value in result.items()}
    {'difference': 1.33, 'low': -0.1, 'high': 2.77, 'p': 0.06}
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    nan = float("nan")
    result = {"difference": float((first - second).mean())}
    if len(first) < 2:
        return {**result, "low": nan, "high": nan, "p": nan}
    if np.ptp(first - second) == 0:  # no spread: the test divides by it
        value = result["difference"]
        return {**result, "low": value, "high": value, "p": float(value == 0)}
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval(confidence)
    return {
        **result,
        "low": float(interval.low),
        "high": float(interval.high),
        "p": float(test.pvalue),
    }


def risk_coverage(confidence, wrong):
    """Error among the most confident answers, for every share of them.

    Source: Y. Geifman, R. El-Yaniv, "Selective Classification for Deep Neural
    Networks", 2017, section 2.

    Arguments
    ---------
    confidence : numpy.ndarray
        Probability of each answer, [items].
    wrong : numpy.ndarray
        Whether each is wrong, [items].

    Returns
    -------
    coverage : numpy.ndarray
        Share of the items that are answered, [items].
    risk : numpy.ndarray
        Error rate among them, [items].
    area : float
        Mean risk over all coverages; 0 is best.

    Example
    -------
    >>> coverage, risk, area = risk_coverage(
    ...     np.array([0.9, 0.2, 0.6, 0.5]), np.array([0, 1, 0, 1])
    ... )
    >>> coverage.tolist(), risk.round(2).tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.33, 0.5])
    """
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    risk = np.cumsum(np.asarray(wrong)[order]) / answered
    return answered / len(order), risk, float(risk.mean())
