"""What a finished run leaves: metrics, predictions, plots."""

import csv
import io
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slu_kd_lobes.evaluation.metrics import slot_metrics, slot_predictions
from slu_kd_lobes.evaluation.plots import (
    drawn,
    file_names,
    plot_confusion,
    plot_learning_curves,
)
from slu_kd_lobes.training.hparams import settings
from slu_kd_lobes.training.run_folder import (
    CONFIGURATION,
    tied_to_epochs,
    write_metrics,
)
from slu_kd_lobes.utils.files import unused_name, write_text

#: Keys of the configuration that metrics.json repeats.
SUBSET_KEYS = ("train_fraction", "subset_seed")


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

    @classmethod
    def of(cls, rows, logits, schema):
        """What the logits of utterances say of these.

        Arguments
        ---------
        rows : list of dict
            Of a manifest.
        logits : numpy.ndarray
            [utterances, values].
        schema : SlotSchema

        Returns
        -------
        Tested

        Example
        -------
        >>> from slu_kd_lobes.data.slots import SlotSchema
        >>> schema = SlotSchema({"object": ["lamp", "music"]})
        >>> rows = [{"ID": "a", "object": "music"}]
        >>> Tested.of(rows, np.array([[2.0, 0.0]]), schema).metrics["n"]
        1
        """
        targets = np.array([schema.encode(row) for row in rows])
        metrics = slot_metrics(logits, targets, schema.slices)
        return cls([row["ID"] for row in rows], logits, targets, metrics)


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


def count_parameters(modules, features):
    """Numbers of parameters that train, and that stay as they are.

    Arguments
    ---------
    modules : torch.nn.ModuleDict
        What trains, perhaps with parts that do not.
    features : slu_kd_lobes.data.features.Stored or OnTheFly
        With the encoder.

    Returns
    -------
    dict
        ``trained`` and ``frozen``.
    """
    all_count = features.trains  # whatever the last epoch left frozen
    own = [p for p in modules.parameters() if all_count or p.requires_grad]
    every = {*modules.parameters(), *features.encoder.parameters()}
    trained = sum(p.numel() for p in own)
    frozen = sum(p.numel() for p in every) - trained
    return {"trained": trained, "frozen": frozen}


def write_results(
    hparams, manifests, results, tested_epoch, history=None, **facts
):
    """Writes what a tested model leaves, and prints the table.

    First metrics.json and the predictions, then the pictures.

    Arguments
    ---------
    hparams : dict
        With ``output_folder`` and `SUBSET_KEYS`.
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
    still_learning = history is not None and history.still_learning()
    path = write_metrics(
        hparams,
        {
            **{k: v for k, v in tests.items() if k != main},
            **{key: hparams[key] for key in SUBSET_KEYS},
            "n_train": len(manifests.read("train")),
            **facts,
            "history": history.epochs if history else [],
            "still_learning": still_learning,
            "valid": sets["valid"].metrics,
            "test": tests[main],  # whatever its name
            "tests": tests,
            "main_test": main,
            "tested_epoch": tested_epoch,
            "intent_error_by_epoch": {
                epoch: {k: v.metrics["intent_error"] for k, v in found.items()}
                for epoch, found in results.items()
            },
        },
    )
    print(f"\n{results_table(tests)}\n\nmetrics: {path}")
    if still_learning:
        # The configuration of a run is complete, and names its folder.
        yaml, epochs = folder / CONFIGURATION, 2 * len(history.epochs)
        command = ["python", "train.py", f"{yaml}"]
        command.append(f"--number_of_epochs={epochs}")
        words = "goes on"
        if tied := tied_to_epochs(settings(yaml.read_text("utf-8"))):
            words = f"starts a longer one ({', '.join(tied)} needs that)"
            command.append(f"--output_folder={unused_name(folder)}")
        print(f"note:    {unfinished(history.epochs)}; this {words}:")
        print(f"  {shlex.join(command)}")
    plots = []
    values, _ = slot_predictions(sets[main].logits, schema.slices)
    columns = zip(sets[main].targets.T, values.T)
    for file, slot, (true, guess) in zip(
        file_names(schema.names), schema.names, columns
    ):
        path = folder / f"confusion_{file}.png"
        names = schema.values[slot]
        plots += drawn(path, plot_confusion, slot, names, true, guess)
    if history:
        path = folder / "learning_curves.png"
        plots += drawn(path, plot_learning_curves, history)
    for plot in plots:
        print(f"plot:    {plot}")


def unfinished(epochs):
    """Says that training ended too early.

    Arguments
    ---------
    epochs : list of dict
        Of a `TrainingHistory`.

    Returns
    -------
    str

    Example
    -------
    >>> unfinished([{"epoch": 20, "train_error": 38.61}])
    'training ended after 20 epochs with 38.6 % of its own utterances wrong, \
and the student was still learning'
    """
    last = epochs[-1]
    return (
        f"training ended after {last['epoch']} epochs with "
        f"{last['train_error']:.1f} % of its own utterances wrong, and the "
        "student was still learning"
    )


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
