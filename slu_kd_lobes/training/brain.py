"""The training loop of every recipe: epochs, means, seeds, checkpoints.

What is trained, and on which loss, a recipe says; this knows neither.
"""

import random
import time
from collections import defaultdict

import numpy as np
import speechbrain as sb
import torch
from speechbrain.nnet.schedulers import (
    LinearWarmupScheduler,
    TriStageLRSchedule,
)
from speechbrain.utils.distributed import (
    ddp_all_reduce,
    if_main_process,
    is_distributed_initialized,
)
from torch.utils.tensorboard import SummaryWriter

from slu_kd_lobes.training.checkpoints import MadeFrom
from slu_kd_lobes.training.history import TrainingHistory

LOOK_EVERY = 50  # steps between two looks at the loss of a GPU


def seed_step(seed, epoch, step, rank=0):
    """Seeds one training step, so that a resumed run draws the same numbers.

    Arguments
    ---------
    seed : int
        Seed of the run, at least 0.
    epoch : int
        Epoch, counted from 1.
    step : int
        Step within the epoch.
    rank : int
        Number of the process: each has its own batch, and its own noise.

    Example
    -------
    >>> seed_step(1234, epoch=2, step=7)
    >>> first = torch.rand(1)
    >>> seed_step(1234, epoch=2, step=7)
    >>> bool(torch.rand(1) == first)
    True
    """
    mixed = np.random.SeedSequence([seed, epoch, step, rank])
    number = int(mixed.generate_state(1, np.uint64)[0] >> 1)
    random.seed(number)
    # What torch.manual_seed does, but for a stack trace of each call.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)


def linear_warm_up(lr, share, number_of_epochs, steps):
    """A learning rate that rises, and then falls to nothing, step by step.

    Arguments
    ---------
    lr : float
        Its height.
    share : float
        Of all steps, in which it rises.
    number_of_epochs : int
    steps : int
        Of an epoch.

    Returns
    -------
    speechbrain.nnet.schedulers.LinearWarmupScheduler

    Example
    -------
    >>> schedule = linear_warm_up(0.4, 0.25, number_of_epochs=2, steps=4)
    >>> [round(schedule.calculate_lr(step), 2) for step in (1, 2, 5, 8)]
    [0.2, 0.4, 0.23, 0.06]
    """
    total = number_of_epochs * steps
    return LinearWarmupScheduler(lr, round(share * total), total + 1)


def tri_stage(lr, warm_up, hold, number_of_epochs, steps, ends=0.01):
    """A learning rate that rises, stays, and falls, step by step.

    Arguments
    ---------
    lr : float
        Its height.
    warm_up, hold : float
        Shares of all steps, in which it rises, and stays.
    number_of_epochs : int
    steps : int
        Of an epoch.
    ends : float
        Share of the height at which it starts and ends.

    Returns
    -------
    speechbrain.nnet.schedulers.TriStageLRSchedule

    Example
    -------
    >>> schedule = tri_stage(0.4, 0.25, 0.25, number_of_epochs=2, steps=4)
    >>> optimiser = torch.optim.SGD([torch.zeros(1)], 0.4)
    >>> rates = []
    >>> for step in (1, 2, 4, 8):
    ...     schedule(optimiser, step)
    ...     rates.append(round(optimiser.param_groups[0]["lr"], 3))
    >>> rates
    [0.202, 0.4, 0.4, 0.004]
    """
    total = number_of_epochs * steps
    first, second = (max(1, round(x * total)) for x in (warm_up, hold))
    rest = max(1, total - first - second)
    return TriStageLRSchedule(lr, first, second, rest, total, ends, ends)


