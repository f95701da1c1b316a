"""Fine-tuning of a text model, which goes on after a stop.

Source: Cho et al. 2020, section 4.2.1.
"""

import shutil
import time

import speechbrain as sb
import torch

from slu_kd_lobes.training.brain import StudentBrain
from slu_kd_lobes.training.checkpoints import RandomState, WholeCheckpointer


class TeacherBrain(StudentBrain):
    """Fine-tunes a text model on transcripts; saved is how far it is.

    A checkpoint holds the whole text encoder three times, so one is saved
    after an epoch only if that costs little beside the training since then.
    """

    #: Share of the time that may go into checkpoints.
    saving = 0.05

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.saved, self.cost = time.monotonic(), 0.5  # seconds; a guess

    def log_epoch(self, epoch, valid_stats):
        """Notes an epoch, and saves now and then."""
        super().log_epoch(epoch, valid_stats)
        now = time.monotonic()
        if (now - self.saved) * self.saving >= self.cost:
            self.checkpointer.save_and_keep_only()
            self.saved = time.monotonic()
            self.cost = self.saved - now

    def compute_forward(self, batch, stage):
        """Returns the logits of the batch's transcripts."""
        return self.modules.teacher(batch["transcript"])

    def compute_objectives(self, logits, batch, stage):
        """Returns the slot cross entropy."""
        targets = batch["targets"].to(self.device)
        loss = self.hparams.loss(logits, targets, self.hparams.slices)
        self.log_terms(len(targets), loss=loss)
        return loss

    def start_epoch(self, epoch):
        """Sets the learning rate of the epoch."""
        lr = self.hparams.lr * self.hparams.lr_decay ** (epoch - 1)
        sb.nnet.schedulers.update_learning_rate(self.optimizer, lr)


def fine_tune(teacher, transcripts, hparams, made_from, folder, run_opts):
    """Fine-tunes a text model, or what is left to do of it.

    Arguments
    ---------
    teacher : TextTeacher
    transcripts : dict
        Targets by transcript.
    hparams : dict
        As `fine_tuning` of :class:`slu_kd_lobes.teachers.tables.TextModel`,
        and the ``slices`` of the logits.
    made_from : dict
        Fingerprints of all that shapes the model.
    folder : Path
        Holds checkpoints while it is trained, and is deleted at the end.
    run_opts : dict
        Options of SpeechBrain's Brain, such as the device.
    """
    hparams = dict(hparams)
    # A step is not seeded: random numbers go on where a checkpoint has them.
    generator = torch.Generator().manual_seed(hparams.pop("seed"))
    brain = TeacherBrain(
        {"teacher": teacher},
        made_from=made_from,
        recoverables={"random": RandomState(generator)},
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=WholeCheckpointer(folder),
    )
    brain.distributed_launch = False  # one process trains it for all
    # The loader could not go on inside an epoch.
    brain.ckpt_interval_minutes = brain.ckpt_interval_steps = 0
    items = [
        {"transcript": text, "targets": torch.tensor(targets)}
        for text, targets in transcripts.items()
    ]
    loader = torch.utils.data.DataLoader(
        items,
        batch_size=hparams["batch_size"],
        shuffle=True,
        generator=generator,
    )
    epochs = range(1, hparams["number_of_epochs"] + 1)
    # What is done is known after `fit` has looked for a checkpoint.
    brain.fit((e for e in epochs if e > len(brain.history.epochs)), loader)
    shutil.rmtree(folder)
