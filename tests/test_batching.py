"""Random batches of one size and similar lengths."""

import pytest
import torch
from speechbrain.dataio.dataloader import make_dataloader

from slu_kd_lobes.data.batching import (
    BATCHES_A_BUCKET,
    Batch,
    UtteranceDataset,
    random_batches,
)
from slu_kd_lobes.data.features import StoredFeatures


def batches_of(lengths, batch_size, seed):
    """A sampler of utterances that are known by their lengths alone."""
    return random_batches(range(len(lengths)), lengths, batch_size, seed)


def epoch_of(sampler, epoch=0):
    """The batches of an epoch."""
    sampler.set_epoch(epoch)
    return [list(map(int, batch)) for batch in sampler]


def random_lengths(items, longest=300):
    """Lengths of utterances in frames."""
    return torch.randint(1, longest, (items,)).tolist()


@pytest.mark.parametrize("items", [1, 7, 64, 65, 1000, 2313])
def test_every_item_comes_once_an_epoch(items):
    """In batches of 64, of which one a bucket may be incomplete."""
    sampler = batches_of(random_lengths(items), 64, seed=0)
    buckets = max(1, items // (BATCHES_A_BUCKET * 64))
    for epoch in (0, 1, 7):
        batches = epoch_of(sampler, epoch)
        assert sorted(sum(batches, [])) == list(range(items))
        sizes = [len(batch) for batch in batches]
        assert 0 < min(sizes) and max(sizes) <= 64
        assert sum(size < 64 for size in sizes) <= buckets
        assert len(sizes) < -(-items // 64) + buckets


@pytest.mark.parametrize("items", [1, 65, 1000])
def test_a_sampler_says_how_many_batches_an_epoch_has(items):
    """Before the epoch, as progress bars and processes ask it."""
    sampler = batches_of(random_lengths(items), 64, seed=0)
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        said = len(sampler)
        assert len(list(sampler)) == said


def test_items_of_a_batch_are_of_similar_length():
    """Small sets too have a quarter of the padding that chance leaves."""
    lengths = random_lengths(512)

    def padding(batches):
        rows = [[lengths[i] for i in batch] for batch in batches]
        return sum(max(row) * len(row) - sum(row) for row in rows)

    sampler = batches_of(lengths, 32, seed=0)
    chance = torch.randperm(512).view(-1, 32).tolist()
    assert padding(epoch_of(sampler)) < padding(chance) / 4


def test_utterances_change_company_and_lengths_their_order():
    """Of two epochs of 1,000 different lengths, few pairs share a batch."""
    sampler = batches_of(list(range(100, 1100)), 10, seed=0)
    pairs, firsts = [], []
    for epoch in (1, 2):
        batches = epoch_of(sampler, epoch)
        pairs.append({(i, j) for b in batches for i in b for j in b if i < j})
        firsts.append([min(batch) for batch in batches])
    assert len(pairs[0] & pairs[1]) < len(pairs[0]) / 4
    assert firsts[0] != sorted(firsts[0])


def test_no_batch_spans_two_buckets():
    """Sixty short utterances never share a batch with forty long ones."""
    sampler = batches_of([100, 123, 100, 123, 100] * 20, 10, seed=0)
    for epoch in range(5):
        batches = epoch_of(sampler, epoch)
        assert [len(batch) for batch in batches] == [10] * 10
        assert all(len({i % 5 % 2 for i in batch}) == 1 for batch in batches)


def test_batches_follow_from_seed_and_epoch():
    """The same ones again, others in another epoch or with another seed."""
    lengths = random_lengths(500)
    first = epoch_of(batches_of(lengths, 16, seed=3), 5)
    torch.manual_seed(99)  # the global state must not matter
    assert epoch_of(batches_of(lengths, 16, seed=3), 5) == first
    assert epoch_of(batches_of(lengths, 16, seed=3), 6) != first
    assert epoch_of(batches_of(lengths, 16, seed=4), 5) != first


def test_the_next_seed_does_not_have_the_next_epochs_order():
    """Seeds 0 to 3 and epochs 0 to 3: sixteen orders."""
    lengths = random_lengths(200)
    orders = {
        str(epoch_of(batches_of(lengths, 16, seed), epoch))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_equal_lengths_are_fine():
    """Where all lengths are the same, chance alone makes the batches."""
    sampler = batches_of([23] * 2000, 10, seed=0)
    batches = epoch_of(sampler)
    assert [len(batch) for batch in batches] == [10] * 200
    assert sorted(sum(batches, [])) == list(range(2000))
    assert batches != [list(range(i, i + 10)) for i in range(0, 2000, 10)]


@pytest.fixture
def dataset():
    """Ten utterances whose inputs tell which they are."""
    lengths = torch.tensor([5, 3, 9, 1, 7, 2, 8, 4, 6, 10])
    number = torch.arange(10.0).repeat_interleave(lengths)
    return UtteranceDataset(
        ids=[f"u{i}" for i in range(10)],
        inputs=StoredFeatures(
            [number.view(-1, 1).expand(-1, 2)],
            shard=torch.zeros(10, dtype=torch.long),
            starts=lengths.cumsum(0) - lengths,
            lengths=lengths,
        ),
        targets=torch.arange(20).view(10, 2),
        teacher_logits={
            "teacher": torch.arange(10).view(10, 1) + 100,
            "professor": torch.arange(30).view(10, 3) + 200,
        },
    )


def loader_of(dataset, *options, **more):
    """The loader that SpeechBrain makes of a data set."""
    return make_dataloader(dataset, **dataset.loader_options(*options, **more))


@pytest.mark.parametrize("seed, workers", [(None, 0), (0, 0), (0, 1)])
def test_all_parts_of_a_batch_belong_together(dataset, seed, workers):
    """Inputs, lengths, targets and what teachers say follow the indices."""
    seen = []
    loader = loader_of(dataset, 4, seed=seed, num_workers=workers)
    columns = dataset.columns
    for batch in loader:
        index = torch.tensor(batch.indices)
        assert torch.equal(batch.inputs[:, 0, 0], index.float())
        assert torch.equal(batch.lengths, dataset.inputs.lengths[index])
        assert torch.equal(batch.targets, columns["targets"][index])
        assert batch.teacher_logits.keys() == columns["teacher_logits"].keys()
        for name, logits in columns["teacher_logits"].items():
            assert torch.equal(batch.teacher_logits[name], logits[index])
        assert batch.inputs.shape[1] == batch.lengths.max()
        assert len(batch.inputs) == len(index) <= 4
        seen += batch.indices
    assert sorted(seen) == list(range(10)) and len(loader) == 3


def test_without_a_seed_the_order_is_that_of_the_lengths(dataset):
    """Which pads least; ids lead back to the utterances."""
    order = [i for batch in loader_of(dataset, 4) for i in batch.indices]
    assert dataset.inputs.lengths[order].tolist() == list(range(1, 11))
    assert dataset.ids[order[0]] == "u3"


def test_loader_shuffles_anew_each_epoch(dataset):
    """As SpeechBrain's Brain asks its sampler to."""
    loader = loader_of(dataset, 3, seed=0)
    orders = []
    for epoch in (1, 2, 1):
        loader.batch_sampler.set_epoch(epoch)
        orders.append([batch.indices for batch in loader])
    assert orders[0] != orders[1] and orders[0] == orders[2]


def test_a_data_set_without_teachers_has_batches(dataset):
    """A mapping of nothing stays one."""
    dataset.columns["teacher_logits"] = {}
    assert dataset.__getitems__([4, 2]).teacher_logits == {}


def test_to_moves_every_tensor_and_keeps_the_indices():
    """Those in a mapping, too; the meta device stands for any other."""
    names = ("inputs", "lengths", "targets")
    batch = Batch(
        indices=[3],
        teacher_logits={"a": torch.zeros(1, 2), "b": torch.zeros(1, 3)},
        **{name: torch.zeros(1, 2) for name in names},
    )
    moved = batch.to("meta")
    assert moved is batch and moved.indices == [3]
    for name in names:
        assert getattr(moved, name).device.type == "meta"
    devices = {k: v.device.type for k, v in moved.teacher_logits.items()}
    assert devices == {"a": "meta", "b": "meta"}
