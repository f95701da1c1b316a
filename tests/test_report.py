"""What a run leaves: predictions, plots, tables, and room for them."""

import csv
import json
import os
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from running import ROOT

from slu_kd_lobes.data.manifests import (
    COLUMNS,
    Manifests,
    as_json,
    write_manifests,
)
from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.evaluation.metrics import slot_metrics
from slu_kd_lobes.evaluation.plots import (
    file_names,
    plot_confusion,
    plot_learning_curves,
)
from slu_kd_lobes.evaluation.report import (
    Tested,
    results_table,
    write_predictions,
    write_results,
)
from slu_kd_lobes.inference.web_page import waveform_figure
from slu_kd_lobes.training.history import TrainingHistory
from slu_kd_lobes.training.hparams import complete_yaml, settings
from slu_kd_lobes.training.run_folder import check_same_run, split_arguments
from slu_kd_lobes.utils.files import check_writable, read_csv, write_json

HPARAMS = ROOT / "hparams"
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
    write_predictions(path, Tested(ids, logits, targets, {}), SCHEMA)
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
    tested = Tested(list(range(200)), logits, targets.T, {})
    write_predictions(path, tested, SCHEMA)
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
        tested = Tested(["a"], np.zeros((1, 5)), np.array([[0]]), {})
        write_predictions(path, tested, SCHEMA)
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
    plot_learning_curves(full, history_of(*names, "valid_error"))
    plot_learning_curves(few, history_of("train_error", "train_ce"))
    assert colours(full) > colours(few) > 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.png", "full.png"]


def test_learning_curves_of_no_epoch_are_a_png_file(tmp_path):
    """A run that only tests."""
    plot_learning_curves(tmp_path / "a.png", TrainingHistory())
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
    """A file is in place of its folder, or a folder has the plot's name."""
    history = history_of("train_ce")
    (tmp_path / "no").write_text("a file")
    with pytest.raises(OSError):
        plot_learning_curves(tmp_path / "no" / "a.png", history)
    assert [p.name for p in tmp_path.iterdir()] == ["no"]
    (tmp_path / "no").unlink()
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError):
        plot_learning_curves(tmp_path / "a.png", history)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_json_is_replaced_whole(tmp_path):
    """What cannot be written leaves the old file."""
    path = tmp_path / "metrics.json"
    write_json(path, {"n": 1, "name": "Öl"})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["name"] == "Öl"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


TESTS = ["spk_test", "utt_test"]


def manifests_of(folder, tests):
    """Manifests with two training utterances, and these test sets."""
    header = ",".join([*COLUMNS, *SCHEMA.names]) + "\n"
    row = "{},0.5,$data_root/a.wav,anna,lamp,activate,lamp\n"
    files = dict.fromkeys(["valid.csv", *(f"{t}.csv" for t in tests)], header)
    files["train.csv"] = header + row.format("a") + row.format("b")
    files["slots.json"] = as_json(SCHEMA.to_dict())
    write_manifests(folder, files, "5f", tests=tests)
    return Manifests(folder, folder)


def results_of(tests):
    """Ten utterances of each data set, by epoch; each set errs differently."""
    rng = np.random.default_rng(0)
    targets = np.stack([rng.integers(2, size=10), rng.integers(3, size=10)], 1)
    results = {}
    for epoch in ("last", "best"):
        results[epoch] = {}
        for name in ["valid", *tests]:
            logits = rng.normal(size=(10, 5))
            metrics = slot_metrics(logits, targets, SCHEMA.slices)
            ids = [f"{name} {i}" for i in range(10)]
            results[epoch][name] = Tested(ids, logits, targets, metrics)
    return results


def report(folder, tests, results, epoch="last", **options):
    """Writes the results of a run, and returns its metrics."""
    (folder / "run").mkdir(exist_ok=True)
    hparams = {"output_folder": folder / "run", "config": "baseline"}
    hparams.update(seed=7, train_fraction=0.1, subset_seed=3, lr=0.1)
    manifests = manifests_of(folder / "manifests", tests)
    write_results(hparams, manifests, results, epoch, **options)
    return json.loads((folder / "run" / "metrics.json").read_text())


