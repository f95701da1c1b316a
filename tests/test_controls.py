"""Teachers without knowledge teach what they say, and nothing else."""

import json

import pytest
import torch
from running import run

from slu_kd_lobes.teachers.controls import (
    IntentMeans,
    OneHot,
    ShuffledRows,
    describe,
    teaching,
    unexplained_variance,
)
from slu_kd_lobes.teachers.tables import TeacherTable

SLICES = {"action": slice(0, 2), "object": slice(2, 5)}
# Six utterances of four transcripts: b and c mean the same.
TEXTS = ["D", "a", "b!", "a", "c", "B"]
TARGETS = torch.tensor([[1, 2], [0, 0], [1, 1], [0, 0], [1, 1], [1, 1]])


@pytest.fixture
def table():
    """What is said of the four, and of one that is not trained on."""
    outputs = torch.randn(5, 5)
    errors = {"train": 0.0, "test": 12.5}
    return TeacherTable(list("eabcd"), outputs, {"schema": "a0"}, errors)


def test_no_row_stays_and_none_is_lost():
    logits = torch.arange(40.0).reshape(20, 2)
    for seed in range(5):
        shuffled = ShuffledRows(seed)(logits, None, None)
        assert not (shuffled == logits).all(1).any()
        assert torch.equal(shuffled.sort(0).values, logits)
    first = ShuffledRows(1)(logits, None, None)
    assert torch.equal(first, ShuffledRows(1)(logits, None, None))
    assert not torch.equal(first, ShuffledRows(2)(logits, None, None))


def test_means_are_of_the_same_intent_only():
    """Rows 0 and 2 share both slots; row 1 only one of them."""
    logits = torch.tensor([[0.0, 1.0], [8.0, 8.0], [2.0, 5.0]])
    targets = torch.tensor([[0, 1], [0, 2], [0, 1]])
    means = IntentMeans()(logits, targets, None)
    expected = torch.tensor([[1.0, 3.0], [8.0, 8.0], [1.0, 3.0]])
    assert torch.equal(means, expected)


def test_one_hot_knows_the_labels_and_two_numbers():
    targets = torch.tensor([[1, 0], [0, 2]])
    fake = OneHot(3.0, -1.0)(torch.randn(2, 5), targets, SLICES)
    expected = torch.tensor(
        [[-1.0, 3.0, 3.0, -1.0, -1.0], [3.0, -1.0, -1.0, -1.0, 3.0]]
    )
    assert torch.equal(fake, expected)


def test_every_utterance_is_taught_what_its_transcript_says(table):
    """In any writing; the control stands in for the table's rows."""
    outputs = dict(zip("eabcd", table.outputs))
    taught = teaching(table, TEXTS, TARGETS, SLICES)
    expected = [outputs[text] for text in "dabacb"]
    assert torch.equal(taught, torch.stack(expected))


def test_a_control_sees_each_transcript_once(table):
    """However often it is said: the mean of b and c is not that of b, c, b."""
    outputs = dict(zip("eabcd", table.outputs))
    taught = teaching(table, TEXTS, TARGETS, SLICES, IntentMeans())
    mean = (outputs["b"] + outputs["c"]) / 2
    expected = [outputs["d"], outputs["a"], mean, outputs["a"], mean, mean]
    torch.testing.assert_close(taught, torch.stack(expected))
    shuffled = teaching(table, TEXTS, TARGETS, SLICES, ShuffledRows())
    assert torch.equal(shuffled[1], shuffled[3])
    assert torch.equal(shuffled[2], shuffled[5])
    plain = teaching(table, TEXTS, TARGETS, SLICES)
    assert not (shuffled == plain).all(1).any()
    assert len(shuffled.unique(dim=0)) == 4


def test_a_control_is_given_the_labels_of_its_transcripts(table):
    """A fake teacher that knows the labels is right on every utterance."""
    control = OneHot(3.0, -1.0)
    taught = teaching(table, TEXTS, TARGETS, SLICES, control)
    assert torch.equal(taught, control(taught, TARGETS, SLICES))


