#!/usr/bin/env python3
"""Fine-tunes a text teacher and writes its table of logits.

To run this recipe:
> python train_teacher.py hparams/teacher.yaml    # [CLS]
> python train_teacher.py hparams/professor.yaml  # maximum over tokens
> python train_teacher.py hparams/sentence.yaml   # vectors, not fine-tuned

Source: Cho et al. 2020, sections 3.3 and 4.2.1.

Authors
 * slu_kd_lobes authors
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from prepare import prepare_fsc
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from slu_kd_lobes.distillation import intent_errors
from slu_kd_lobes.features import sha256
from slu_kd_lobes.files import read_csv
from slu_kd_lobes.hparams import load_hparams, one_sentence_errors, plain_values
from slu_kd_lobes.slots import SlotSchema
from slu_kd_lobes.teachers import (
    TeacherTable,
    TextTeacher,
    text_encoder_fingerprint,
)
from slu_kd_lobes.text import normalise_transcript

logger = get_logger(__name__)


class TeacherBrain(sb.Brain):
    """Fine-tunes a text encoder on transcripts."""

    def compute_forward(self, batch, stage):
        """Returns the logits of the batch's transcripts."""
        return self.modules.teacher(batch["transcript"])

    def compute_objectives(self, logits, batch, stage):
        """Returns the slot cross entropy."""
        targets = batch["targets"].to(self.device)
        return self.hparams.loss(logits, targets, self.slices)

    def on_stage_start(self, stage, epoch=None):
        """Sets the learning rate of the epoch."""
        if stage == sb.Stage.TRAIN:
            lr = self.hparams.lr * self.hparams.lr_decay ** (epoch - 1)
            sb.nnet.schedulers.update_learning_rate(self.optimizer, lr)


def read_transcripts(manifest, schema):
    """Different transcripts of a manifest with the slots of their first row."""
    rows = {}
    for row in read_csv(manifest):
        text = normalise_transcript(row["transcription"])
        rows.setdefault(text, schema.encode(row))
    return dict(sorted(rows.items()))


def teacher_identity(hparams, text, schema, splits):
    """What a table is made from; anything else makes it another table."""
    # Other test sets with the same transcripts need no other teacher.
    transcripts = [splits["train"], sorted(set().union(*splits.values()))]
    settings = plain_values(text)
    for place in (
        "data_folder",
        "csv_folder",
        "test_splits",
        "train_fraction",
        "subset_seed",
        "teacher_folder",
        "text_encoder",
    ):
        settings.pop(place)
    return {
        "settings": sha256(json.dumps(settings).encode()),
        "text_encoder": text_encoder_fingerprint(hparams["text_encoder"]),
        "schema": schema.fingerprint,
        "transcripts": sha256(json.dumps(transcripts).encode()),
    }


@torch.no_grad()
def compute_logits(teacher, transcripts, batch_size=256):
    """Logits of a teacher in eval mode, [transcripts, values]."""
    teacher.eval()
    batches = [
        teacher(transcripts[i : i + batch_size]).float().cpu()
        for i in range(0, len(transcripts), batch_size)
    ]
    return torch.cat(batches)


def train_teacher(hparams, schema, rows, run_opts):
    """Fine-tunes the text encoder on transcripts and returns it."""
    sb.utils.seed.seed_everything(hparams["seed"])
    # Without training, what is of use are the text encoder's own vectors.
    trains = hparams["number_of_epochs"] > 0
    teacher = TextTeacher(
        hparams["text_encoder"],
        schema.num_logits if trains else None,
        hparams["pooling"],
        max_length=hparams["max_length"],
    )
    brain = TeacherBrain(
        modules={"teacher": teacher},
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
    )
    brain.distributed_launch = False  # one process trains it for all
    brain.slices = schema.slices
    items = [
        {"transcript": text, "targets": torch.tensor(targets)}
        for text, targets in rows.items()
    ]
    loader = torch.utils.data.DataLoader(
        items,
        batch_size=hparams["batch_size"],
        shuffle=True,
        generator=torch.Generator().manual_seed(hparams["seed"]),
    )
    brain.fit(range(1, hparams["number_of_epochs"] + 1), loader)
    return teacher


