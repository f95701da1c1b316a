"""The training loop: seeds, means, checkpoints, and going on after a stop."""

import itertools
import json
import os
import random

import pytest
import speechbrain as sb
import torch
import torch.multiprocessing as mp
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger

from slu_kd_lobes.data.batching import UtteranceDataset
from slu_kd_lobes.data.features import StoredFeatures
from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.students.dropout import Dropout
from slu_kd_lobes.training.brain import StudentBrain, linear_warm_up, seed_step
from slu_kd_lobes.training.checkpoints import WholeCheckpointer

EPOCHS = 4
BATCH = 4


class Stop(Exception):
    """What ends a run before its time."""


class Line(StudentBrain):
    """Fits a line through dropout; the last two epochs make it worse.

    Arguments
    ---------
    *args, **kwargs
        As for `StudentBrain`.
    stop_at : tuple or None
        Stage, epoch and step at which the run ends.
    """

    def __init__(self, *args, stop_at=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.stop_at = stop_at
        self.places = []  # of the training steps
        self.drawn = []

    def compute_forward(self, batch, stage):
        batch.to(self.device)
        return self.modules.layer(batch.inputs[:, 0])

    def compute_objectives(self, outputs, batch, stage):
        place = stage.name, self.epoch, self.step
        if place == self.stop_at:
            raise Stop
        if stage == sb.Stage.TRAIN:
            self.places.append(place[1:])
            self.drawn.append(batch.indices)
        loss = (outputs - batch.targets).square().mean()
        self.log_terms(len(batch.indices), loss=loss, epoch=self.epoch)
        return loss

    def start_epoch(self, epoch):
        lr = 0.05 if epoch <= EPOCHS - 2 else -0.05
        sb.nnet.schedulers.update_learning_rate(self.optimizer, lr)


class Warmed(Line):
    """Notes the learning rate of each step, which rises in the first half."""

    def start_epoch(self, epoch):
        if epoch == 1:
            steps = self.steps_of_epoch(batches=6)
            self.schedule = linear_warm_up(0.12, 0.5, 2, steps)
            self.rates = []

    def on_fit_batch_start(self, batch, should_step):
        super().on_fit_batch_start(batch, should_step)
        self.rates.append(self.optimizer.param_groups[0]["lr"])


class Score(Line):
    """Wants the highest of what it is bad at losing."""

    best = "score"
    highest_is_best = True

    def evaluation_stats(self):
        return {"score": -self.means()["loss"]}


def utterances(items):
    """A data set of single frames with numbers to be guessed."""
    lengths = torch.randint(1, 9, (items,))
    return UtteranceDataset(
        ids=list(range(items)),
        inputs=StoredFeatures(
            [torch.randn(int(lengths.sum()), 3)],
            shard=torch.zeros(items, dtype=torch.long),
            starts=lengths.cumsum(0) - lengths,
            lengths=lengths,
        ),
        targets=torch.randn(items, 2) + 3,
    )


@pytest.fixture
def data():
    """Training and validation set; six steps an epoch, the last ones short."""
    return utterances(22), utterances(7)


def student(
    folder=None,
    kind=Line,
    seed=7,
    steps=0,
    valid_every=1,
    epochs=EPOCHS,
    size=2,
    **options,
):
    """A new brain, as a process that starts has it; and its counter."""
    torch.manual_seed(seed)
    layer = torch.nn.Sequential(Dropout(0.3), torch.nn.Linear(3, size))
    counter = EpochCounter(epochs)
    if folder is not None:
        options["checkpointer"] = WholeCheckpointer(
            folder, recoverables={"counter": counter}
        )
    hparams = {"number_of_epochs": epochs}
    run_opts = {"ckpt_interval_steps": steps, "noprogressbar": True}
    brain = kind(
        {"layer": layer},
        opt_class=lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
        hparams={"seed": seed, **hparams},
        run_opts={"device": "cpu", "distributed_backend": "gloo", **run_opts},
        **options,
    )
    brain.valid_every = valid_every
    return brain, counter


def trained(data, *args, workers=0, **options):
    """A brain after training; or after its stop, if it has one."""
    brain, counter = student(*args, **options)
    train, valid = data
    arguments = {
        "train_loader_kwargs": train.loader_options(
            BATCH, brain.hparams.seed, workers
        ),
        "valid_loader_kwargs": valid.loader_options(BATCH),
    }
    if brain.stop_at is None:
        brain.fit(counter, train, valid, **arguments)
    else:
        with pytest.raises(Stop):
            brain.fit(counter, train, valid, **arguments)
    return brain


def weights(brain):
    """All numbers of the student, one after the other."""
    values = brain.modules.state_dict().values()
    return torch.cat([value.flatten() for value in values])


def checkpoints(folder):
    """Meta data of the checkpoints, the oldest first."""
    found = Checkpointer(folder).list_checkpoints()
    return [c.meta for c in sorted(found, key=lambda c: c.meta["unixtime"])]


# The learning rate


def test_the_rate_rises_and_falls_by_steps(data, caplog):
    """To its height at the 6th of 12 steps; no step writes a line."""
    brain = trained(data, kind=Warmed, epochs=2)
    falling = [0.12 * left / 7 for left in (7, 6, 5, 4, 3, 2, 1)]
    rising = [0.02, 0.04, 0.06, 0.08, 0.1]
    assert brain.rates == pytest.approx([*rising, *falling])
    assert "lr" not in caplog.text


def test_what_is_left_of_an_epoch_makes_no_step():
    """Nor may an epoch be too short for one."""
    brain, _ = student()
    brain.grad_accumulation_factor = 4
    assert brain.steps_of_epoch(batches=7) == 1
    assert brain.steps_of_epoch(batches=8) == 2
    with pytest.raises(ValueError, match="has 3 batches and grad_accumu"):
        brain.steps_of_epoch(batches=3)


# Seeds


def numbers(*place, **rank):
    """The first numbers after seeding."""
    seed_step(*place, **rank)
    return tuple(torch.rand(4).tolist())


def test_every_place_in_training_has_numbers_of_its_own():
    """The next seed's step is not this seed's next step, and so on."""
    places = list(itertools.product((0, 1, 2), repeat=4))
    drawn = {
        numbers(seed, epoch, step, rank=rank)
        for seed, epoch, step, rank in places
    }
    assert len(drawn) == len(places)


def test_what_ran_before_does_not_matter():
    """A step draws the same in a resumed run, from Python's numbers too."""
    first, more = numbers(1234, 3, 7), random.random()
    torch.rand(100)
    random.random()
    assert numbers(1234, 3, 7) == first and random.random() == more


def test_a_seed_makes_a_run(data):
    """The same one again, whatever was drawn before; another is another."""
    first = trained(data)
    torch.rand(1000)
    again = trained(data)
    assert torch.equal(weights(first), weights(again))
    assert first.history.epochs == again.history.epochs
    assert first.drawn == again.drawn
    other = trained(data, seed=8)
    assert not torch.equal(weights(first), weights(other))
    assert first.drawn != other.drawn


def test_every_epoch_has_an_order_of_its_own(data):
    """And every utterance, once."""
    brain = trained(data)
    orders = [
        [
            drawn
            for place, drawn in zip(brain.places, brain.drawn)
            if place[0] == t
        ]
        for t in range(1, EPOCHS + 1)
    ]
    assert len({str(order) for order in orders}) == EPOCHS
    for order in orders:
        assert sorted(sum(order, [])) == list(range(22))


# Going on after a stop


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "stop_at, resumes_at",
    [
        (("TRAIN", 1, 2), (1, 1)),  # before the first checkpoint
        (("TRAIN", 1, 3), (1, 3)),
        (("TRAIN", 2, 4), (2, 3)),
        (("TRAIN", 2, 6), (2, 5)),
        (("TRAIN", 3, 1), (3, 1)),
        (("VALID", 3, 1), (4, 1)),  # all steps of the epoch are saved
        (("VALID", 4, 2), None),
    ],
)
def test_a_stopped_run_ends_like_one_without_a_stop(
    data, tmp_path, stop_at, resumes_at, workers
):
    """Weights and all statistics, to the last digit."""
    whole = trained(data)
    options = {"steps": 2, "workers": workers}
    stopped = trained(data, tmp_path, stop_at=stop_at, **options)
    assert len(stopped.history.epochs) == stop_at[1] - 1
    resumed = trained(data, tmp_path, **options)
    assert resumed.places[:1] == ([resumes_at] if resumes_at else [])
    known = len(resumed.places)
    assert resumed.places == whole.places[len(whole.places) - known :]
    assert resumed.drawn == whole.drawn[len(whole.drawn) - known :]
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.history.epochs == whole.history.epochs