def test_variance_worked_out_by_hand():
    """Means 1 and 7 stand for 0, 2 and 6, 8: 4 of 40 are left."""
    outputs = torch.tensor([[0.0], [2.0], [6.0], [8.0]])
    targets = torch.tensor([[0], [0], [1], [1]])
    left = unexplained_variance(outputs, targets, SLICES, IntentMeans())
    assert left == 10.0
    for values in ([[0], [1], [2], [3]], [[0], [0], [0], [0]]):
        targets = torch.tensor(values)
        left = unexplained_variance(outputs, targets, SLICES, IntentMeans())
        assert left == (0.0 if len(targets.unique()) == 4 else 100.0)


def test_what_is_said_of_a_table(table):
    """Errors as noted; vectors are not compared with labels."""
    said = describe(table, TEXTS, TARGETS, SLICES)
    assert said["errors"] == {"train": 0.0, "test": 12.5}
    distinct = dict(zip("eabcd", table.outputs))
    facts = torch.stack([distinct[text] for text in "abcd"])
    targets = torch.tensor([[0, 0], [1, 1], [1, 1], [1, 2]])
    for name, control in (
        ("unexplained_by_intent", IntentMeans()),
        ("unexplained_by_two_numbers", OneHot()),
    ):
        left = unexplained_variance(facts, targets, SLICES, control)
        assert said[name] == left > 0
    said = describe(table, TEXTS, TARGETS, SLICES, are_logits=False)
    assert sorted(said) == ["errors", "unexplained_by_intent"]


def test_recordings_that_contradict_their_transcript_are_errors(table):
    """The teacher says one thing of "a", and one of two rows another."""
    outputs = torch.full((5, 5), -9.0)
    said = {"e": (0, 0), "a": (0, 0), "b": (1, 1), "c": (1, 1), "d": (1, 2)}
    for i, text in enumerate("eabcd"):
        outputs[i, said[text][0]] = outputs[i, 2 + said[text][1]] = 9.0
    table.outputs = outputs
    assert describe(table, TEXTS, TARGETS, SLICES)["errors"] == table.errors
    targets = TARGETS.clone()
    targets[3] = torch.tensor([0, 2])
    errors = describe(table, TEXTS, targets, SLICES)["errors"]
    assert errors == {"train": 16.6667, "test": 12.5}  # 1 of 6
    vectors = describe(table, TEXTS, targets, SLICES, are_logits=False)
    assert vectors["errors"] == table.errors


def test_a_table_that_says_one_thing_leaves_nothing_unexplained():
    outputs, targets = torch.ones(1, 5), torch.tensor([[0, 0]])
    for control in (IntentMeans(), OneHot()):
        left = unexplained_variance(outputs, targets, SLICES, control)
        assert left == 0.0


def test_a_control_changes_what_is_taught(small, finished, tmp_path):
    """Same student, other targets: another loss from the first epoch on."""
    losses = {}
    for name in ("shuffled_rows", "intent_means", "one_hot"):
        folder = tmp_path / name
        options = {
            **small,
            "output_folder": folder,
            "teacher_control": name,
            "number_of_epochs": 1,
        }
        run("distill_teacher_mae_exp", options)
        metrics = json.loads((folder / "metrics.json").read_text())
        losses[name] = metrics["history"][0]["train_kd"]
    plain = json.loads((finished[0] / "metrics.json").read_text())
    losses["none"] = plain["history"][0]["train_kd"]
    assert len(set(losses.values())) == 4


def test_a_teacher_can_read_the_students_draw_alone(small, tmp_path):
    options = {
        **small,
        "output_folder": tmp_path / "run",
        "train_fraction": 0.25,
        "subset_seed": 3,
        "number_of_epochs": 1,
        "fine_tuning": (
            "{text: subset, number_of_epochs: 1, max_train_error: 100}"
        ),
    }
    printed = run("distill_teacher_mae_exp", options)
    assert "training it now on 12 transcripts" in printed


@pytest.mark.parametrize("control", [ShuffledRows(), IntentMeans(), OneHot()])
def test_shape_and_type_stay(control):
    logits = torch.randn(6, 5)
    targets = torch.tensor([[0, 0], [1, 1], [0, 2], [0, 0], [1, 0], [1, 1]])
    changed = control(logits, targets, SLICES)
    assert changed.shape == logits.shape and changed.dtype == logits.dtype
    assert changed.isfinite().all()