@pytest.mark.parametrize("epoch", ["last", "best"])
def test_metrics_say_what_ran_and_how_well(tmp_path, epoch):
    """Of the epoch that is asked for; the errors of both."""
    results, history = results_of(TESTS), history_of("train_ce")
    seconds = {"train": 1.5}
    metrics = report(
        tmp_path, TESTS, results, epoch, history=history, seconds=seconds
    )
    expected = {"config": "baseline", "seed": 7, "train_fraction": 0.1}
    expected.update(subset_seed=3, n_train=2, seconds=seconds)
    assert expected.items() <= metrics.items() and "lr" not in metrics
    assert metrics["history"] == history.epochs
    assert metrics["main_test"] == "spk_test" and "spk_test" not in metrics
    for key, name in (
        ("valid", "valid"),
        ("test", "spk_test"),
        ("utt_test", "utt_test"),
    ):
        assert metrics[key] == results[epoch][name].metrics
    assert metrics["intent_error_by_epoch"] == {
        epoch: {k: v.metrics["intent_error"] for k, v in sets.items()}
        for epoch, sets in results.items()
    }
    assert metrics["versions"]["python"] and metrics["peak_memory_mb"] > 10
    rows = read_csv(tmp_path / "run" / "predictions_utt_test.csv")
    assert [row["ID"] for row in rows] == results[epoch]["utt_test"].ids


def test_the_main_test_set_is_test_whatever_its_name(tmp_path):
    """Also beside one of that name, which does not take its place."""
    tests = ["far_test", "test"]
    results = results_of(tests)
    metrics = report(tmp_path, tests, results)
    assert metrics["main_test"] == "far_test"
    assert metrics["test"] == results["last"]["far_test"].metrics


def test_a_run_leaves_a_file_of_each_kind(tmp_path, capsys):
    """And says where; without a history there are no curves."""
    results = results_of(TESTS)
    report(tmp_path, TESTS, results)
    files = {path.name for path in (tmp_path / "run").iterdir()}
    predictions = {f"predictions_{name}.csv" for name in ["valid", *TESTS]}
    confusion = {"confusion_action.png", "confusion_object.png"}
    assert files == {"metrics.json", *predictions, *confusion}
    printed = capsys.readouterr().out
    for name in ("metrics.json", *confusion):
        assert str(tmp_path / "run" / name) in printed
    tests = {name: results["last"][name].metrics for name in TESTS}
    assert results_table(tests) in printed
    report(tmp_path, TESTS, results, history=history_of("train_ce"))
    assert (tmp_path / "run" / "learning_curves.png").is_file()
    assert "learning_curves.png" in capsys.readouterr().out


def test_a_picture_that_fails_costs_the_picture_alone(tmp_path, caplog, capsys):
    """The numbers of a long run are there, and the other pictures."""
    run = tmp_path / "run"
    (run / "confusion_action.png").mkdir(parents=True)
    results = results_of(TESTS)
    metrics = report(tmp_path, TESTS, results)
    assert metrics["test"] == results["last"]["spk_test"].metrics
    for name in ("valid", *TESTS):
        assert (run / f"predictions_{name}.csv").is_file()
    assert (run / "confusion_object.png").is_file()
    (warning,) = (r.getMessage() for r in caplog.records if "plot" in r.msg)
    assert "confusion_action.png is left out (IsADirectoryError" in warning
    assert "confusion_action.png" not in capsys.readouterr().out


def test_names_of_slots_become_names_of_files():
    """One each, on any file system; usual names stay."""
    usual = ["action", "öffnen", "장소", "two words", "a-b_c.d"]
    expected = ["action", "öffnen", "장소", "two_words", "a-b_c.d"]
    assert file_names(usual) == expected
    odd = ["../../x", "a/b", "a\\b", "a:b", "A*B", "", "x" * 300, "x" * 301]
    names = file_names([*odd, "con\n?", "/", "."])
    assert len({name.casefold() for name in names}) == len(odd) + 3
    for name in names:
        assert not set(name) & set('/\\:*?"<>|\n') and len(name) < 50


ODD_SLOTS = ["targets", "../x", "room/place", "room:place", "5 $ or $6", "sig"]