def test_a_run_that_is_stopped_again_and_again_ends_alike(data, tmp_path):
    """Twice in the same epoch, then in the next."""
    whole = trained(data)
    for place in (("TRAIN", 2, 4), ("TRAIN", 2, 6), ("TRAIN", 3, 5)):
        trained(data, tmp_path, stop_at=place, steps=2)
    resumed = trained(data, tmp_path, steps=2)
    assert resumed.places[0] == (3, 5)
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.history.epochs == whole.history.epochs


def test_a_stop_between_validations_is_made_good(data, tmp_path):
    """An epoch without validation saves nothing; a later step does."""
    options = {"valid_every": 3, "steps": 4}
    whole = trained(data, **options)
    trained(data, tmp_path, stop_at=("TRAIN", 2, 2), **options)
    resumed = trained(data, tmp_path, **options)
    assert resumed.places[0] == (1, 5)
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.history.epochs == whole.history.epochs


def test_a_finished_run_does_not_train_again(data, tmp_path):
    """It has its weights and its history."""
    first = trained(data, tmp_path)
    again = trained(data, tmp_path)
    assert again.places == []
    assert torch.equal(weights(again), weights(first))
    assert again.history.epochs == first.history.epochs


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_run_that_gets_more_epochs_ends_like_one_that_had_them(
    data, tmp_path, every
):
    """Weights and statistics; the former last epoch stays validated."""
    whole = trained(data, valid_every=every)
    first = trained(data, tmp_path, valid_every=every, epochs=2)
    assert len(first.history.epochs) == 2
    more = trained(data, tmp_path, valid_every=every)
    assert more.places[0] == (3, 1)
    assert torch.equal(weights(more), weights(whole))
    for row, other in zip(whole.history.epochs, more.history.epochs):
        assert row.items() <= other.items()
        assert row == other or (every == 3 and row["epoch"] == 2)


