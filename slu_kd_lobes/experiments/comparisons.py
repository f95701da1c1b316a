"""What runs of systems show: means, intervals, tests, parts of a test set."""

import numpy as np
from scipy.stats import false_discovery_control

from slu_kd_lobes.evaluation.statistics import (
    bootstrap_difference,
    mcnemar,
    paired_difference,
    wilson_interval,
)


def summarise(results, test_set):
    """Error of a system on a test set over its runs.

    Arguments
    ---------
    results : list of slu_kd_lobes.experiments.records.Result
    test_set : str

    Returns
    -------
    dict or None
        ``errors`` of each run in percent, their ``mean`` and ``sd``;
        ``items``; ``wrong``, the mean number of errors; ``low`` and ``high``,
        the Wilson interval of that number; ``best``, the mean error at the
        best epoch; mean ``nll`` and ``ece``; ``failed``, how many runs left
        nothing. None if no run was tested on the set.
    """
    scores = [r.scores[test_set] for r in results if test_set in r.scores]
    if not scores:
        return None
    errors = [score.percent for score in scores]
    # Runs of different draws may have different items.
    items = round(np.mean([score.n for score in scores]))
    wrong = float(np.mean([score.errors for score in scores]))
    low, high = wilson_interval(round(wrong), items)
    return {
        "errors": errors,
        "mean": float(np.mean(errors)),
        "sd": float(np.std(errors, ddof=1)) if len(errors) > 1 else None,
        "items": items,
        "wrong": wrong,
        "low": low,
        "high": high,
        "best": float(np.mean([score.best_percent for score in scores])),
        "nll": float(np.mean([score.nll for score in scores])),
        "ece": float(np.mean([score.ece for score in scores])),
        "failed": len(results) - len(scores),
    }


def compare(records, results, reference, test_set):
    """Tests a system against another, run by run.

    Arguments
    ---------
    records : slu_kd_lobes.experiments.records.Records
        Holds the items.
    results : list of slu_kd_lobes.experiments.records.Result
        Of the system.
    reference : list of slu_kd_lobes.experiments.records.Result
        Of the other; runs of the same draw and seed belong together.
    test_set : str

    Returns
    -------
    dict or None
        What `paired_difference` gives (system minus reference), ``pairs``,
        ``mcnemar`` (the median p of the pairs), ``speakers`` and
        ``wordings`` (the interval of the difference over these; None if
        there is only one). None if no pair is there.
    """
    others = {(r.draw, r.seed): r for r in reference if test_set in r.scores}
    pairs = [
        [records.of_items(r.run, test_set) for r in (result, other)]
        for result in results
        if test_set in result.scores
        for other in [others.get((result.draw, result.seed))]
        if other
    ]
    if not pairs:
        return None
    wrong = [[items["wrong"] for items in pair] for pair in pairs]
    first, second = (np.concatenate(runs) for runs in zip(*wrong))
    over = {
        f"{group}s": bootstrap_difference(
            first.astype(float),
            second.astype(float),
            sum((list(items[group]) for items, _ in pairs), []),
        )
        for group in ("speaker", "wording")
    }
    rates = 100 * np.array([[run.mean() for run in pair] for pair in wrong])
    return {
        **paired_difference(*rates.T),
        "pairs": len(pairs),
        "mcnemar": float(np.median([mcnemar(*pair) for pair in wrong])),
        **over,
    }


def correct_for_many(p_values):
    """Adjusts p for their number, so that few of the small ones are chance.

    Source: Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate",
    1995. NaN stays and does not count.

    Arguments
    ---------
    p_values : list of float

    Returns
    -------
    list of float

    Example
    -------
    >>> correct_for_many([0.01, float("nan"), 0.04])
    [0.02, nan, 0.04]
    """
    values = np.array(p_values, float)
    known = ~np.isnan(values)
    if known.any():
        values[known] = false_discovery_control(values[known])
    return values.tolist()


def shares(records, results, test_set, groups):
    """Error of a system in groups of items, in percent.

    Arguments
    ---------
    records : slu_kd_lobes.experiments.records.Records
    results : list of slu_kd_lobes.experiments.records.Result
        Runs that were tested on the set.
    test_set : str
    groups : callable
        Takes what `Records.of_items` gives; returns the group of each item.

    Returns
    -------
    dict
        By group, in order: the mean error over runs and the number of items.
    """
    items = [records.of_items(result.run, test_set) for result in results]
    wrong = np.concatenate([each["wrong"] for each in items])
    names = np.concatenate([groups(each) for each in items])
    return {
        str(name): (
            100 * float(wrong[names == name].mean()),
            round((names == name).sum() / len(items)),
        )
        for name in sorted(set(names.tolist()))
    }


def length_groups(items, parts=4):
    """Quarters of the items by their duration.

    Arguments
    ---------
    items : dict
        As `Records.of_items` gives it.
    parts : int

    Returns
    -------
    list of str

    Example
    -------
    >>> length_groups({"seconds": np.array([1.0, 2.0, 3.0, 4.0])}, parts=2)
    ['1.0-2.5 s', '1.0-2.5 s', '2.5-4.0 s', '2.5-4.0 s']
    """
    seconds = items["seconds"]
    edges = np.quantile(seconds, np.linspace(0, 1, parts + 1))
    quarters = np.searchsorted(edges[1:-1], seconds, side="right")
    return [f"{edges[i]:.1f}-{edges[i + 1]:.1f} s" for i in quarters]
