"""Students trained together are those that would have trained alone."""

import pytest
import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter

from slu_kd_lobes.batching import UtteranceDataset
from slu_kd_lobes.randomness import Dropout, seed_step
from slu_kd_lobes.together import fit_together


class Student(sb.Brain):
    """A linear layer with dropout, seeded at every step."""

    def compute_forward(self, batch, stage):
        if stage == sb.Stage.TRAIN:
            seed_step(self.hparams.seed, self.epoch, self.step)
        return self.modules.layer(batch.inputs)

    def compute_objectives(self, outputs, batch, stage):
        return (outputs.squeeze(-1) - batch.targets.float()).pow(2).mean()

    def validates(self, epoch):
        every = getattr(self.hparams, "valid_every", 1)
        return epoch % every == 0

    def _fit_valid(self, valid_set, epoch, enable):
        if self.validates(epoch):
            super()._fit_valid(valid_set, epoch, enable)

    def on_stage_start(self, stage, epoch=None):
        self.epoch = epoch

    def on_stage_end(self, stage, loss, epoch):
        self.log.append((epoch, stage.name, float(loss)))
        if stage == sb.Stage.VALID and self.checkpointer is not None:
            self.checkpointer.save_and_keep_only()


class Dataset:
    """Twenty numbers, with a count of how often a batch is read."""

    def __init__(self):
        self.reads = 0
        inputs = torch.randn(20, 3)

        def read(indices, longest):
            self.reads += 1
            return inputs[indices], torch.ones(len(indices))

        self.data = UtteranceDataset(
            ids=[str(i) for i in range(20)],
            read=read,
            targets=torch.arange(20) % 3,
            teacher_rows=torch.zeros(20, 0),
            lengths=[1] * 20,
        )


def student(seed, epochs=3, folder=None):
    """A student, its epochs and where it is saved."""
    torch.manual_seed(seed)
    layer = torch.nn.Sequential(Dropout(0.3), torch.nn.Linear(3, 1))
    counter = EpochCounter(epochs)
    checkpointer = folder and Checkpointer(
        folder, {"layer": layer, "counter": counter}
    )
    brain = Student(
        {"layer": layer},
        opt_class=lambda parameters: torch.optim.Adam(parameters, 0.1),
        hparams={"seed": seed, "epoch_counter": counter},
        run_opts={"device": "cpu"},
        checkpointer=checkpointer,
    )
    brain.log = []
    return brain


def alone(seed, loader, valid, epochs=3):
    """The same student in SpeechBrain's own loop."""
    brain = student(seed, epochs)
    brain.train_sampler = loader.batch_sampler
    brain.fit(brain.hparams.epoch_counter, loader, valid, progressbar=False)
    return brain


def same(one, other):
    """Whether two students have the same history and weights, to the bit."""
    weights = zip(one.modules.parameters(), other.modules.parameters())
    return one.log == other.log and all(torch.equal(a, b) for a, b in weights)


@pytest.fixture
def dataset():
    """Shared by all students of a test."""
    return Dataset()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_seeds_in_one_pass_are_those_trained_alone(dataset, workers):
    """Bit for bit, and the data are read once for all."""
    train, valid = dataset.data.loader(4, seed=5), dataset.data.loader(4)
    brains = [student(seed) for seed in (1, 2, 3)]
    dataset.reads = 0
    fit_together(brains, [train] * 3, [valid] * 3, workers)
    assert dataset.reads == 3 * (5 + 5)
    for brain in brains:
        assert same(brain, alone(brain.hparams.seed, train, valid))
    assert not same(brains[0], brains[1])


def test_each_may_have_its_own_order_and_epochs(dataset):
    """A short one leaves, the others go on."""
    valid = dataset.data.loader(4)
    orders = [dataset.data.loader(4, seed=s) for s in (1, 2)]
    brains = [student(1, epochs=1), student(2, epochs=4)]
    fit_together(brains, orders, [valid] * 2)
    assert [len(brain.log) for brain in brains] == [2, 8]
    assert same(brains[0], alone(1, orders[0], valid, epochs=1))
    assert same(brains[1], alone(2, orders[1], valid, epochs=4))


def test_a_student_that_is_behind_catches_up(dataset, tmp_path):
    """As after a kill between two students' checkpoints."""
    train, valid = dataset.data.loader(4, seed=5), dataset.data.loader(4)

    def pair(epochs):
        return [student(s, epochs, tmp_path / str(s)) for s in (1, 2)]

    ahead = student(1, 2, tmp_path / "1")
    fit_together([ahead], [train], [valid])
    brains = pair(3)
    fit_together(brains, [train] * 2, [valid] * 2)
    assert [epoch for epoch, _, _ in brains[0].log] == [3, 3]
    assert [epoch for epoch, _, _ in brains[1].log] == [1, 1, 2, 2, 3, 3]
    assert same(brains[1], alone(2, train, valid))
    brains[0].log = ahead.log + brains[0].log
    assert same(brains[0], alone(1, train, valid))
    finished = pair(3)
    fit_together(finished, [train] * 2, [valid] * 2)
    assert [brain.log for brain in finished] == [[], []]