def test_other_labels_are_told_before_weights_are_loaded(data, tmp_path):
    """A layer of another size has no message of its own."""
    slots = {"slots": SlotSchema({"action": ["on", "off"]})}
    trained(data, tmp_path, recoverables=slots)
    slots = {"slots": SlotSchema({"action": ["on", "off", "dim"]})}
    brain, counter = student(tmp_path, size=3, recoverables=slots)
    with pytest.raises(ValueError, match=r"and gained \['dim'\]"):
        brain.fit(counter, data[0])
    brain, counter = student(tmp_path, size=3, made_from={"train data": "5f"})
    with pytest.raises(ValueError, match="was made from another train data"):
        brain.fit(counter, data[0])


def test_a_run_of_another_origin_is_refused(data, tmp_path):
    """Before its first step."""
    made_from = {"train data": "5f", "encoder": "c3"}
    trained(data, tmp_path, stop_at=("TRAIN", 2, 1), made_from=made_from)
    made_from["train data"] = "a0"
    brain, counter = student(tmp_path, made_from=made_from)
    with pytest.raises(ValueError, match="made from another train data: gi"):
        brain.fit(
            counter,
            data[0],
            **{"train_loader_kwargs": data[0].loader_options(BATCH, 7)},
        )
    assert brain.places == []


