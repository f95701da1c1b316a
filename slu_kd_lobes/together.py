"""Many students in one process, over one pass of the data.

The paper's experiment is many short trainings on the same features. Students
that want the same batches in the same order get them from one loader, read
and encoded once; each ends with the numbers that it would have alone.
"""

import speechbrain as sb
import torch
from tqdm import tqdm


def fit_together(brains, train_loaders, valid_loaders):
    """Trains several students side by side, as `Brain.fit` trains each.

    A student that resumes at a later epoch, or has fewer epochs, joins and
    leaves in its own time.

    Arguments
    ---------
    brains : list of speechbrain.Brain
        Each with its own ``hparams.epoch_counter`` and checkpointer.
    train_loaders : list of torch.utils.data.DataLoader
        One a student; students with the same object share its batches.
    valid_loaders : list of torch.utils.data.DataLoader
        One a student.

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
    students = list(zip(brains, train_loaders, valid_loaders))
    while epochs := [
        counter.current
        for counter in (brain.hparams.epoch_counter for brain in brains)
        if counter.current < counter.limit
    ]:
        active = [
            (brain, train, valid)
            for brain, train, valid in students
            if brain.hparams.epoch_counter.current == min(epochs)
            and min(epochs) < brain.hparams.epoch_counter.limit
        ]
        for brain, _, _ in active:
            epoch = next(brain.hparams.epoch_counter)
        _run_stage(
            [(brain, train) for brain, train, _ in active],
            sb.Stage.TRAIN,
            epoch,
        )
        with torch.no_grad():
            _run_stage(
                [(brain, valid) for brain, _, valid in active],
                sb.Stage.VALID,
                epoch,
            )


def _run_stage(students, stage, epoch):
    """One pass over the loaders, every batch for all who share its loader."""
    training = stage == sb.Stage.TRAIN
    losses = [0.0] * len(students)
    for brain, _ in students:
        brain.on_stage_start(stage, epoch)
        brain.modules.train(training)
        brain.zero_grad()
    loaders = list({id(loader): loader for _, loader in students}.values())
    for loader in loaders:
        if training and hasattr(loader.batch_sampler, "set_epoch"):
            loader.batch_sampler.set_epoch(epoch)
    for loader in loaders:
        sharing = [i for i, (_, own) in enumerate(students) if own is loader]
        label = f"epoch {epoch}, {stage.name.lower()}, {len(sharing)} students"
        for batch in tqdm(loader, desc=label, dynamic_ncols=True):
            for i in sharing:
                brain = students[i][0]
                brain.step += 1
                loss = (
                    brain.fit_batch(batch)
                    if training
                    else brain.evaluate_batch(batch, stage)
                )
                losses[i] = brain.update_average(loss, losses[i])
    for (brain, _), loss in zip(students, losses):
        brain.zero_grad(set_to_none=True)
        brain.on_stage_end(stage, loss, epoch)
        brain.step = 0
