"""What a finished run leaves: metrics, predictions, plots."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")  # files only; a machine without a screen is fine

import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from sklearn.metrics import ConfusionMatrixDisplay  # noqa: E402

from slu_kd_lobes.evaluation.metrics import slot_predictions  # noqa: E402
from slu_kd_lobes.utils.environment import (  # noqa: E402
    git_commit,
    package_versions,
    peak_memory_mb,
)
from slu_kd_lobes.utils.files import whole, write_json, write_text  # noqa: E402

#: Keys of the configuration that metrics.json repeats.
REPORTED_KEYS = ("config", "seed", "train_fraction", "subset_seed")


class Tested(NamedTuple):
    """What a model answered on a data set, and how well.

    Arguments
    ---------
    ids : list
        Name of each utterance.
    logits : numpy.ndarray
        [utterances, values].
    targets : numpy.ndarray
        [utterances, slots].
    metrics : dict
        See `slu_kd_lobes.evaluation.metrics.slot_metrics`.
    """

    ids: list
    logits: np.ndarray
    targets: np.ndarray
    metrics: dict


def write_predictions(path, tested, schema):
    """Writes true and predicted values with their probabilities.

    Arguments
    ---------
    path : str or Path
        A CSV file, written whole or not at all.
    tested : Tested
    schema : SlotSchema
        Names of slots and values.

    Example
    -------
    >>> from slu_kd_lobes.data.slots import SlotSchema
    >>> path = getfixture("tmp_path") / "predictions.csv"
    >>> schema = SlotSchema({"object": ["lamp", "music"]})
    >>> logits, targets = np.array([[2.0, 0.0]]), np.array([[1]])
    >>> write_predictions(path, Tested(["a"], logits, targets, {}), schema)
    >>> print(path.read_text(), end="")
    ID,object_true,object_predicted,object_probability
    a,music,lamp,0.8808
    """
    values, probabilities = slot_predictions(tested.logits, schema.slices)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["ID"]
    for name in schema.names:
        header += [f"{name}_true", f"{name}_predicted", f"{name}_probability"]
    writer.writerow(header)
    for i, name in enumerate(tested.ids):
        true = schema.decode(tested.targets[i].tolist())
        guess = schema.decode(values[i].tolist())
        row = [name]
        for slot, probability in zip(schema.names, probabilities[i]):
            row += [true[slot], guess[slot], f"{probability:.4f}"]
        writer.writerow(row)
    write_text(path, out.getvalue())


def plot_learning_curves(history, path):
    """Draws errors, losses, the KD weight and the teachers' share.

    Arguments
    ---------
    history : TrainingHistory
        Statistics of the epochs.
    path : str or Path
        A PNG file.
    """
    panels = {
        "intent error (%)": ["train_error", "valid_error"],
        "loss": ["train_ce", "train_kd", "train_matching"],
        "weight": ["train_beta", "train_gamma"],
    }
    labels = {
        "train_error": "train",
        "valid_error": "valid",
        "train_ce": "cross entropy",
        "train_kd": "distillation",
        "train_matching": "utterance matching",
        "train_beta": "β: weight of distillation",
        "train_gamma": "γ: share of the professor",
    }
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for axis, (title, names) in zip(axes, panels.items()):
        for name in names:
            epochs, values = history.column(name)
            if values:
                axis.plot(epochs, values, marker=".", label=labels[name])
        axis.set(xlabel="epoch", ylabel=title, ylim=(0, None))
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    save_figure(figure, path)


def plot_confusion(path, slot, names, true, predicted):
    """Draws the confusion matrix of a slot.

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
    size = 2.5 + 0.45 * len(names)
    figure, axis = plt.subplots(figsize=(size, size), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        true,
        predicted,
        labels=list(range(len(names))),
        display_labels=names,
        xticks_rotation="vertical",
        colorbar=False,
        cmap="Blues",
        ax=axis,
    )
    axis.set_title(slot)
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


def write_results(
    hparams, manifests, results, tested_epoch, history=None, **facts
):
    """Writes what a tested model leaves, and prints the table.

    First metrics.json and the predictions, then the pictures.

    Arguments
    ---------
    hparams : dict
        With ``output_folder`` and `REPORTED_KEYS`.
    manifests : slu_kd_lobes.data.manifests.Manifests
    results : dict
        `Tested` by data set, by epoch (``last`` and ``best``).
    tested_epoch : str
        Which of the two is reported in full.
    history : TrainingHistory or None
    **facts
        What else metrics.json shall tell of the run.
    """
    folder, schema = Path(hparams["output_folder"]), manifests.schema
    sets, main = results[tested_epoch], manifests.main_test
    for name, tested in sets.items():
        path = folder / f"predictions_{name}.csv"
        write_predictions(path, tested, schema)
    tests = {k: v.metrics for k, v in sets.items() if k != "valid"}
    metrics = {
        **{key: hparams[key] for key in REPORTED_KEYS},
        "n_train": len(manifests.read("train")),
        **facts,
        "history": history.epochs if history else [],
        "valid": sets["valid"].metrics,
        **{k: v for k, v in tests.items() if k != main},
        "test": tests[main],  # whatever its name
        "tests": tests,
        "main_test": main,
        "tested_epoch": tested_epoch,
        "intent_error_by_epoch": {
            epoch: {k: v.metrics["intent_error"] for k, v in found.items()}
            for epoch, found in results.items()
        },
        "peak_memory_mb": peak_memory_mb(),
        "versions": package_versions(),
        "commit": git_commit(),
    }
    write_json(folder / "metrics.json", metrics)
    print(f"\n{results_table(tests)}\n\nmetrics: {folder / 'metrics.json'}")
    plots = []
    values, _ = slot_predictions(sets[main].logits, schema.slices)
    for i, (slot, names) in enumerate(schema.values.items()):
        plots.append(folder / f"confusion_{slot}.png")
        true = sets[main].targets[:, i]
        plot_confusion(plots[-1], slot, names, true, values[:, i])
    if history:
        plots.append(folder / "learning_curves.png")
        plot_learning_curves(history, plots[-1])
    for plot in plots:
        print(f"plot:    {plot}")


def results_table(metrics):
    """A table of the errors of every test set, as text.

    Arguments
    ---------
    metrics : dict
        Blocks of metrics by name of the test set.

    Returns
    -------
    str

    Example
    -------
    >>> block = {"n": 200, "intent_error": 1.5, "slot_error": {"action": 0.5}}
    >>> print(results_table({"test": block}))
    test set     utterances   errors  intent error  action
    test                200        3        1.50 %  0.50 %
    """
    slots = list(next(iter(metrics.values()))["slot_error"])
    lines = [
        f"{'test set':<12} {'utterances':>10} {'errors':>8} "
        f"{'intent error':>13}"
        + "".join(f"{s:>{max(8, len(s) + 2)}}" for s in slots)
    ]
    for name, block in metrics.items():
        errors = round(block["n"] * block["intent_error"] / 100)
        cells = "".join(
            f"{block['slot_error'][s]:.2f} %".rjust(max(8, len(s) + 2))
            for s in slots
        )
        lines.append(
            f"{name:<12} {block['n']:>10} {errors:>8} "
            f"{block['intent_error']:>11.2f} %" + cells
        )
    return "\n".join(lines)
