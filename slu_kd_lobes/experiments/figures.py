"""Plots of what runs left, drawn for the width of a README."""

from collections import defaultdict

import numpy as np
from matplotlib.ticker import MaxNLocator, NullLocator

from slu_kd_lobes.evaluation.plots import (
    COLOURS,
    WIDTH,
    drawn,
    label_ends,
    plt,
    readable_log,
    save_figure,
)
from slu_kd_lobes.evaluation.statistics import risk_coverage
from slu_kd_lobes.experiments.corpora import condition_name


def draw_figures(matrix, outcomes, folder):
    """Every plot that the runs of a matrix allow.

    Arguments
    ---------
    matrix : Matrix
    outcomes : list of Outcome
    folder : Path
        Takes ``<matrix>_<plot>.png``; one that is no longer drawn goes.

    Returns
    -------
    list of Path
        What was drawn.
    """
    systems = {name: defaultdict(list) for name in matrix.systems}
    for outcome in outcomes:
        if outcome.metrics:
            run = outcome.run
            systems[run.system][run.condition].append(outcome)
    paths = []
    for name, (draw, _) in FIGURES.items():
        path = folder / f"{matrix.name}_{name}.png"
        paths += drawn(path, _draw, draw, matrix, systems)
    return [path for path in paths if path.is_file()]


def _draw(path, draw, matrix, systems):
    """Puts a plot, where there is one, in place of an old one."""
    path.unlink(missing_ok=True)
    figure = draw(matrix, systems)
    if figure is not None:
        save_figure(figure, path)


def most_different(curves, reference, log=False):
    """As many systems as a panel shows: the reference, and those far from it.

    Arguments
    ---------
    curves : dict
        Value by position on the axis, by system.
    reference : str
    log : bool
        Whether distances are those of logarithms.

    Returns
    -------
    list of str
        The reference first; the others in the order of `curves`.

    Example
    -------
    >>> curves = {name: {1: float(i)} for i, name in enumerate("abcdefgh")}
    >>> most_different(curves, "b")
    ['b', 'd', 'e', 'f', 'g', 'h']
    """
    others = [name for name in curves if name != reference]
    if reference not in curves:
        return others[: len(COLOURS)]

    def distance(name):
        shared = curves[name].keys() & curves[reference].keys()
        pairs = [(curves[name][x], curves[reference][x]) for x in shared]
        if not pairs:
            return 0.0
        values = np.array(pairs)
        if log:
            values = np.log(np.maximum(values, 1e-6))
        return float(np.abs(values[:, 0] - values[:, 1]).mean())

    far = sorted(others, key=distance, reverse=True)[: len(COLOURS) - 1]
    return [reference, *(name for name in others if name in far)]