def errors_by_split(table, splits, schema):
    """Percent of each split's different transcripts with a wrong slot."""
    errors = {}
    for name, rows in splits.items():
        logits = table.logits[table.rows(rows)]
        targets = torch.tensor(list(rows.values()))
        wrong = intent_errors(logits, targets, schema.slices)
        errors[name] = round(100 * float(wrong.mean()), 4)
    return errors


def get_teacher_table(hparams_file, overrides, run_opts):
    """Loads the table of a configuration's teacher, training it if need be.

    Arguments
    ---------
    hparams_file : str or Path
        ``teacher.yaml``, ``professor.yaml`` or the like.
    overrides : str
        YAML lines that replace keys of it.
    run_opts : dict
        Options of SpeechBrain's Brain, such as the device.

    Returns
    -------
    TeacherTable

    Raises
    ------
    ValueError
        If the teacher is not good enough to teach.
    """
    hparams, text = load_hparams(hparams_file, overrides)
    name, folder = hparams["name"], Path(hparams["teacher_folder"])
    keys = ("data_folder", "slots", "csv_folder", "test_splits", "slot_values")
    keys += ("train_fraction", "subset_seed")
    source = [hparams[key] for key in keys]
    manifest_key = sha256(json.dumps(source).encode())[:12]
    manifest_folder = folder / "manifests" / manifest_key
    manifests = run_on_main(
        prepare_fsc,
        kwargs={
            "save_folder": str(manifest_folder),
            **{key: hparams[key] for key in keys},
        },
    )
    schema = SlotSchema.load(manifests["slots"])
    paths = {key: manifests[key] for key in ("train", "valid")}
    splits = {
        split: read_transcripts(path, schema)
        for split, path in {**paths, **manifests["tests"]}.items()
    }
    made_from = teacher_identity(hparams, text, schema, splits)
    identity = sha256(json.dumps(made_from).encode())[:12]
    path = folder / f"{name}-{identity}" / "table.safetensors"
    run_on_main(
        find_or_make_table,
        args=[hparams, text, schema, splits, made_from, path, run_opts],
    )
    return TeacherTable.load(path, made_from)


def find_or_make_table(
    hparams, text, schema, splits, made_from, path, run_opts
):
    """Leaves a sound table at the path."""
    name = hparams["name"]
    if path.is_file():
        TeacherTable.load(path, made_from)
        logger.info(f"The {name}'s table of logits is {path}")
        return
    logger.info(
        f"There is no {name} for this data and these settings yet: training "
        f"it now on {len(splits['train'])} transcripts"
    )
    make_table(hparams, text, schema, splits, made_from, path, run_opts)


def make_table(hparams, text, schema, splits, made_from, path, run_opts):
    """Trains a teacher, checks it and writes its table."""
    teacher = train_teacher(hparams, schema, splits["train"], run_opts)
    transcripts = sorted(set().union(*splits.values()))
    table = TeacherTable(
        transcripts, compute_logits(teacher, transcripts), made_from
    )
    if hparams["number_of_epochs"] > 0:
        check_teacher(hparams, table, splits, schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "hyperparams.yaml").write_text(text, encoding="utf-8")
    (path.parent / "errors.json").write_text(json.dumps(table.errors, indent=2))
    table.save(path)
    logger.info(f"Table of {len(transcripts)} transcripts: {path}")


def check_teacher(hparams, table, splits, schema):
    """Notes the errors of a teacher; refuses one that would teach mistakes."""
    table.errors = errors_by_split(table, splits, schema)
    shown = ", ".join(f"{k} {v:.2f} %" for k, v in table.errors.items())
    logger.info(f"Error of the {hparams['name']} on transcripts: {shown}")
    bound = hparams["max_train_error"]
    if not table.errors["train"] <= bound:
        raise ValueError(
            f"the {hparams['name']} is wrong on {table.errors['train']:.2f} % "
            f"of the training transcripts, more than max_train_error "
            f"({bound} %): train it longer (number_of_epochs), choose another "
            "lr or text_encoder, or raise the bound"
        )
    if not np.isfinite(table.logits.numpy()).all():
        raise ValueError(
            f"the {hparams['name']} gives logits that are not finite: lower "
            "its lr"
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with one_sentence_errors():
        table = get_teacher_table(hparams_file, overrides, run_opts)
    print(json.dumps(table.errors, indent=2))
