"""Checkpoints that are never half-written."""

import torch

from slu_kd_lobes.checkpoints import WholeCheckpointer


def test_the_hundredth_save_reads_no_more_than_the_first(tmp_path):
    """SpeechBrain's list of keys grows with every call in a process."""
    checkpointer = WholeCheckpointer(
        tmp_path, recoverables={"layer": torch.nn.Linear(1, 1)}
    )
    listed = []
    listing = checkpointer.list_checkpoints
    checkpointer.list_checkpoints = lambda: listed.append(1) or listing()
    counts = []
    for epoch in range(5):
        listed.clear()
        checkpointer.save_and_keep_only(
            meta={"error": 5.0 - epoch}, min_keys=["error"]
        )
        counts.append(len(listed))
    assert len(set(counts)) == 1, counts


def test_the_best_and_the_last_are_kept(tmp_path):
    checkpointer = WholeCheckpointer(
        tmp_path, recoverables={"layer": torch.nn.Linear(1, 1)}
    )
    for error in (3.0, 1.0, 2.0, 4.0):
        checkpointer.save_and_keep_only(
            meta={"error": error}, min_keys=["error"]
        )
    kept = [c.meta["error"] for c in checkpointer.list_checkpoints()]
    assert sorted(kept) == [1.0, 4.0]