def test_slots_of_any_name_leave_their_plots_in_the_run(tmp_path, monkeypatch):
    """Nothing outside its folder, and no name is a formula."""
    schema = SlotSchema(
        {name: [f"{name} $a", "$b_{$", "c" * 99] for name in ODD_SLOTS}
    )
    monkeypatch.setattr(f"{__name__}.SCHEMA", schema)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(9, schema.num_logits))
    targets = rng.integers(3, size=(9, len(ODD_SLOTS)))
    metrics = slot_metrics(logits, targets, schema.slices)
    tested = Tested([f"{i}" for i in range(9)], logits, targets, metrics)
    sets = {"valid": tested, "test": tested}
    folder = tmp_path / "deep"
    folder.mkdir()
    header = ",".join([*COLUMNS, *ODD_SLOTS]) + "\n"
    row = ",".join(["a,0.5,$data_root/a.wav,anna,lamp", *6 * ["$b_{$"]]) + "\n"
    files = dict.fromkeys(["valid.csv", "test.csv"], header)
    files["train.csv"] = header + row
    files["slots.json"] = as_json(schema.to_dict())
    write_manifests(folder / "manifests", files, "5f", tests=["test"])
    hparams = {"output_folder": folder / "run", "config": "a", "seed": 1}
    hparams.update(train_fraction=1.0, subset_seed=0)
    manifests = Manifests(folder / "manifests", folder)
    write_results(hparams, manifests, {"last": sets, "best": sets}, "last")
    plots = [f"confusion_{name}.png" for name in file_names(ODD_SLOTS)]
    assert all(colours(folder / "run" / plot) > 10 for plot in plots)
    assert len({path.name for path in (folder / "run").iterdir()}) == 9
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}


def test_a_slot_of_many_values_has_a_plot_of_bounded_size(tmp_path):
    """Of the values that are confused most, whether all are right or none."""
    true = np.arange(700)
    for predicted in (true, np.full(700, 699)):
        path = tmp_path / "a.png"
        names = [f"song {i}" for i in range(700)]
        plot_confusion(path, "song", names, true, predicted)
        with Image.open(path) as image:
            assert max(image.size) < 2500


def test_a_test_set_does_not_take_the_place_of_a_fact(tmp_path):
    """Whatever its name is."""
    tests = ["test", "tested_epoch", "n_train"]
    metrics = report(tmp_path, tests, results_of(tests))
    assert metrics["tested_epoch"] == "last" and metrics["n_train"] == 2
    assert list(metrics["tests"]) == tests


def history_with(errors):
    """A history with a training error of each epoch, in percent."""
    history = TrainingHistory()
    for epoch, error in enumerate(errors, 1):
        history.epochs.append({"epoch": epoch, "train_error": error})
    return history


def test_a_run_that_ends_too_early_says_how_to_go_on(tmp_path, capsys):
    """At its end and in metrics.json; one that has learnt says nothing."""
    (tmp_path / "run two" / "run").mkdir(parents=True)
    yaml = tmp_path / "run two" / "run" / "hyperparams.yaml"
    yaml.write_text(complete_yaml(HPARAMS / "distill_teacher_mae_exp.yaml"))
    early = history_with(90 - 3 * np.arange(18.0))
    metrics = report(
        tmp_path / "run two", TESTS, results_of(TESTS), history=early
    )
    assert metrics["still_learning"] is True
    printed = capsys.readouterr().out
    assert "after 18 epochs with 39.0 % of its own utterances wrong" in printed
    assert f"python train.py '{yaml}' --number_of_epochs=36\n" in printed
    done = history_with([*(90 - 3 * np.arange(18.0)), *18 * [0.0]])
    metrics = report(tmp_path, TESTS, results_of(TESTS), history=done)
    assert metrics["still_learning"] is False
    assert "note:" not in capsys.readouterr().out
    assert report(tmp_path, TESTS, results_of(TESTS))["still_learning"] is False


@pytest.mark.parametrize(
    "name",
    ["distill_teacher_mae_err", "distill_hybrid_mae_tri", "own_commands"],
)
def test_a_command_that_goes_on_is_not_refused(name, tmp_path, capsys):
    """What is printed can be typed, whatever the schedule."""
    (tmp_path / "run").mkdir()
    yaml = tmp_path / "run" / "hyperparams.yaml"
    folder = {"output_folder": str(tmp_path / "run")}
    yaml.write_text(complete_yaml(HPARAMS / f"{name}.yaml", folder))
    early = history_with(90 - 3 * np.arange(18.0))
    report(tmp_path, TESTS, results_of(TESTS), history=early)
    (line,) = re.findall("  python train.py (.*)", capsys.readouterr().out)
    typed, *options = shlex.split(line)
    assert typed == str(yaml)
    _, overrides = split_arguments(options, [])
    text = complete_yaml(yaml, overrides)
    place = settings(text)["output_folder"]
    check_same_run(place, text, done=18)
    assert (place == str(tmp_path / "run")) == ("_tri" not in name)


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


def test_a_command_is_drawn_whatever_its_slots_are_called():
    """On the page, where a formula would end in an error."""
    slot = {"value": "5 $ or $_{", "seconds": 0.5}
    answer = {"slots": {"price $": slot, "much": slot}}
    figure = waveform_figure(np.zeros(16000), 16000, answer)
    figure.canvas.draw()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [r"price \$: 5 \$ or \$_{", r"much: 5 \$ or \$_{"]
