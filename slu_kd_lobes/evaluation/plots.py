"""Plots of a run, and what all plots share: readable at a README's width."""

import logging
import re
import textwrap

import matplotlib

matplotlib.use("Agg")  # files only; a machine without a screen is fine

import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import (  # noqa: E402
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)
from sklearn.isotonic import isotonic_regression  # noqa: E402
from sklearn.metrics import ConfusionMatrixDisplay  # noqa: E402

from slu_kd_lobes.utils.files import whole  # noqa: E402

logger = logging.getLogger(__name__)

#: Lines that an eye tells apart: the first is black, the others follow Okabe
#: and Ito, whose colours differ for colour-blind readers as well.
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
WIDTH = 7.5  # inches, at 120 dots an inch
FONT = 8  # points
MOST_VALUES = 30  # of a confusion matrix; more could not be read

#: Statistics of an epoch by panel, with the name of their line.
CURVES = {
    "intent error (%)": {"train_error": "train", "valid_error": "valid"},
    "loss": {
        "train_ce": "cross entropy",
        "train_kd": "distillation",
        "train_matching": "utterance matching",
    },
    "weight": {
        "train_beta": "β: weight of distillation",
        "train_gamma": "γ: share of the professor",
    },
}


def file_names(names):
    """Names that any file system takes, one for each name.

    Arguments
    ---------
    names : iterable of str
        Such as those of slots.

    Returns
    -------
    list of str
        All different, even where letter case does not count.

    Example
    -------
    >>> file_names(["object", "room/place", "room:place", "Object"])
    ['object', 'room_place', 'room_place_2', 'Object_3']
    """
    safe = []
    for number, name in enumerate(names):
        word = re.sub(r"[^\w.-]", "_", name)[:40]
        taken = [other.casefold() for other in safe]
        safe.append(f"{word}_{number}" if word.casefold() in taken else word)
    return safe


def plain(name, size=30):
    """A name as a plot shows it: of a bounded length, a ``$`` as it is.

    Arguments
    ---------
    name : str
    size : int
        Letters, at most.

    Returns
    -------
    str

    Example
    -------
    >>> plain("5 $ or 10 $"), plain("a very long name", size=10)
    ('5 \\\\$ or 10 \\\\$', 'a very lo…')
    """
    name = name if len(name) <= size else name[: size - 1] + "…"
    return name.replace("$", r"\$")  # between two of them would be a formula


def drawn(path, draw, *arguments):
    """Draws a plot; what goes wrong costs the plot alone.

    Arguments
    ---------
    path : Path
        A PNG file.
    draw : callable
        Takes the path and the arguments.
    *arguments

    Returns
    -------
    list of Path
        The path; nothing where there is no plot, for which a warning says why.
    """
    try:
        draw(path, *arguments)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        logger.warning(f"the plot {path} is left out ({reason})")
        return []
    return [path]


def plot_learning_curves(path, history):
    """Draws errors, losses, the KD weight and the teachers' share.

    Arguments
    ---------
    path : str or Path
        A PNG file.
    history : TrainingHistory
        Statistics of the epochs.
    """
    panels = {
        title: {label: history.column(name) for name, label in lines.items()}
        for title, lines in CURVES.items()
        if any(history.column(name)[0] for name in lines)
    }
    rows = max(1, len(panels))
    figure, axes = plt.subplots(
        rows,
        figsize=(WIDTH, 2.2 * rows),
        layout="constrained",
        sharex=True,
        squeeze=False,
    )
    for axis, (title, curves) in zip(axes[:, 0], panels.items()):
        curves = {k: curve for k, curve in curves.items() if curve[0]}
        for colour, (label, curve) in zip(COLOURS, curves.items()):
            axis.plot(*curve, marker=".", label=label, color=colour)
        axis.set(ylabel=title, ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        label_ends(axis)
    axes[-1, 0].set_xlabel("epoch")
    save_figure(figure, path)


def plot_confusion(path, slot, names, true, predicted):
    """Draws the confusion matrix of a slot.

    Of many values, those that are confused most are shown.

    Arguments
    ---------
    path : str or Path
        A PNG file.
    slot : str
        Name of the slot.
    names : list
        Names of its values.
    true : numpy.ndarray
        Index of the true value of each item.
    predicted : numpy.ndarray
        Index of the predicted value of each item.
    """
    wrong = true != predicted
    confused = np.r_[true[wrong], predicted[wrong]]
    by_errors = np.bincount(confused, minlength=len(names))
    by_items = np.bincount(true, minlength=len(names))
    shown = np.lexsort((-by_items, -by_errors))[:MOST_VALUES]
    title = plain(slot)
    if len(shown) < len(names):
        title += f": {len(shown)} of {len(names)} values, most confused"
    shown = sorted(shown.tolist())
    size = 2.5 + 0.45 * len(shown)
    figure, axis = plt.subplots(figsize=(size, size), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        true,
        predicted,
        labels=shown,
        display_labels=[plain(names[value]) for value in shown],
        xticks_rotation="vertical",
        colorbar=False,
        cmap="Blues",
        ax=axis,
    )
    axis.set_title(title)
    save_figure(figure, path)


def save_figure(figure, path):
    """Writes a figure as PNG, whole or not at all, and closes it.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
    path : str or Path
    """
    try:
        with whole(path) as part:
            figure.savefig(part, format="png", dpi=120)
    finally:
        plt.close(figure)


def label_ends(axis):
    """Writes the name of each line at its end, in its colour.

    Names that would lie upon each other are moved apart.

    Arguments
    ---------
    axis : matplotlib.axes.Axes
    """
    axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())  # final from here on
    to_axis = axis.transScale + axis.transLimits
    inches = axis.figure.get_figheight() / len(axis.figure.axes)
    row = 1.2 * FONT / 72 / (0.8 * inches)  # height of a line of text
    ends = []
    for line in axis.lines:
        text = textwrap.fill(plain(line.get_label(), 60), 24)
        x, y = to_axis.transform(line.get_xydata()[-1])
        ends.append([y, row * (1 + text.count("\n")), x, text, line])
    if not ends:
        return
    ends.sort(key=lambda end: end[0])
    y, sizes = np.array([end[:2] for end in ends]).T
    # As near to the ends of the lines as the height of the names allows.
    gaps = np.r_[0, np.cumsum((sizes[1:] + sizes[:-1]) / 2)]
    heights = isotonic_regression(y - gaps) + gaps
    for height, (y, _, x, text, line) in zip(heights, ends):
        axis.annotate(
            text,
            xy=(x, y),
            xytext=(1.04, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=line.get_color(),
            fontsize=FONT,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": line.get_color(),
                "alpha": 0.4,
                "linewidth": 0.7,
                "shrinkA": 0,
                "shrinkB": 2,
            },
        )


def readable_log(axis):
    """Makes the vertical axis logarithmic, with ticks that read 1, 2, 5, 10.

    Arguments
    ---------
    axis : matplotlib.axes.Axes
    """
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    # At least three numbers, also where all values are alike.
    subs = (1, 2, 5) if high > 10 * low else range(1, 10)
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