def _draw_lines(matrix, points, xlabel, log=False):
    """Error against something: mean and spread of the runs, by system."""
    means = {
        system: {x: np.mean(values[x]) for x in sorted(values)}
        for system, values in points.items()
    }
    shown = most_different(means, matrix.reference, log)
    figure, axis = plt.subplots(figsize=(WIDTH, 4), layout="constrained")
    for system, colour in zip(shown, COLOURS):
        x, y = list(means[system]), list(means[system].values())
        spread = [
            np.std(v, ddof=len(v) > 1) for v in map(points[system].get, x)
        ]
        axis.plot(x, y, marker="o", markersize=4, label=system, color=colour)
        low, high = np.subtract(y, spread), np.add(y, spread)
        if log:  # a logarithm ends above 0
            low = np.maximum(low, np.divide(y, 2))
        axis.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
    if log:
        readable_log(axis)
        axis.set_xscale("log")
    ticks = sorted({x for values in means.values() for x in values})
    axis.set_xticks(ticks, [f"{x:,g}" for x in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    label = "error (%), mean ± s.d."
    if len(shown) < len(means):
        label += f"\n{len(shown)} of {len(means)} systems"
    axis.set(xlabel=xlabel, ylabel=label)
    axis.grid(alpha=0.3)
    label_ends(axis)
    return figure


def draw_sizes(matrix, systems):
    """Error against training utterances, by system; None with one size."""
    points = {}
    for system, conditions in systems.items():
        values = defaultdict(list)
        for condition, outcomes in conditions.items():
            if "csv_folder" in matrix.conditions[condition]:
                continue  # other data, not only less
            for outcome in outcomes:
                error = outcome.metrics["test"]["intent_error"]
                values[outcome.metrics["n_train"]].append(error)
        if len(values) > 1:
            points[system] = values
    if not points:
        return None
    return _draw_lines(matrix, points, "training utterances", log=True)


def draw_noise(matrix, systems):
    """Error against the signal-to-noise ratio; None without noise."""
    points = defaultdict(dict)
    for condition, facts in matrix.conditions.items():
        levels = facts.get("noise", {}).get("levels", [])
        for system, conditions in systems.items():
            for level in levels if condition in conditions else []:
                if level != "room":
                    points[system][level] = [
                        outcome.block(condition_name(level))["intent_error"]
                        for outcome in conditions[condition]
                    ]
        if points:
            return _draw_lines(matrix, points, "signal-to-noise ratio (dB)")
    return None


def draw_risk(matrix, systems):
    """Risk against coverage of each system's first run; None elsewhere."""
    curves = {}
    for system, first in _first_runs(systems).items():
        if matrix.breakdown:
            answers = first.predictions(first.metrics["main_test"])
            coverage, risk, area = risk_coverage(answers[1], answers[0])
            label = f"{system} (area {100 * area:.2f} %)"
            curves[system] = dict(zip(100 * coverage, 100 * risk)), label
    if not curves:
        return None
    only = {system: curve for system, (curve, _) in curves.items()}
    figure, axis = plt.subplots(figsize=(WIDTH, 4), layout="constrained")
    for system, colour in zip(most_different(only, matrix.reference), COLOURS):
        curve, label = curves[system]
        axis.plot(list(curve), list(curve.values()), color=colour, label=label)
    axis.set(xlabel="share that is answered (%)", ylabel="error among it (%)")
    axis.grid(alpha=0.3)
    label_ends(axis)
    return figure


def draw_training(matrix, systems):
    """β, cross entropy and distillation over epochs, first run of each."""
    panels = {
        "β": "train_beta",
        "cross entropy": "train_ce",
        "distillation": "train_kd",
    }
    curves = {
        key: {
            system: {row["epoch"]: row[key] for row in history if key in row}
            for system, first in _first_runs(systems).items()
            for history in [first.metrics["history"]]
        }
        for key in panels.values()
    }
    trained = {
        name: curve for name, curve in curves["train_ce"].items() if curve
    }
    if not trained:
        return None
    shown = most_different(trained, matrix.reference, log=True)
    figure, axes = plt.subplots(
        3, 1, figsize=(WIDTH, 7.5), layout="constrained", sharex=True
    )
    for axis, (title, key) in zip(axes, panels.items()):
        for system, colour in zip(shown, COLOURS):
            curve = curves[key][system]
            if curve:
                x, y = list(curve), list(curve.values())
                axis.plot(x, y, color=colour, label=system)
        if key == "train_beta":
            axis.set_ylim(0, 1)
        elif axis.lines:
            readable_log(axis)
        axis.set_ylabel(title)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        label_ends(axis)
    axes[-1].set_xlabel(f"epoch ({len(shown)} of {len(trained)} systems)")
    return figure


def _first_runs(systems):
    """The first run of each system that has one."""
    runs = {
        system: [o for outcomes in conditions.values() for o in outcomes]
        for system, conditions in systems.items()
    }
    return {system: first[0] for system, first in runs.items() if first}


#: How each plot is drawn, and its caption.
FIGURES = {
    "size": (draw_sizes, "Error against the number of utterances"),
    "noise": (draw_noise, "Error against the signal-to-noise ratio"),
    "risk": (draw_risk, "Error among the most confident answers"),
    "training": (draw_training, "Weight and size of the losses"),
}
