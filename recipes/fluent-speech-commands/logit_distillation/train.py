#!/usr/bin/env python3
"""Trains an end-to-end SLU student under its text teachers.

A frozen encoder that was pre-trained for speech recognition feeds a small
slot classifier. Beside the labels, the logits of a fine-tuned BERT on the
transcript teach it; the student itself never sees text.

To run this recipe:
> python train.py hparams/distill_teacher_mae_exp.yaml
> python train.py hparams/distill_teacher_mae_exp.yaml \
>     --data_folder=/path/to/fluent_speech_commands_dataset \
>     --text_encoder=bert-base-uncased

To read the code, start at `main` at the bottom: corpus -> manifests -> tables
of the teachers, and features -> student -> losses -> metrics.

Source: Cho et al. 2020, "Speech to Text Adaptation: Towards an Efficient
Cross-Modal Distillation".

Authors
 * slu_kd_lobes authors
"""

import statistics
import sys
import time
from contextlib import contextmanager

import speechbrain as sb
import torch
from prepare import prepare_fsc
from speechbrain.nnet.schedulers import update_learning_rate
from speechbrain.utils.distributed import if_main_process, run_on_main

from slu_kd_lobes.data.batching import UtteranceDataset
from slu_kd_lobes.evaluation.metrics import intent_errors, slot_metrics
from slu_kd_lobes.evaluation.report import (
    Tested,
    count_parameters,
    write_results,
)
from slu_kd_lobes.losses.schedules import label_weight
from slu_kd_lobes.teachers.controls import describe, teaching
from slu_kd_lobes.training.brain import StudentBrain
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    finish_run,
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
)
from slu_kd_lobes.utils.fingerprints import joined, module_fingerprint


class SLUBrain(StudentBrain):
    """Trains the student on the labels and on its teachers' logits.

    Besides what StudentBrain has, it is given the `features` and the `slices`
    of the logits.
    """

    best = "error"

    def compute_forward(self, batch, stage):
        """Returns the student's logits, [batch, values], and its frames."""
        batch.to(self.device)
        features, batch.lengths = self.features(
            batch.inputs, batch.lengths, training=stage == sb.Stage.TRAIN
        )
        return self.modules.student(features, batch.lengths, return_frames=True)

    def compute_objectives(self, outputs, batch, stage):
        """Returns the loss, eq. 1; the cross entropy outside training."""
        logits, frames = outputs
        ce = self.hparams.ce_loss(logits, batch.targets, self.slices)  # eq. 2
        if stage != sb.Stage.TRAIN:
            self.log_terms(len(batch.indices), loss=ce)
            self.outputs.append((logits, batch.targets, batch.indices))
            return ce
        error_rate = intent_errors(
            logits.detach(), batch.targets, self.slices
        ).mean()
        loss, terms = ce, {"ce": ce, "error": 100 * error_rate}
        if batch.teacher_logits:
            kd, weights = self.hparams.distillation(  # eqs. 3 and 4
                logits, batch.teacher_logits, error_rate, self.slices
            )
            beta = self.hparams.beta(self.epoch, error_rate)  # eq. 5
            alpha = label_weight(self.hparams.beta, beta)  # 1 - beta
            loss = alpha * ce + beta * kd  # eq. 1
            gamma = weights.get("professor", 0.0)
            terms.update(kd=kd, beta=beta, gamma=gamma)
        if self.hparams.matching_weight > 0:
            matching = self.modules.matching(
                frames, batch.lengths, batch.sentence_vectors
            )
            loss = loss + matching
            terms.update(matching=matching)
        self.log_terms(len(batch.indices), loss=loss, **terms)
        return loss

    def start_epoch(self, epoch):
        """Sets which layers of the encoder train, and the learning rate."""
        self.features.start_epoch(epoch)
        if self.hparams.lr_decay != 1:
            lr = self.hparams.lr * self.hparams.lr_decay ** (epoch - 1)
            update_learning_rate(self.optimizer, lr)

    def on_stage_start(self, stage, epoch=None):
        """Starts the list of outputs."""
        super().on_stage_start(stage, epoch)
        self.outputs = []

    def evaluation_stats(self):
        """Returns the mean loss and the intent error, and keeps all else."""
        logits, targets, indices = zip(*self.outputs)
        logits = torch.cat(logits).float().cpu().numpy()
        targets = torch.cat(targets).cpu().numpy()
        metrics = slot_metrics(logits, targets, self.slices)
        self.tested = Tested(sum(indices, []), logits, targets, metrics)
        return {"loss": self.means()["loss"], "error": metrics["intent_error"]}


