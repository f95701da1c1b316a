"""Many students in one process, over one pass of the data.

The paper's experiment is many short trainings on the same features. Students
that want the same batches in the same order get them from one loader, read
and encoded once; each ends with the numbers that it would have alone.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest

import speechbrain as sb
import torch
from tqdm import tqdm


def fit_together(brains, train_loaders, valid_loaders, workers=1):
    """Trains several students side by side, as `Brain.fit` trains each.

    A student that resumes at a later epoch, or has fewer epochs, joins and
    leaves in its own time.

    Arguments
    ---------
    brains : list of speechbrain.Brain
        Each with its own ``hparams.epoch_counter`` and checkpointer, and a
        method ``validates(epoch)``.
    train_loaders : list of torch.utils.data.DataLoader
        One a student; students with the same object share its batches.
    valid_loaders : list of torch.utils.data.DataLoader
        One a student.
    workers : int
        Students that take a step at the same time, sharing out torch's
        threads. Each has the numbers that it would have with its share.

    Example
    -------
    >>> from speechbrain.utils.epoch_loop import EpochCounter
    >>> class Mean(sb.Brain):
    ...     def compute_forward(self, batch, stage):
    ...         return self.modules.layer(batch)
    ...
    ...     def compute_objectives(self, outputs, batch, stage):
    ...         return outputs.mean()
    ...
    ...     def validates(self, epoch):
    ...         return True
    ...
    ...     def on_stage_end(self, stage, loss, epoch):
    ...         print(epoch, stage.name)
    >>> brain = Mean(
    ...     {"layer": torch.nn.Linear(1, 1)},
    ...     opt_class=lambda parameters: torch.optim.SGD(parameters, 0.1),
    ...     hparams={"epoch_counter": EpochCounter(1)},
    ... )
    >>> loader = torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=2)
    >>> fit_together([brain], [loader], [loader])
    1 TRAIN
    1 VALID
    """
    for brain in brains:
        brain.on_fit_start()
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    with ThreadPoolExecutor(workers) as pool:
        _fit(brains, train_loaders, valid_loaders, pool)
    torch.set_num_threads(threads)


def _fit(brains, train_loaders, valid_loaders, pool):
    students = list(zip(brains, train_loaders, valid_loaders))
    counters = {brain: brain.hparams.epoch_counter for brain in brains}
    while waiting := [
        counter.current
        for counter in counters.values()
        if counter.current < counter.limit
    ]:
        # Those who are behind come first.
        active = [
            student
            for student in students
            if counters[student[0]].current == min(waiting)
            and counters[student[0]].limit > min(waiting)
        ]
        for brain, _, _ in active:
            epoch = next(counters[brain])
        train = [(brain, loader) for brain, loader, _ in active]
        valid = [
            (brain, loader)
            for brain, _, loader in active
            if brain.validates(epoch)
        ]
        _run_stage(train, sb.Stage.TRAIN, epoch, pool)
        if valid:
            _run_stage(valid, sb.Stage.VALID, epoch, pool)


def _run_stage(students, stage, epoch, pool):
    """One pass over the loaders, every batch for all who share its loader."""
    training = stage == sb.Stage.TRAIN
    losses = [0.0] * len(students)
    loaders = list({id(loader): loader for _, loader in students}.values())
    for loader in loaders:
        if training and hasattr(loader.batch_sampler, "set_epoch"):
            loader.batch_sampler.set_epoch(epoch)
    for brain, _ in students:
        brain.on_stage_start(stage, epoch)
        brain.modules.train(training)
        brain.zero_grad()

    def take_step(i, batch):
        brain = students[i][0]
        brain.step += 1
        with torch.set_grad_enabled(training):  # it is a setting of the thread
            if training:
                loss = brain.fit_batch(batch)
            else:
                loss = brain.evaluate_batch(batch, stage)
        losses[i] = brain.update_average(loss, losses[i])

    label = f"epoch {epoch}, {stage.name.lower()}, {len(students)} students"
    steps = max(len(loader) for loader in loaders)
    for batches in tqdm(zip_longest(*loaders), label, steps, ncols=79):
        batch_of = {id(o): batch for o, batch in zip(loaders, batches)}
        taking = [
            (i, batch_of[id(own)])
            for i, (_, own) in enumerate(students)
            if batch_of[id(own)] is not None
        ]
        list(pool.map(take_step, *zip(*taking)))
    for (brain, _), loss in zip(students, losses):
        brain.zero_grad(set_to_none=True)
        if not training:
            brain.step = 0  # before the checkpoint, which keeps it
        brain.on_stage_end(stage, loss, epoch)
        brain.step = 0
