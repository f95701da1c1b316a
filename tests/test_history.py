"""How a run went, through checkpoints on disk."""

import json

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter

from slu_kd_lobes.training.history import TrainingHistory


def checkpointer(folder, **recoverables):
    """A checkpointer with a model beside other recoverables."""
    model = torch.nn.Linear(2, 2)
    return Checkpointer(folder, {"model": model, **recoverables})


def test_history_survives_a_checkpoint(tmp_path):
    """A resumed run goes on where it was, its numbers to the last digit."""
    history, counter = TrainingHistory(), EpochCounter(3)
    saver = checkpointer(tmp_path, history=history, counter=counter)
    for epoch in counter:
        history.epochs.append({"epoch": epoch, "ce": 1 / (epoch + 2)})
        if epoch == 2:
            break
    saver.save_checkpoint(meta={"epoch": 2})

    resumed, counter = TrainingHistory(), EpochCounter(3)
    checkpointer(
        tmp_path, history=resumed, counter=counter
    ).recover_if_possible()
    assert resumed.epochs == history.epochs
    assert resumed.column("ce")[1] == [1 / 3, 1 / 4]
    for epoch in counter:
        resumed.epochs.append({"epoch": epoch, "ce": 0.1, "kd": 0.2})
    assert resumed.column("epoch")[1] == [1, 2, 3]
    assert history.column("epoch")[1] == [1, 2]


def test_a_column_has_the_epochs_that_know_it():
    """Nothing for a name that no epoch has."""
    history = TrainingHistory()
    history.epochs += [{"epoch": 1}, {"epoch": 2, "kd": 0.5}]
    history.epochs += [{"epoch": 3}, {"epoch": 4, "kd": 0.25}]
    assert history.column("kd") == ([2, 4], [0.5, 0.25])
    assert history.column("beta") == ([], [])


def test_recovery_takes_the_history_of_the_best_checkpoint(tmp_path):
    """Not always that of the last."""
    history = TrainingHistory()
    saver = checkpointer(tmp_path, history=history)
    for epoch, error in ((1, 5.0), (2, 3.0), (3, 4.0)):
        history.epochs.append({"epoch": epoch})
        saver.save_checkpoint(meta={"valid_error": error})
    resumed = TrainingHistory()
    checkpointer(tmp_path, history=resumed).recover_if_possible(
        min_key="valid_error"
    )
    assert resumed.column("epoch")[1] == [1, 2]


def test_sums_of_the_epoch_that_goes_on_survive(tmp_path):
    """To the last digit, tensors and numbers alike."""
    history = TrainingHistory()
    third = torch.tensor(1 / 3)
    history.sums = {"ce": (third, 16), "beta": (0.1, 32)}
    checkpointer(tmp_path, history=history).save_checkpoint()
    resumed = TrainingHistory()
    checkpointer(tmp_path, history=resumed).recover_if_possible()
    assert resumed.sums == {"ce": (third.item(), 16), "beta": (0.1, 32)}
    total, count = resumed.sums["ce"]
    assert total + torch.tensor(2 / 3) == third + torch.tensor(2 / 3)
    assert count == 16


def test_a_history_is_a_file_that_others_can_read(tmp_path):
    """JSON; saved sums are numbers, not tensors."""
    history = TrainingHistory()
    history.epochs.append({"epoch": 1, "ce": 0.5})
    history.sums = {"ce": (torch.tensor(1.5), 3)}
    history.save(tmp_path / "history")
    assert json.loads((tmp_path / "history").read_text()) == {
        "epochs": [{"epoch": 1, "ce": 0.5}],
        "sums": {"ce": [1.5, 3]},
    }
    assert history.sums["ce"][0] == torch.tensor(1.5)


@pytest.mark.parametrize(
    "errors, expected",
    [
        ([], False),
        ([90.0], False),  # of one epoch nobody knows where it goes
        ([90.0, 60.0], True),
        ([4.0, 2.0], False),
        ([100 * 0.95**t for t in range(30)], True),
        ([100 * 0.7**t for t in range(20)], False),  # ends below 1 %
        ([60.0] * 9 + [30.0, 31.0, 29.0] * 2, False),  # falls no more
        ([60 - t / 10 for t in range(20)], False),  # or hardly
        ([30.0] * 11 + [20.0, 40.0, 20.0, 40.0], False),  # noise
    ],
)
def test_training_that_ended_too_early_is_known(errors, expected):
    """Where the error on the training data is high, and falls."""
    history = TrainingHistory()
    for epoch, error in enumerate(errors, 1):
        history.epochs.append({"epoch": epoch, "train_error": error})
    assert history.still_learning() is expected


def test_who_gets_nothing_right_yet_may_still_be_learning():
    """An answer of many slots is wrong for long; the cross entropy tells."""
    history = TrainingHistory()
    for epoch in range(1, 5):
        ce = 10 - 2 * epoch
        row = {"epoch": epoch, "train_error": 100.0, "train_ce": ce}
        history.epochs.append(row)
    assert history.still_learning()
    for row in history.epochs:
        row["train_ce"] = 10.0
    assert not history.still_learning()
