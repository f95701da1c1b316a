"""What a run leaves: predictions, plots, tables, and room for them."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from slu_kd_lobes.files import check_writable, write_json
from slu_kd_lobes.metrics import slot_metrics
from slu_kd_lobes.provenance import TrainingHistory
from slu_kd_lobes.report import (
    plot_confusion,
    plot_learning_curves,
    results_table,
    write_predictions,
)
from slu_kd_lobes.slots import SlotSchema

SCHEMA = SlotSchema(
    {"action": ["activate", "bring, fetch"], "object": ["lamp", "Öl", "none"]}
)


def colours(path):
    """Number of colours of a PNG file, after decoding all of it."""
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 100
        return len(image.convert("RGB").getcolors(2**24))


def test_predictions_can_be_read_back(tmp_path):
    """Names and probabilities, whatever is in the names."""
    path = tmp_path / "predictions.csv"
    ids = ["speakers/a/1.wav", 'odd, "name"']
    logits = np.array(
        [[np.log(3), 0, 0, np.log(2), 0], [0, np.log(9), 0, 0, np.log(8)]]
    )
    targets = np.array([[0, 2], [1, 2]])
    write_predictions(path, ids, logits, targets, SCHEMA)
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["ID"] for row in rows] == ids
    expected = [
        ["activate", "activate", "0.7500", "none", "Öl", "0.5000"],
        ["bring, fetch", "bring, fetch", "0.9000", "none", "none", "0.8000"],
    ]
    assert [list(row.values())[1:] for row in rows] == expected
    assert list(rows[0])[1:] == [
        f"{slot}_{what}"
        for slot in ("action", "object")
        for what in ("true", "predicted", "probability")
    ]


def test_predictions_and_metrics_agree(tmp_path):
    """Errors counted in the file are those of the metrics."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 5))
    targets = np.stack([rng.integers(2, size=200), rng.integers(3, size=200)])
    path = tmp_path / "predictions.csv"
    write_predictions(path, range(200), logits, targets.T, SCHEMA)
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    wrong = sum(
        any(row[f"{s}_true"] != row[f"{s}_predicted"] for s in SCHEMA.names)
        for row in rows
    )
    metrics = slot_metrics(logits, targets.T, SCHEMA.slices)
    assert metrics["intent_error"] == pytest.approx(100 * wrong / 200)


def test_wrong_number_of_slots_leaves_no_file(tmp_path):
    """Whole or not at all."""
    path = tmp_path / "predictions.csv"
    with pytest.raises(ValueError):
        write_predictions(
            path, ["a"], np.zeros((1, 5)), np.array([[0]]), SCHEMA
        )
    assert list(tmp_path.iterdir()) == []


def history_of(*names):
    """Five epochs of some statistics."""
    history = TrainingHistory()
    history.epochs = [
        {"epoch": t, **dict.fromkeys(names, 1 / t)} for t in range(1, 6)
    ]
    return history


ALL = "error ce kd beta gamma".split()


def test_learning_curves_are_a_png_file(tmp_path):
    """With more colours for more curves; a baseline has fewer."""
    full, few = tmp_path / "full.png", tmp_path / "few.png"
    names = [f"train_{name}" for name in ALL]
    plot_learning_curves(history_of(*names, "valid_error"), full)
    plot_learning_curves(history_of("train_error", "train_ce"), few)
    assert colours(full) > colours(few) > 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.png", "full.png"]


def test_learning_curves_of_no_epoch_are_a_png_file(tmp_path):
    """A run that only tests."""
    plot_learning_curves(TrainingHistory(), tmp_path / "a.png")
    assert colours(tmp_path / "a.png") > 1


def test_confusion_matrix_is_a_png_file(tmp_path):
    """Also where a value never occurs or is never predicted."""
    path = tmp_path / "confusion.png"
    true, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    names = ["lamp", "Öl", "none"]
    plot_confusion(path, "object", names, true, predicted)
    assert colours(path) > 10
    assert [p.name for p in tmp_path.iterdir()] == ["confusion.png"]


def test_confusion_matrix_shows_the_counts(tmp_path):
    """Other predictions are another picture."""
    true = np.array([0, 0, 1, 1])
    pictures = set()
    for i, predicted in enumerate(([0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0])):
        path = tmp_path / f"{i}.png"
        plot_confusion(path, "place", ["a", "b"], true, np.array(predicted))
        with Image.open(path) as image:
            pictures.add(image.tobytes())
    assert len(pictures) == 3


def test_a_plot_that_fails_leaves_no_file(tmp_path):
    """The folder is not there, or another one has the plot's name."""
    history = history_of("train_ce")
    with pytest.raises(OSError):
        plot_learning_curves(history, tmp_path / "no" / "a.png")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError):
        plot_learning_curves(history, tmp_path / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_json_is_replaced_whole(tmp_path):
    """What cannot be written leaves the old file."""
    path = tmp_path / "metrics.json"
    write_json(path, {"n": 1, "name": "Öl"})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["name"] == "Öl"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_results_table_counts_the_errors():
    """One line a test set, columns in line."""
    slots = {"action": 0.5, "a_very_long_slot": 12.0}
    table = results_table(
        {
            "test": {"n": 3793, "intent_error": 1.2391, "slot_error": slots},
            "utt_test": {"n": 8, "intent_error": 100.0, "slot_error": slots},
        }
    )
    header, *lines = table.splitlines()
    assert header.split()[-2:] == ["action", "a_very_long_slot"]
    assert lines[0].split()[:5] == ["test", "3793", "47", "1.24", "%"]
    assert lines[1].split()[:5] == ["utt_test", "8", "8", "100.00", "%"]
    assert lines[0].split()[5:] == ["0.50", "%", "12.00", "%"]
    assert len({len(line) for line in (header, *lines)}) == 1


def test_writable_folder_is_made_and_left_empty(tmp_path):
    """With all that is above it."""
    folder = tmp_path / "results" / "run"
    check_writable(folder, megabytes=1)
    assert folder.is_dir() and list(folder.iterdir()) == []


def refused(folder, **options):
    """The one sentence about a folder."""
    with pytest.raises(OSError) as caught:
        check_writable(folder, **options)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
    return message


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    """Or in place of one above it."""
    (tmp_path / "results").write_text("a file")
    for folder in (tmp_path / "results", tmp_path / "results" / "run"):
        assert "cannot be written to" in refused(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    """With the system's reason."""
    tmp_path.chmod(0o500)
    try:
        assert "Permission denied" in refused(tmp_path)
        assert "Permission denied" in refused(tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


def test_a_disk_that_is_too_full_is_refused(tmp_path):
    """With what it has and what is needed."""
    message = refused(tmp_path, megabytes=1e12)
    assert "MB left and about 1000000000000 MB are needed" in message
    assert list(tmp_path.iterdir()) == []
