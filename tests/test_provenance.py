"""Checkpoints that know what they were made from and how it went."""

import json
from pathlib import Path

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter

from slu_kd_lobes.provenance import (
    Provenance,
    TrainingHistory,
    git_commit,
    package_versions,
    peak_memory_mb,
)

SOURCES = {"train data": "5f", "encoder": "a0", "teacher": [{"schema": "c1"}]}


def checkpointer(folder, **recoverables):
    """A checkpointer with a model beside other recoverables."""
    model = torch.nn.Linear(2, 2)
    return Checkpointer(folder, {"model": model, **recoverables})


def test_a_run_goes_on_from_the_same_sources(tmp_path):
    """Through a checkpoint on disk."""
    checkpointer(tmp_path, p=Provenance(SOURCES)).save_checkpoint()
    again = checkpointer(tmp_path, p=Provenance(SOURCES))
    assert again.recover_if_possible() is not None


@pytest.mark.parametrize(
    "change, names",
    [
        ({"encoder": "b1"}, "encoder"),
        ({"teacher": [{"schema": "c2"}]}, "teacher"),
        ({"teacher": []}, "teacher"),
        ({"encoder": "b1", "train data": "77"}, "encoder, train data"),
        ({"augmentation": "d4"}, "augmentation"),
    ],
)
def test_a_checkpoint_of_other_sources_is_refused(tmp_path, change, names):
    """All that differs is named, and the remedy."""
    checkpointer(tmp_path, p=Provenance(SOURCES)).save_checkpoint()
    again = checkpointer(tmp_path, p=Provenance({**SOURCES, **change}))
    message = f"was made from another {names}: choose another --output_folder"
    with pytest.raises(ValueError, match=message):
        again.recover_if_possible()


def test_a_source_that_is_gone_is_refused(tmp_path):
    """The checkpoint has one more."""
    checkpointer(tmp_path, p=Provenance(SOURCES)).save_checkpoint()
    fewer = {k: v for k, v in SOURCES.items() if k != "teacher"}
    with pytest.raises(ValueError, match="made from another teacher"):
        checkpointer(tmp_path, p=Provenance(fewer)).recover_if_possible()


def test_later_changes_of_the_caller_do_not_matter(tmp_path):
    """The hashes are those of the start."""
    sources = dict(SOURCES)
    provenance = Provenance(sources)
    sources["encoder"] = "ff"
    provenance.save(tmp_path / "p")
    assert json.loads((tmp_path / "p").read_text()) == SOURCES


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


def test_versions_are_those_that_run():
    """Of Python and of what shapes the numbers."""
    versions = package_versions()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"speechbrain", "transformers", "slu_kd_lobes"} <= versions.keys()
    assert all(isinstance(v, str) for v in versions.values())


@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="only Linux tells"
)
def test_peak_memory_is_that_of_the_system():
    """Which counts in kB; what started this process may have had more."""
    status = Path("/proc/self/status").read_text()
    kilobytes = int(status.split("VmHWM:")[1].split()[0])
    assert 0.99 < peak_memory_mb() / (kilobytes / 1024) < 100


def test_commit_is_a_hash_or_nothing():
    """With + where files differ from it."""
    commit = git_commit()
    if commit is not None:
        assert len(commit.removesuffix("+")) == 40
        int(commit.removesuffix("+"), 16)
