"""Checkpoints that are whole, and know what they come from."""

import json
import os
import time

import pytest
import torch
import torch.multiprocessing as mp
from speechbrain.utils.distributed import ddp_barrier

from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.training import checkpoints
from slu_kd_lobes.training.checkpoints import (
    CHECKSUMS,
    MadeFrom,
    RandomState,
    WholeCheckpointer,
    check_origin,
    checksums,
)


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


def test_what_a_kill_left_is_removed_by_the_next_save(tmp_path):
    """A checkpoint that is half written, or half deleted; no other folder."""
    first = WholeCheckpointer(tmp_path, {"layer": torch.nn.Linear(1, 1)})
    first.save_checkpoint()
    for name in ("CKPT+2001-01-01+00-00-00+00", "CKPT+2002", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "layer.ckpt").write_bytes(b"PK")
    (tmp_path / "CKPT+2002" / "CKPT.yaml.unfinished").write_text("a: 1")
    again = WholeCheckpointer(tmp_path, {"layer": torch.nn.Linear(1, 1)})
    assert again.recover_if_possible() is not None
    assert (tmp_path / "CKPT+2002").exists()  # looking changes nothing
    again.save_checkpoint()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 3 and left[-1] == "mine"


@pytest.mark.parametrize("name", ["layer.ckpt", "CKPT.yaml", CHECKSUMS])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_refused(tmp_path, name, harm):
    """One bit of a weight is enough; the sentence says which file."""
    layer = {"layer": torch.nn.Linear(20, 20)}
    saved = WholeCheckpointer(tmp_path, layer).save_checkpoint().path
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 4
    if harm == "flip":
        (saved / name).write_bytes(data)
    elif harm == "cut":
        (saved / name).write_bytes(data[:-1])
    else:
        (saved / name).unlink()
    if harm == "remove":  # as by a deletion that was stopped
        assert WholeCheckpointer(tmp_path, layer).find_checkpoint() is None
        return
    with pytest.raises(ValueError, match="is damaged") as caught:
        WholeCheckpointer(tmp_path, layer).recover_if_possible()
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or name == CHECKSUMS
    with pytest.raises(ValueError, match="is damaged"):
        check_origin(WholeCheckpointer(tmp_path), {})


def test_what_is_half_deleted_is_no_checkpoint(tmp_path, monkeypatch):
    """Whichever file a kill left, and the next save removes the rest."""
    layer = {"layer": torch.nn.Linear(1, 1)}
    checkpointer = WholeCheckpointer(tmp_path, layer)
    old = checkpointer.save_checkpoint(name="old").path
    checkpointer.save_checkpoint(name="new")
    (old / "layer.ckpt").unlink()
    again = WholeCheckpointer(tmp_path, layer)
    names = [c.path.name for c in again.list_checkpoints()]
    assert names == ["CKPT+new"]
    again.save_checkpoint(name="newest")
    assert not old.exists()


def test_random_numbers_go_on_where_they_were(tmp_path):
    """Those of torch, and those of a generator beside it."""
    generator = torch.Generator().manual_seed(5)
    torch.rand(3), torch.rand(2, generator=generator)
    checkpointer = WholeCheckpointer(tmp_path)
    checkpointer.add_recoverable("random", RandomState(generator))
    checkpointer.save_checkpoint()
    expected = torch.rand(4), torch.rand(4, generator=generator)
    torch.manual_seed(0)
    other = torch.Generator().manual_seed(0)
    again = WholeCheckpointer(tmp_path, {"random": RandomState(other)})
    again.recover_if_possible()
    found = torch.rand(4), torch.rand(4, generator=other)
    assert all(map(torch.equal, found, expected))


def _save_slowly(rank, folder, kept):
    """Saves three times; the main process names its checkpoints late."""
    os.environ["RANK"] = str(rank)  # what SpeechBrain looks at
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    checkpointer = WholeCheckpointer(
        folder / "save", recoverables={"layer": torch.nn.Linear(1, 1)}
    )
    naming = checkpointer.name_checkpoint

    def late(checkpoint):
        time.sleep(0.5)
        naming(checkpoint)

    checkpointer.name_checkpoint = late
    for error in (3.0, 1.0, 2.0):
        checkpointer.save_and_keep_only(
            meta={"error": error}, min_keys=["error"]
        )
    ddp_barrier()
    found = checkpointer.list_checkpoints()
    kept.put(sorted(c.meta["error"] for c in found))
    ddp_barrier()
    torch.distributed.destroy_process_group()