def _train_as_one_of_two(rank, folder, data, told):
    """Trains without a stop, with one, and goes on after it."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    whole = trained(data)
    options = {"folder": folder / "save", "steps": 2}
    trained(data, stop_at=("TRAIN", 2, 3), **options)
    torch.distributed.barrier()
    resumed = trained(data, **options)
    for brain in (whole, resumed):
        told.put((brain.drawn, brain.history.epochs, weights(brain).tolist()))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes tells of a whole and of a resumed run."""
    torch.manual_seed(1234)
    data = utterances(22), utterances(7)
    folder = tmp_path_factory.mktemp("two")
    spawn = mp.get_context("spawn")
    told = [spawn.Queue(), spawn.Queue()]
    processes = [
        spawn.Process(
            target=_train_as_one_of_two, args=(rank, folder, data, told[rank])
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        yield [[queue.get(timeout=120) for _ in range(2)] for queue in told]
    finally:
        for process in processes:
            process.join(30)
            process.kill()


def test_processes_share_the_batches_and_agree(two_processes):
    """Each has its own part, both have the weights and the statistics."""
    (one, *_), (two, *_) = two_processes
    for epoch in range(EPOCHS):
        batches = [
            sum(drawn[3 * epoch : 3 * epoch + 3], [])
            for drawn in (one[0], two[0])
        ]
        assert sorted(sum(batches, [])) == list(range(22))
    assert one[1:] == two[1:]
    assert len(one[1]) == EPOCHS


def test_a_stopped_run_of_two_processes_has_the_same_weights(two_processes):
    """Of one without a stop."""
    for whole, resumed in two_processes:
        assert resumed[0] == whole[0][-len(resumed[0]) :]
        assert 0 < len(resumed[0]) < len(whole[0])
        assert resumed[2] == whole[2]


def test_a_stopped_run_of_two_processes_has_the_same_statistics(two_processes):
    """Those of the epoch that was stopped are of both processes, too."""
    for whole, resumed in two_processes:
        for row, other in zip(whole[1], resumed[1], strict=True):
            assert row == pytest.approx(other, rel=1e-6)


# Validation and the best epoch


def test_statistics_are_means_over_utterances(data):
    """Also where the last batch is a short one."""
    train, valid = data
    brain = trained(data)
    with torch.no_grad():
        batch = valid.__getitems__(list(range(7)))
        guess = brain.modules.layer(batch.inputs[:, 0])
        expected = (guess - batch.targets).square().mean().item()
    last = brain.history.epochs[-1]
    assert last["valid_loss"] == pytest.approx(expected, rel=1e-5)
    for row in brain.history.epochs:
        assert row["train_epoch"] == row["valid_epoch"] == row["epoch"]


def test_the_best_and_the_last_epoch_are_kept(data, tmp_path):
    """Here the second of four: after it the learning rate is negative."""
    brain = trained(data, tmp_path)
    losses = brain.history.column("valid_loss")[1]
    assert losses[1] == min(losses) < losses[-1]
    kept = [meta["valid_loss"] for meta in checkpoints(tmp_path)]
    assert kept == [losses[1], losses[-1]]


def test_the_highest_may_be_best(data, tmp_path):
    """Its maximum is kept, and found again."""
    brain = trained(data, tmp_path, kind=Score)
    scores = brain.history.column("valid_score")[1]
    assert scores[1] == max(scores) > scores[-1]
    kept = [meta["valid_score"] for meta in checkpoints(tmp_path)]
    assert kept == [scores[1], scores[-1]]
    assert loss_at(brain, data, "best") == pytest.approx(-scores[1])
    assert loss_at(brain, data, "last") == pytest.approx(-scores[-1])


def loss_at(brain, data, epoch):
    """The loss on the validation set at an epoch."""
    brain.test(data[1], epoch, **data[1].loader_options(BATCH))
    return brain.means()["loss"]


def test_a_test_of_the_best_epoch_leaves_the_history(data, tmp_path):
    """Its checkpoint does not know the later epochs."""
    brain = trained(data, tmp_path)
    before = json.dumps(brain.history.epochs)
    losses = brain.history.column("valid_loss")[1]
    for epoch, loss in (("best", losses[1]), ("last", losses[-1])):
        assert loss_at(brain, data, epoch) == pytest.approx(loss)
        assert json.dumps(brain.history.epochs) == before
    assert len(brain.history.epochs) == EPOCHS


@pytest.mark.parametrize(
    "every, validated", [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4]), (9, [4])]
)
def test_validation_comes_every_so_many_epochs_and_last(
    data, tmp_path, every, validated
):
    """All else stays the same; what is validated is saved."""
    each = trained(data)
    brain = trained(data, tmp_path, valid_every=every)
    assert brain.history.column("valid_loss")[0] == validated
    assert brain.history.column("epoch")[0] == [1, 2, 3, 4]
    for row, other in zip(each.history.epochs, brain.history.epochs):
        assert other.items() <= row.items()
        assert ("valid_loss" in other) == (row["epoch"] in validated)
    assert torch.equal(weights(brain), weights(each))
    losses = brain.history.column("valid_loss")[1]
    kept = {meta["valid_loss"] for meta in checkpoints(tmp_path)}
    assert kept == {min(losses), losses[-1]}


def test_epochs_are_logged(data, tmp_path):
    """With and without validation: a line of text, and TensorBoard."""
    log, board = tmp_path / "log.txt", tmp_path / "board"
    logger = FileTrainLogger(log)
    trained(data, train_logger=logger, tensorboard_folder=board, valid_every=3)
    lines = log.read_text().splitlines()
    starts = [line.startswith(f"epoch: {t}") for t, line in enumerate(lines, 1)]
    assert starts == [True] * EPOCHS
    assert ["valid loss" in line for line in lines] == [
        False,
        False,
        True,
        True,
    ]
    assert all("train loss" in line for line in lines)
    assert list(board.iterdir())


# What goes wrong


class Broken(Line):
    """Its loss is no number at one step."""

    value = float("nan")

    def compute_objectives(self, outputs, batch, stage):
        loss = super().compute_objectives(outputs, batch, stage)
        if stage == sb.Stage.TRAIN and (self.epoch, self.step) == (2, 3):
            self.before = weights(self)
            loss = loss * self.value
        return loss


class Endless(Broken):
    """Its loss is infinite at one step."""

    value = float("inf")


@pytest.mark.parametrize("kind, word", [(Broken, "nan"), (Endless, "inf")])
def test_a_loss_that_is_not_finite_stops_at_once(data, kind, word):
    """In one sentence with epoch and step; the weights stay as they were."""
    brain, counter = student(kind=kind)
    train = data[0]
    with pytest.raises(ValueError) as caught:
        brain.fit(
            counter, train, train_loader_kwargs=train.loader_options(BATCH, 7)
        )
    message = str(caught.value)
    assert message.startswith(f"the loss is {word} at epoch 2, step 3 (means")
    assert message.endswith("lower lr, or look for broken audio or teachers")
    assert "\n" not in message
    assert torch.equal(weights(brain), brain.before)
