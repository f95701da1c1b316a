"""What finished runs say: errors of every item, and comparisons of systems."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import false_discovery_control

from slu_kd_lobes.experiments.statistics import (
    bootstrap_difference,
    mcnemar,
    paired_difference,
    wilson_interval,
)
from slu_kd_lobes.files import read_csv


@dataclass
class Outcome:
    """A run of a matrix and what it left; `metrics` is None if it failed."""

    run: object
    folder: Path
    manifests: Path
    metrics: dict = None
    _items: dict = field(default_factory=dict)

    def block(self, split):
        """Metrics of a test set, or None."""
        if self.metrics is None:
            return None
        main = self.metrics["main_test"]
        return self.metrics.get("test" if split == main else split)

    def items(self, split):
        """What happened to each item of a test set.

        Arguments
        ---------
        split : str

        Returns
        -------
        dict
            ``wrong``, [items]; ``confidence``, [items]; ``slots``, whether
            each slot is wrong, by name; ``speaker``, ``wording``;
            ``duration`` in seconds; all in the order of the utterances' names.
        """
        if split not in self._items:
            self._items[split] = self._read(split)
        return self._items[split]

    def _read(self, split):
        predictions = read_csv(self.folder / f"predictions_{split}.csv")
        predictions.sort(key=lambda row: row["ID"])
        about = read_csv(self.manifests / f"{split}.csv")
        about = {row["ID"]: row for row in about}
        names = [
            n[: -len("_true")] for n in predictions[0] if n.endswith("_true")
        ]
        slots = {
            name: np.array(
                [
                    row[f"{name}_true"] != row[f"{name}_predicted"]
                    for row in predictions
                ]
            )
            for name in names
        }
        probabilities = [
            [float(row[f"{name}_probability"]) for name in names]
            for row in predictions
        ]
        return {
            "wrong": np.any(list(slots.values()), axis=0),
            "confidence": np.prod(probabilities, axis=1),
            "slots": slots,
            "speaker": [about[row["ID"]]["spk_id"] for row in predictions],
            "wording": [
                about[row["ID"]]["transcription"] for row in predictions
            ],
            "duration": np.array(
                [float(about[row["ID"]]["duration"]) for row in predictions]
            ),
        }


def read_outcomes(runs, jobs):
    """Outcomes of the runs of a matrix.

    Arguments
    ---------
    runs : list of Run
    jobs : list of dict
        Of each run its ``folder`` and ``manifests``, the folder of these.

    Returns
    -------
    dict
        Lists of Outcome by (condition, system), in the order of the runs.
    """
    outcomes = defaultdict(list)
    for run, job in zip(runs, jobs):
        outcome = Outcome(run, job["folder"], job["manifests"])
        path = outcome.folder / "metrics.json"
        if path.is_file():
            outcome.metrics = json.loads(path.read_text(encoding="utf-8"))
        outcomes[run.condition, run.system].append(outcome)
    return dict(outcomes)


def summarise(outcomes, split):
    """Error of a system on a test set over its runs.

    Arguments
    ---------
    outcomes : list of Outcome
    split : str

    Returns
    -------
    dict or None
        ``errors`` of each run in percent, their ``mean`` and ``sd``;
        ``items``; ``wrong``, the mean number of errors; ``low`` and ``high``,
        the Wilson interval of that number; ``best``, the mean error at the
        best epoch; mean ``nll`` and ``ece``; ``failed``, how many runs left
        nothing. None if no run did.
    """
    blocks = [o.block(split) for o in outcomes if o.block(split)]
    if not blocks:
        return None
    errors = [block["intent_error"] for block in blocks]
    # Runs of different draws may have different items.
    items = round(np.mean([block["n"] for block in blocks]))
    wrong = float(np.mean([b["intent_error"] * b["n"] for b in blocks])) / 100
    low, high = wilson_interval(round(wrong), items)
    by_epoch = [
        o.metrics["intent_error_by_epoch"]["best"][split]
        for o in outcomes
        if o.block(split)
    ]
    return {
        "errors": errors,
        "mean": float(np.mean(errors)),
        "sd": float(np.std(errors, ddof=1)) if len(errors) > 1 else None,
        "items": items,
        "wrong": wrong,
        "low": low,
        "high": high,
        "best": float(np.mean(by_epoch)),
        "nll": float(np.mean([block["nll"] for block in blocks])),
        "ece": float(np.mean([block["ece"] for block in blocks])),
        "failed": len(outcomes) - len(blocks),
    }


def compare(outcomes, reference, split):
    """Tests a system against another, run by run.

    Arguments
    ---------
    outcomes : list of Outcome
        Of the system.
    reference : list of Outcome
        Of the other; runs of the same draw and seed belong together.
    split : str

    Returns
    -------
    dict or None
        What `paired_difference` gives (system minus reference), ``pairs``,
        ``mcnemar`` (the median p of the pairs), ``speakers`` and
        ``wordings`` (the interval of the difference over these). None if no
        pair is there.
    """
    others = {(o.run.draw, o.run.seed): o for o in reference if o.block(split)}
    pairs = [
        (o, others[o.run.draw, o.run.seed])
        for o in outcomes
        if o.block(split) and (o.run.draw, o.run.seed) in others
    ]
    if not pairs:
        return None
    wrong = [[o.items(split)["wrong"] for o in pair] for pair in pairs]
    own, other = (np.concatenate(runs).astype(float) for runs in zip(*wrong))
    over = {
        f"{group}s": bootstrap_difference(
            own,
            other,
            [g for o, _ in pairs for g in o.items(split)[group]],
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


def shares(outcomes, split, groups):
    """Error of a system in groups of items, in percent.

    Arguments
    ---------
    outcomes : list of Outcome
    split : str
    groups : callable
        Takes what `Outcome.items` gives; returns the group of each item.

    Returns
    -------
    dict
        By group, in order: the mean error over runs and the number of items.
    """
    found = [o.items(split) for o in outcomes if o.block(split)]
    wrong = np.concatenate([items["wrong"] for items in found])
    names = np.concatenate([groups(items) for items in found])
    return {
        str(name): (
            100 * float(wrong[names == name].mean()),
            round((names == name).sum() / len(found)),
        )
        for name in sorted(set(names.tolist()))
    }


def length_groups(items, parts=4):
    """Quarters of the items by their duration.

    Arguments
    ---------
    items : dict
        As `Outcome.items` gives it.
    parts : int

    Returns
    -------
    list of str

    Example
    -------
    >>> length_groups({"duration": np.array([1.0, 2.0, 3.0, 4.0])}, parts=2)
    ['1.0-2.5 s', '1.0-2.5 s', '2.5-4.0 s', '2.5-4.0 s']
    """
    seconds = items["duration"]
    edges = np.quantile(seconds, np.linspace(0, 1, parts + 1))
    which = np.searchsorted(edges[1:-1], seconds, side="right")
    return [f"{edges[i]:.1f}-{edges[i + 1]:.1f} s" for i in which]
