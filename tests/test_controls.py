"""Teachers without knowledge teach what they say, and nothing else."""

import json

import pytest
import torch
from running import run

from slu_kd_lobes.controls import IntentMeans, OneHot, ShuffledRows

SLICES = {"action": slice(0, 2), "object": slice(2, 5)}


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


def test_a_control_changes_what_is_taught(small, finished, tmp_path):
    """Same student, other targets: another loss from the first epoch on."""
    losses = {}
    for name in ("ShuffledRows", "IntentMeans", "OneHot"):
        folder = tmp_path / name
        control = f"!new:slu_kd_lobes.controls.{name}"
        options = {
            **small,
            "output_folder": folder,
            "teacher_control": control,
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
        "teacher_overrides": (
            "{train_fraction: !ref <train_fraction>, "
            "subset_seed: !ref <subset_seed>, number_of_epochs: 1, "
            "max_train_error: 100}"
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