class StudentBrain(sb.Brain):
    """SpeechBrain's Brain that keeps what is known of every epoch.

    A subclass defines `compute_forward` and `compute_objectives`, and logs
    its terms by `log_terms`. The keys ``seed`` and ``number_of_epochs`` of
    `hparams` are used where they are there.

    Arguments
    ---------
    modules : dict
        What trains; it is kept in the checkpoints.
    made_from : dict or None
        Fingerprints of all that shapes the run; a checkpoint of another
        origin is refused.
    recoverables : dict or None
        What else checkpoints keep.
    train_logger : speechbrain.utils.train_logger.TrainLogger or None
        Gets the statistics of every epoch.
    tensorboard_folder : str or None
        The same for TensorBoard.
    **kwargs
        As for `speechbrain.Brain`.

    Example
    -------
    >>> class Mean(StudentBrain):
    ...     def compute_forward(self, batch, stage):
    ...         return self.modules.layer(batch)
    ...
    ...     def compute_objectives(self, outputs, batch, stage):
    ...         loss = outputs.square().mean()
    ...         self.log_terms(len(batch), loss=loss)
    ...         return loss
    >>> brain = Mean(
    ...     {"layer": torch.nn.Linear(1, 1)},
    ...     opt_class=lambda parameters: torch.optim.SGD(parameters, 0.1),
    ... )
    >>> loader = torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=2)
    >>> brain.fit(range(1, 4), loader, loader)
    >>> first, _, last = brain.history.column("valid_loss")[1]
    >>> last < first
    True
    """

    #: The validation statistic that says which epoch is best.
    best = "loss"
    highest_is_best = False
    #: Epochs from one validation to the next; the last one ends with one, too.
    valid_every = 1
    #: Checkpoints that are kept, of the last epochs and of the best.
    keep = 1
    #: Of the learning rate, by steps; see `linear_warm_up`.
    schedule = None

    def __init__(
        self,
        modules,
        made_from=None,
        recoverables=None,
        train_logger=None,
        tensorboard_folder=None,
        **kwargs,
    ):
        kwargs.setdefault("hparams", {})
        super().__init__(modules, **kwargs)
        self.history = TrainingHistory()
        self.train_logger = train_logger
        self.tensorboard_folder = tensorboard_folder
        self.epoch_facts = {}  # what the log tells beside the statistics
        self.seconds = defaultdict(list)
        self.sums = {}
        if self.checkpointer is not None:
            # Loaded in this order: what refuses a checkpoint comes first.
            self.checkpointer.add_recoverables(
                {
                    **(recoverables or {}),
                    "made_from": MadeFrom(made_from or {}),
                    **modules,
                    "history": self.history,
                }
            )

    def start_epoch(self, epoch):
        """Called before every epoch, for what a recipe sets then.

        Arguments
        ---------
        epoch : int
            Counted from 1.
        """

    def evaluation_stats(self):
        """What is logged of a data set after `VALID` or `TEST`.

        Returns
        -------
        dict
            Numbers by name; with that of `best`.
        """
        return self.means()

    def make_dataloader(self, dataset, stage, *args, **kwargs):
        """As SpeechBrain's; a batch sampler gets a new order in every epoch."""
        loader = super().make_dataloader(dataset, stage, *args, **kwargs)
        if stage == sb.Stage.TRAIN and self.train_sampler is None:
            # Brain asks its own samplers alone.
            self.train_sampler = loader.batch_sampler
        return loader

    def fit_batch(self, batch):
        """As SpeechBrain's, but seeded, and nothing waits for the device."""
        if hasattr(self.hparams, "seed"):
            rank = self.rank if self.distributed_launch else 0
            seed_step(self.hparams.seed, self.epoch, self.step, rank)
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            # A NaN persists, so every 50 steps is enough on a GPU.
            if not loss.is_cuda or self.step % LOOK_EVERY == 0:
                self.check_loss_isfinite(loss)
            self.scaler.scale(loss / self.grad_accumulation_factor).backward()
        if should_step:
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach()

    def update_average(self, loss, avg_loss):
        """The mean for the progress bar, looked at now and then."""
        if self.step % LOOK_EVERY != 1:
            return avg_loss
        return self.means().get("loss", float(loss))

    def check_loss_isfinite(self, loss):
        """Stops at once: a step on such a loss would spoil the weights."""
        loss = loss.detach()
        if not torch.isfinite(loss):
            parts = ", ".join(f"{k} {v:.4g}" for k, v in self.means().items())
            raise ValueError(
                f"the loss is {float(loss)} at epoch {self.epoch}, step "
                f"{self.step} (means so far: {parts}): lower lr, or look for "
                "broken audio or teachers"
            )

    def log_terms(self, items, **terms):
        """Adds to the means of this stage without waiting for the device.

        Arguments
        ---------
        items : int
            How many the terms are means of.
        **terms : torch.Tensor or float
            Scalars.
        """
        for name, value in terms.items():
            if isinstance(value, torch.Tensor):
                value = value.detach()
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + items * value, count + items

    def sums_of_all(self):
        """Sum and count of each term, over all processes."""
        reduce = torch.distributed.ReduceOp.SUM
        sums = {}
        for name, pair in self.sums.items():
            pair = torch.tensor(list(map(float, pair)), dtype=torch.float64)
            sums[name] = ddp_all_reduce(pair.to(self.device), reduce).tolist()
        return sums

    def _save_intra_epoch_ckpt(self):
        self.history.sums = self.sums_of_all()
        super()._save_intra_epoch_ckpt()

    def means(self):
        """Means of the terms, over the items of this process."""
        return {
            name: float(total) / max(1, count)
            for name, (total, count) in self.sums.items()
        }

    def on_stage_start(self, stage, epoch=None):
        """Starts the sums and the clock."""
        self.stage_started = time.perf_counter()
        self.sums = {}
        if stage == sb.Stage.TRAIN:
            self.epoch = epoch
            if self.step > 0:  # resumed inside the epoch
                # One process goes on with the sums of all.
                share = float(if_main_process())
                self.sums = {
                    name: (share * total, share * count)
                    for name, (total, count) in self.history.sums.items()
                }
            self.start_epoch(epoch)

    def steps_of_epoch(self, batches):
        """Steps of the optimiser in an epoch.

        Arguments
        ---------
        batches : int
            Of an epoch, over all processes.

        Returns
        -------
        int

        Raises
        ------
        ValueError
            If there are fewer batches than a step takes.
        """
        if is_distributed_initialized():
            batches = -(-batches // torch.distributed.get_world_size())
        factor = self.grad_accumulation_factor
        if batches < factor:
            raise ValueError(
                f"an epoch has {batches} batches and grad_accumulation_factor "
                f"is {factor}, so nothing would be learnt: lower it, or "
                "batch_size"
            )
        return batches // factor  # what is left over makes no step

    def on_fit_batch_start(self, batch, should_step):
        """Sets the learning rate of the step, if there is a schedule."""
        if should_step and self.schedule is not None:
            lr = self.schedule.calculate_lr(self.optimizer_step + 1)
            # SpeechBrain's update_learning_rate would write a line a step.
            for group in self.optimizer.param_groups:
                group["lr"] = lr

    def validates(self, epoch):
        """Whether an epoch ends with validation; the last one does."""
        last = getattr(self.hparams, "number_of_epochs", None)
        return epoch == last or epoch % self.valid_every == 0

    def _fit_valid(self, valid_set, epoch, enable):
        # Brain.fit offers no other place to leave validation out.
        if valid_set is not None and self.validates(epoch):
            super()._fit_valid(valid_set, epoch, enable)
        else:
            self.log_epoch(epoch, {})

    def on_stage_end(self, stage, stage_loss, epoch):
        """Logs every epoch, and saves after validation."""
        if stage == sb.Stage.TRAIN:
            self.sums = self.sums_of_all()
            self.train_stats = self.means()
            loss = self.train_stats.get("loss", 0.0)
            self.check_loss_isfinite(torch.tensor(loss))
            self.seconds["train_epoch"].append(self._seconds())
            return
        stats = self.evaluation_stats()
        if stage == sb.Stage.TEST:
            return
        self.seconds["valid_epoch"].append(self._seconds())
        self.log_epoch(epoch, stats)
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                meta={f"valid_{k}": float(v) for k, v in stats.items()},
                num_to_keep=self.keep,
                **self._best_key("keys"),
            )

    def _seconds(self):
        return time.perf_counter() - self.stage_started

    def _best_key(self, suffix):
        """An argument of SpeechBrain's that names the best epoch."""
        kind = "max" if self.highest_is_best else "min"
        name = f"valid_{self.best}"
        return {f"{kind}_{suffix}": [name] if suffix == "keys" else name}

    def log_epoch(self, epoch, valid_stats):
        """Notes an epoch in the history, the log and TensorBoard.

        Arguments
        ---------
        epoch : int
        valid_stats : dict
            Empty without validation.
        """
        stats = {
            **{f"train_{k}": v for k, v in self.train_stats.items()},
            **{f"valid_{k}": v for k, v in valid_stats.items()},
        }
        self.history.epochs.append({"epoch": epoch, **stats})
        if self.train_logger is not None:
            facts = {"epoch": epoch, **self.epoch_facts}
            self.train_logger.log_stats(facts, self.train_stats, valid_stats)
        if self.tensorboard_folder is not None and if_main_process():
            with SummaryWriter(self.tensorboard_folder) as writer:
                for name, value in stats.items():
                    writer.add_scalar(name, value, epoch)

    def test(self, dataset, epoch, **loader_options):
        """Evaluates a data set at the ``last`` or the ``best`` epoch.

        Arguments
        ---------
        dataset : torch.utils.data.Dataset
        epoch : str
        **loader_options
            As for `speechbrain.Brain.make_dataloader`.
        """
        key = self._best_key("key") if epoch == "best" else {}
        epochs = self.history.epochs
        self.evaluate(dataset, test_loader_kwargs=loader_options, **key)
        # The checkpoint of an epoch knows no later ones.
        self.history.epochs = epochs
