"""Batches of one size, shuffled within buckets of length."""

import pytest
import torch

from slu_kd_lobes.batching import (
    UtteranceBatch,
    UtteranceDataset,
    bucketed_batches,
)


def epoch_of(sampler, epoch=0):
    """The batches of an epoch."""
    sampler.set_epoch(epoch)
    return [list(map(int, batch)) for batch in sampler]


def random_lengths(items, longest=300):
    """Lengths of utterances in frames."""
    return torch.randint(1, longest, (items,)).tolist()


@pytest.mark.parametrize("items", [1, 7, 64, 65, 1000, 2313])
def test_every_item_comes_once_an_epoch(items):
    """In batches of 64 but for the last ones of the buckets."""
    sampler = bucketed_batches(random_lengths(items), 64, seed=0)
    for epoch in (0, 1, 7):
        batches = epoch_of(sampler, epoch)
        assert sorted(sum(batches, [])) == list(range(items))
        assert max(map(len, batches)) == min(items, 64)
        assert len(batches) == len(sampler)


@pytest.mark.parametrize("items", [231, 2313, 23132])
def test_incomplete_batches_are_few(items):
    """At most one for each bucket, of which small sets have fewer."""
    sampler = bucketed_batches(random_lengths(items), 64, seed=0)
    incomplete = [b for b in epoch_of(sampler) if len(b) < 64]
    assert len(incomplete) <= max(1, min(32, items // (16 * 64)))


def test_items_of_a_batch_are_of_similar_length():
    """Buckets leave less to pad than chance does."""
    lengths = random_lengths(4096)

    def padding(batches):
        rows = [[lengths[i] for i in batch] for batch in batches]
        return sum(max(row) * len(row) - sum(row) for row in rows)

    sampler = bucketed_batches(lengths, 32, seed=0)
    chance = torch.randperm(4096).view(-1, 32).tolist()
    assert padding(epoch_of(sampler)) < padding(chance) / 3


def test_batches_follow_from_seed_and_epoch():
    """The same ones again, others in another epoch or with another seed."""
    lengths = random_lengths(500)
    first = epoch_of(bucketed_batches(lengths, 16, seed=3), 5)
    torch.manual_seed(99)  # the global state must not matter
    assert epoch_of(bucketed_batches(lengths, 16, seed=3), 5) == first
    assert epoch_of(bucketed_batches(lengths, 16, seed=3), 6) != first
    assert epoch_of(bucketed_batches(lengths, 16, seed=4), 5) != first


def test_equal_lengths_and_tensors_are_fine():
    """One bucket is left where all lengths are the same."""
    sampler = bucketed_batches(torch.full((2000,), 23), 10, seed=0)
    batches = epoch_of(sampler)
    assert [len(batch) for batch in batches] == [10] * 200


@pytest.fixture
def dataset():
    """Ten utterances whose inputs tell which they are."""
    lengths = [5, 3, 9, 1, 7, 2, 8, 4, 6, 10]

    def read(indices, longest):
        frames = torch.tensor([lengths[i] for i in indices])
        features = torch.tensor(indices).view(-1, 1, 1).float()
        return features.expand(-1, longest, 2), frames

    return UtteranceDataset(
        ids=[f"u{i}" for i in range(10)],
        read=read,
        targets=torch.arange(20).view(10, 2),
        teacher_rows=torch.arange(10).view(10, 1) + 100,
        lengths=lengths,
    )


@pytest.mark.parametrize("seed, workers", [(None, 0), (0, 0), (0, 1)])
def test_all_parts_of_a_batch_belong_together(dataset, seed, workers):
    """Inputs, lengths, targets and teacher rows follow the indices."""
    seen = []
    loader = dataset.loader(4, seed=seed, num_workers=workers)
    for batch in loader:
        index = torch.tensor(batch.indices)
        assert torch.equal(batch.inputs[:, 0, 0], index.float())
        assert batch.lengths.tolist() == [dataset.lengths[i] for i in index]
        assert torch.equal(batch.targets, dataset.targets[index])
        assert torch.equal(batch.teacher_rows, dataset.teacher_rows[index])
        assert batch.inputs.shape[1] == batch.lengths.max()
        assert batch.size == batch.total == len(index)
        seen += batch.indices
    assert sorted(seen) == list(range(10)) and len(loader) == 3


def test_without_a_seed_the_order_is_that_of_the_lengths(dataset):
    """Which pads least; ids lead back to the utterances."""
    order = [i for batch in dataset.loader(4) for i in batch.indices]
    assert [dataset.lengths[i] for i in order] == list(range(1, 11))
    assert dataset.ids[order[0]] == "u3"


def test_loader_shuffles_anew_each_epoch(dataset):
    """As SpeechBrain's Brain asks its sampler to."""
    loader = dataset.loader(3, seed=0)
    orders = []
    for epoch in (1, 2, 1):
        loader.batch_sampler.set_epoch(epoch)
        orders.append([batch.indices for batch in loader])
    assert orders[0] != orders[1] and orders[0] == orders[2]


def test_to_moves_every_tensor_and_keeps_the_indices():
    """The meta device stands for any other."""
    tensors = [torch.zeros(1, 2) for _ in range(4)]
    batch = UtteranceBatch([3], *tensors, size=1, total=1)
    moved = batch.to("meta")
    assert moved is batch and moved.indices == [3]
    for name in ("inputs", "lengths", "targets", "teacher_rows"):
        assert getattr(moved, name).device.type == "meta"


def test_processes_read_their_parts_of_the_same_batches(dataset, monkeypatch):
    """All padded to the longest of the whole batch; fillers do not count."""
    whole = list(dataset.loader(4, seed=0))
    parts = []
    for rank in (0, 1, 2):
        monkeypatch.setattr(
            "slu_kd_lobes.batching.rank_and_processes", lambda r=rank: (r, 3)
        )
        parts.append(list(dataset.loader(4, seed=0)))
    for batch, *own in zip(whole, *parts):
        assert sum((b.indices[: b.size] for b in own), []) == batch.indices
        assert len({b.inputs.shape for b in own}) == 1
        assert all(b.inputs.shape[1] == batch.inputs.shape[1] for b in own)
        assert all(b.total == batch.total == len(batch.indices) for b in own)


def test_all_processes_validate_everything(dataset, monkeypatch):
    """Without a seed nothing is split."""
    monkeypatch.setattr(
        "slu_kd_lobes.batching.rank_and_processes", lambda: (1, 2)
    )
    read = [i for batch in dataset.loader(4) for i in batch.indices]
    assert sorted(read) == list(range(10))