def dataio_prep(hparams, manifests, tables, features):
    """Builds the data sets: what each utterance means, says and sounds like."""
    schema = manifests.schema
    rows = {split: manifests.read(split) for split in manifests.splits}
    run_on_main(features.build, [sum(rows.values(), [])])
    datasets = {}
    for split, utterances in rows.items():
        targets = torch.tensor([schema.encode(row) for row in utterances])
        columns = {"targets": targets}
        if split == "train":
            texts = [row["transcription"] for row in utterances]
            facts = texts, targets, schema.slices, hparams["control"]
            taught = {
                name: teaching(table, *facts) for name, table in tables.items()
            }
            if "sentence" in taught:  # vectors, and no logits
                columns["sentence_vectors"] = taught.pop("sentence")
            columns["teacher_logits"] = taught
        datasets[split] = UtteranceDataset(
            ids=[row["ID"] for row in utterances],
            inputs=features.load(utterances),
            **columns,
        )
    return datasets


def chosen_text_models(hparams):
    """The text models that the student learns from, by name."""
    names, models = list(hparams["teachers"]), hparams["text_models"]
    for name in names:
        if name == "sentence" or name not in models:
            raise ValueError(
                f"teachers: there is no '{name}'; choose teacher or professor"
            )
    if hparams["matching_weight"] > 0:
        if "sentence" not in models:
            raise ValueError(
                "matching_weight: there is no utterance matching in this "
                "training; that of a pre-training is in utterance_matching"
            )
        names.append("sentence")
    return {name: models[name] for name in names}


def prepare(hparams, device):
    """Corpus -> manifests, text models, and what gives and takes features."""
    text_models = chosen_text_models(hparams)
    manifests = run_on_main(prepare_fsc, kwargs=hparams["corpus"])
    features = hparams["make_features"](hparams["make_encoder"](), device)
    modules = make_modules(hparams, manifests.schema, features, {})  # or raises
    pretrained = getattr(modules["student"], "made_from", {})
    return manifests, text_models, features, pretrained


def made_from(manifests, features, text_models):
    """Fingerprints of all that a student is made from, besides the YAML."""
    schema = manifests.schema
    return {
        "train data": manifests.fingerprint("train"),
        "encoder": module_fingerprint(features.encoder),
        "tables": {
            name: model.made_from(schema, model.transcripts(manifests))
            for name, model in text_models.items()
        },
    }


def make_modules(hparams, schema, features, tables):
    """What trains: the student, and the projection of matching."""
    encoder = features.encoder
    student = hparams["student"](
        num_logits=schema.num_logits,
        input_size=encoder.feature_size,
        layers=encoder.layers,
    )
    modules = {"student": student}
    if "sentence" in tables:
        modules["matching"] = hparams["matching"](
            frame_size=student.frame_size,
            vector_size=tables["sentence"].outputs.shape[1],
        )
    if features.trains:
        modules["encoder"] = encoder
    return modules


def main(arguments):
    """Prepares, trains and tests."""
    seconds = {}

    @contextmanager
    def timed(name):
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        with timed("prepare"):
            manifests, text_models, features, pretrained = prepare(
                hparams, run_opts["device"]
            )
            sources = made_from(manifests, features, text_models)
            sources = joined(sources, pretrained)
            slots = {"slots": manifests.schema}
            start_or_resume(hparams, text, sources, **slots)
        with timed("teacher"):
            tables = {
                name: model.table(manifests, run_opts)
                for name, model in text_models.items()
            }
        with timed("features"):
            datasets = dataio_prep(hparams, manifests, tables, features)

    # Whatever ran before, the same seed gives the same student.
    sb.utils.seed.seed_everything(hparams["seed"])
    brain = SLUBrain(
        modules=make_modules(hparams, manifests.schema, features, tables),
        made_from=sources,
        recoverables=slots,
        train_logger=hparams["train_logger"],
        tensorboard_folder=hparams["tensorboard_folder"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.features, brain.slices = features, manifests.schema.slices
    brain.valid_every = hparams["valid_every"]
    size, workers = hparams["batch_size"], features.loader_workers
    train, valid = datasets["train"], datasets["valid"]
    with one_sentence_errors(), timed("train"):
        brain.fit(
            hparams["epoch_counter"],
            train,
            valid,
            train_loader_kwargs=train.loader_options(
                size, hparams["seed"], workers
            ),
            valid_loader_kwargs=valid.loader_options(size),
        )

    results = {"last": {}, "best": {}}
    with timed("test"):
        for epoch, tested in results.items():
            for name in ["valid", *manifests.tests]:
                options = datasets[name].loader_options(size)
                brain.test(datasets[name], epoch, **options)
                ids = [datasets[name].ids[i] for i in brain.tested.ids]
                tested[name] = brain.tested._replace(ids=ids)
    if if_main_process():
        for name, values in brain.seconds.items():
            seconds[name] = statistics.median(values)
        texts = [row["transcription"] for row in manifests.read("train")]
        columns = texts, train.columns["targets"], brain.slices
        write_results(
            hparams,
            manifests,
            results,
            tested_epoch=hparams["test_epoch"],
            history=brain.history,
            parameters=count_parameters(brain.modules, features),
            teachers={
                name: describe(table, *columns, name != "sentence")
                for name, table in tables.items()
            },
            seconds={k: round(value, 3) for k, value in seconds.items()},
        )
    finish_run()


if __name__ == "__main__":
    main(sys.argv[1:])
