"""Random batches of one size and similar lengths."""

import pytest
import torch

from slu_kd_lobes.batching import (
    LengthBatches,
    UtteranceBatch,
    UtteranceDataset,
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
    """In batches of 64, of which one may be incomplete."""
    sampler = LengthBatches(random_lengths(items), 64, seed=0)
    for epoch in (0, 1, 7):
        batches = epoch_of(sampler, epoch)
        assert sorted(sum(batches, [])) == list(range(items))
        assert len(batches) == len(sampler) == -(-items // 64)
        assert sum(len(batch) < 64 for batch in batches) == (items % 64 > 0)


def test_items_of_a_batch_are_of_similar_length():
    """Small sets too have a quarter of the padding that chance leaves."""
    lengths = random_lengths(512)

    def padding(batches):
        rows = [[lengths[i] for i in batch] for batch in batches]
        return sum(max(row) * len(row) - sum(row) for row in rows)

    sampler = LengthBatches(lengths, 32, seed=0)
    chance = torch.randperm(512).view(-1, 32).tolist()
    assert padding(epoch_of(sampler)) < padding(chance) / 4


def test_utterances_change_company_and_lengths_their_order():
    """Of two epochs of 1,000 different lengths, few pairs share a batch."""
    sampler = LengthBatches(list(range(100, 1100)), 10, seed=0)
    pairs, firsts = [], []
    for epoch in (1, 2):
        batches = epoch_of(sampler, epoch)
        pairs.append({(i, j) for b in batches for i in b for j in b if i < j})
        firsts.append([min(batch) for batch in batches])
    assert len(pairs[0] & pairs[1]) < len(pairs[0]) / 4
    assert firsts[0] != sorted(firsts[0])


def test_no_factor_beyond_the_spread():
    """Lengths further apart than that never change places."""
    sampler = LengthBatches([100, 123] * 50, 50, seed=0, spread=0.1)
    for epoch in range(5):
        parities = {
            frozenset(i % 2 for i in b) for b in epoch_of(sampler, epoch)
        }
        assert parities == {frozenset([0]), frozenset([1])}


def test_batches_follow_from_seed_and_epoch():
    """The same ones again, others in another epoch or with another seed."""
    lengths = random_lengths(500)
    first = epoch_of(LengthBatches(lengths, 16, seed=3), 5)
    torch.manual_seed(99)  # the global state must not matter
    assert epoch_of(LengthBatches(lengths, 16, seed=3), 5) == first
    assert epoch_of(LengthBatches(lengths, 16, seed=3), 6) != first
    assert epoch_of(LengthBatches(lengths, 16, seed=4), 5) != first


def test_equal_lengths_and_tensors_are_fine():
    """Where all lengths are the same, chance alone makes the batches."""
    sampler = LengthBatches(torch.full((2000,), 23), 10, seed=0)
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
