"""What a finished run leaves: metrics, predictions, plots."""

import csv
import io
import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only; a machine without a screen is fine

from matplotlib import pyplot as plt  # noqa: E402
from sklearn.metrics import ConfusionMatrixDisplay  # noqa: E402

from slu_kd_lobes.files import write_json, write_text_atomically  # noqa: E402
from slu_kd_lobes.metrics import slot_predictions  # noqa: E402
from slu_kd_lobes.provenance import (  # noqa: E402
    git_commit,
    package_versions,
    peak_memory_mb,
)


def write_predictions(path, ids, logits, targets, schema):
    """Writes true and predicted values with their probabilities.

    Arguments
    ---------
    path : str or Path
        A CSV file, written whole or not at all.
    ids : list
        Name of each utterance.
    logits : numpy.ndarray
        [items, values].
    targets : numpy.ndarray
        [items, slots].
    schema : SlotSchema
        Names of slots and values.

    Example
    -------
    >>> import numpy as np, tempfile
    >>> from slu_kd_lobes.slots import SlotSchema
    >>> path = Path(tempfile.mkdtemp()) / "predictions.csv"
    >>> schema = SlotSchema({"object": ["lamp", "music"]})
    >>> write_predictions(
    ...     path, ["a"], np.array([[2.0, 0.0]]), np.array([[1]]), schema
    ... )
    >>> print(path.read_text(), end="")
    ID,object_true,object_predicted,object_probability
    a,music,lamp,0.8808
    """
    values, probabilities = slot_predictions(logits, schema.slices)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["ID"]
    for name in schema.names:
        header += [f"{name}_true", f"{name}_predicted", f"{name}_probability"]
    writer.writerow(header)
    for i, name in enumerate(ids):
        true = schema.decode(targets[i].tolist())
        guess = schema.decode(values[i].tolist())
        row = [name]
        for slot, probability in zip(schema.names, probabilities[i]):
            row += [true[slot], guess[slot], f"{probability:.4f}"]
        writer.writerow(row)
    write_text_atomically(path, out.getvalue())


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
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        figure.savefig(part, format="png", dpi=120)
        part.replace(path)
    finally:
        plt.close(figure)
        part.unlink(missing_ok=True)


def write_results(folder, by_epoch, epoch, schema, main_test, facts):
    """Writes what a tested model leaves, and prints the table.

    Arguments
    ---------
    folder : str or Path
        Takes metrics.json, predictions and confusion matrices.
    by_epoch : dict
        Of the ``last`` and the ``best`` epoch, by name of the data set: its
        metrics, and a tuple of logits [items, values], targets [items, slots]
        and names of the items.
    epoch : str
        Which of the two is reported in full.
    schema : SlotSchema
    main_test : str
        The test set that is called ``test`` in metrics.json.
    facts : dict
        What else metrics.json shall tell of the run.
    """
    folder, results = Path(folder), by_epoch[epoch]
    for name, (_, (logits, targets, ids)) in results.items():
        path = folder / f"predictions_{name}.csv"
        write_predictions(path, ids, logits, targets, schema)
    logits, targets, _ = results[main_test][1]
    values, _ = slot_predictions(logits, schema.slices)
    plots = [folder / f"confusion_{slot}.png" for slot in schema.names]
    for i, (slot, plot) in enumerate(zip(schema.names, plots)):
        names = schema.values[slot]
        plot_confusion(plot, slot, names, targets[:, i], values[:, i])
    tests = {k: metrics for k, (metrics, _) in results.items() if k != "valid"}
    metrics = {
        **facts,
        "valid": results["valid"][0],
        "test": tests[main_test],
        **{k: v for k, v in tests.items() if k != main_test},
        "main_test": main_test,
        "intent_error_by_epoch": {
            which: {
                name: found["intent_error"] for name, (found, _) in sets.items()
            }
            for which, sets in by_epoch.items()
        },
        "peak_memory_mb": peak_memory_mb(),
        "versions": package_versions(),
        "commit": git_commit(),
    }
    write_json(folder / "metrics.json", metrics)
    print(f"\n{results_table(tests)}\n\nmetrics: {folder / 'metrics.json'}")
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