def test_processes_agree_on_what_is_deleted(tmp_path):
    """Even if the newest checkpoint gets its name late; nobody waits."""
    spawn = mp.get_context("spawn")
    kept = spawn.Queue()
    processes = [
        spawn.Process(target=_save_slowly, args=(rank, tmp_path, kept))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    waiting = [process for process in processes if process.is_alive()]
    for process in waiting:
        process.kill()
    assert not waiting
    assert [kept.get(timeout=5) for _ in processes] == [[1.0, 2.0]] * 2


SOURCES = {"train data": "5f", "encoder": "a0", "teacher": [{"schema": "c1"}]}


def checkpointer(folder, **recoverables):
    """A checkpointer with a model beside other recoverables."""
    model = torch.nn.Linear(2, 2)
    return WholeCheckpointer(folder, {"model": model, **recoverables})


def test_a_run_goes_on_from_the_same_sources(tmp_path):
    """Through a checkpoint on disk."""
    checkpointer(tmp_path, made_from=MadeFrom(SOURCES)).save_checkpoint()
    again = checkpointer(tmp_path, made_from=MadeFrom(SOURCES))
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
    checkpointer(tmp_path, made_from=MadeFrom(SOURCES)).save_checkpoint()
    again = checkpointer(tmp_path, made_from=MadeFrom({**SOURCES, **change}))
    message = f"was made from another {names}: give --output_folder="
    with pytest.raises(ValueError, match=message):
        again.recover_if_possible()


def test_a_source_that_is_gone_is_refused(tmp_path):
    """The checkpoint has one more."""
    checkpointer(tmp_path, made_from=MadeFrom(SOURCES)).save_checkpoint()
    fewer = {k: v for k, v in SOURCES.items() if k != "teacher"}
    with pytest.raises(ValueError, match="made from another teacher"):
        checkpointer(tmp_path, made_from=MadeFrom(fewer)).recover_if_possible()


def test_later_changes_of_the_caller_do_not_matter(tmp_path):
    """The hashes are those of the start."""
    sources = dict(SOURCES)
    made_from = MadeFrom(sources)
    sources["encoder"] = "ff"
    made_from.save(tmp_path / "p")
    assert json.loads((tmp_path / "p").read_text()) == SOURCES


SLOTS = {"action": ["on", "off"], "object": ["lamp"]}


@pytest.mark.parametrize(
    "slots, words",
    [
        ({**SLOTS, "action": ["on"]}, "has lost the values ['off']"),
        ({**SLOTS, "object": ["lamp", "tv"]}, "and gained ['tv']"),
        ({**SLOTS, "action": ["off", "on"]}, "slot 'action' has ['on', 'off']"),
        (dict(reversed(SLOTS.items())), "it has ['action', 'object'] and this"),
        ({"action": ["on", "off"]}, "it has ['action', 'object'] and this"),
    ],
)
def test_another_label_set_is_told_before_any_work(tmp_path, slots, words):
    """A value more or fewer, another order, a slot fewer."""
    made = {"slots": SlotSchema(SLOTS), "made_from": MadeFrom(SOURCES)}
    checkpointer(tmp_path, **made).save_checkpoint()
    check_origin(WholeCheckpointer(tmp_path), SOURCES, slots=SlotSchema(SLOTS))
    with pytest.raises(ValueError) as caught:
        check_origin(
            WholeCheckpointer(tmp_path), SOURCES, slots=SlotSchema(slots)
        )
    assert words in str(caught.value)
    with pytest.raises(ValueError, match="made from another encoder: give --o"):
        check_origin(WholeCheckpointer(tmp_path), {**SOURCES, "encoder": "b1"})


def test_a_folder_without_checkpoints_is_of_no_origin(tmp_path):
    check_origin(WholeCheckpointer(tmp_path), SOURCES, slots=SlotSchema(SLOTS))


def test_the_message_names_a_folder_that_is_free(tmp_path):
    """What can be typed, in quotes where a shell needs them."""
    run = tmp_path / "my run"
    checkpointer(run / "save", made_from=MadeFrom(SOURCES)).save_checkpoint()
    (tmp_path / "my run-2").mkdir()
    with pytest.raises(ValueError) as caught:
        check_origin(
            WholeCheckpointer(run / "save"), {**SOURCES, "encoder": "b1"}
        )
    assert str(caught.value) == (
        f"the run in {run} was made from another encoder: give "
        f"'--output_folder={tmp_path}/my run-3', or delete that folder"
    )


def test_a_run_that_goes_on_hashes_a_checkpoint_once(tmp_path, monkeypatch):
    """Whatever looks at it: the folder's check, the origin's, the training."""
    made = {"layer": torch.nn.Linear(1, 1), "made_from": MadeFrom(SOURCES)}
    checkpointer(tmp_path, **made).save_checkpoint()
    hashed = []
    monkeypatch.setattr(
        checkpoints,
        "checksums",
        lambda folder: hashed.append(folder) or checksums(folder),
    )
    again = WholeCheckpointer(tmp_path, made)
    assert again.find_checkpoint()
    check_origin(again, SOURCES)
    assert again.recover_if_possible()
    assert len(hashed) == 1
