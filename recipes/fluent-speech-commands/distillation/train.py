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

Source: Cho et al. 2020, "Speech to Text Adaptation: Towards an Efficient
Cross-Modal Distillation".

Authors
 * slu_kd_lobes authors
"""

import json
import sys
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import speechbrain as sb
import torch
from prepare import prepare_fsc
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.data_utils import batch_pad_right
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from torch.utils.tensorboard import SummaryWriter

from slu_kd_lobes.audio import read_waveform
from slu_kd_lobes.batching import UtteranceDataset
from slu_kd_lobes.checkpoints import load_pretrained
from slu_kd_lobes.distillation import intent_errors
from slu_kd_lobes.features import FeatureStore, module_fingerprint, sha256
from slu_kd_lobes.files import check_writable, write_json
from slu_kd_lobes.hparams import (
    check_same_run,
    load_hparams,
    one_sentence_errors,
    save_yaml,
)
from slu_kd_lobes.metrics import slot_metrics, slot_predictions
from slu_kd_lobes.provenance import (
    Provenance,
    TrainingHistory,
    git_commit,
    package_versions,
    peak_memory_mb,
)
from slu_kd_lobes.report import (
    plot_confusion,
    plot_learning_curves,
    results_table,
    write_predictions,
)
from slu_kd_lobes.slots import SlotSchema
from train_teacher import get_teacher_table

logger = get_logger(__name__)


class SLUBrain(sb.Brain):
    """Trains the student on the labels and on its teachers' logits.

    Besides what `main` gives it: `encoder` (None when features are stored),
    `schema`, `teacher_logits` [teachers, transcripts, values] and `history`.
    """

    def compute_forward(self, batch, stage):
        """Returns the student's logits, [batch, values]."""
        batch = batch.to(self.device)
        features, lengths = batch.inputs, batch.lengths
        if self.encoder is not None:
            features, lengths = self.encoder(features, lengths)
        return self.modules.student(features, lengths)

    def compute_objectives(self, logits, batch, stage):
        """Returns the loss, eq. 1; the cross entropy outside training."""
        slices = self.schema.slices
        targets = batch.targets.to(self.device)
        ce = self.hparams.ce_loss(logits, targets, slices)
        if stage != sb.Stage.TRAIN:
            self.logits.append(logits.detach())
            self.indices += batch.indices
            return ce
        errors = intent_errors(logits.detach(), targets, slices)
        self.note(len(errors), ce=ce, error=100 * errors.mean())
        if not len(self.teacher_logits):
            return ce
        rows = batch.teacher_rows.T.to(self.device)
        teacher_logits = torch.stack(
            [table[row] for table, row in zip(self.teacher_logits, rows)]
        )
        kd, weights = self.hparams.distillation(
            logits, teacher_logits, errors.mean(), slices
        )
        beta = self.hparams.kd_schedule(self.epoch, errors.mean())
        # gamma, the professor's share, is its weight; a lone teacher's is 0.
        shares = dict(zip(self.hparams.teachers, weights))
        gamma = shares.pop("professor", torch.tensor(0.0))
        shares.pop("teacher", None)
        others = {f"weight_{name}": value for name, value in shares.items()}
        self.note(len(errors), kd=kd, beta=beta, gamma=gamma, **others)
        return (1 - beta) * ce + beta * kd

    def note(self, items, **values):
        """Adds to the epoch's means without waiting for the device."""
        for name, value in values.items():
            value = torch.as_tensor(value, device=self.device).detach()
            total, count = self.sums[name]
            self.sums[name] = total + items * value, count + items

    def check_loss_isfinite(self, loss):
        """Stops at once: a step on such a loss would spoil the student."""
        if not torch.isfinite(loss):
            parts = ", ".join(
                f"{name} {float(total) / count:.4g}"
                for name, (total, count) in self.sums.items()
            )
            raise ValueError(
                f"the loss is {float(loss)} at epoch {self.epoch}, step "
                f"{self.step} (means so far: {parts}): lower lr, or look for "
                "broken audio or teachers"
            )

    def on_stage_start(self, stage, epoch=None):
        """Starts the sums; one seed an epoch makes a resumed run the same."""
        self.sums = defaultdict(lambda: (0.0, 0))
        self.logits, self.indices = [], []
        if stage == sb.Stage.TRAIN:
            self.epoch = epoch
            torch.manual_seed(self.hparams.seed + epoch)
            self.hparams.unfreezing(self.hparams.encoder, epoch)
        if self.encoder is not None:
            training = stage == sb.Stage.TRAIN and (
                self.hparams.unfreezing.trains or self.hparams.encoder_dropout
            )
            self.encoder.train(training)

    def on_stage_end(self, stage, stage_loss, epoch):
        """Logs and saves after validation."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = {
                name: float(total) / count
                for name, (total, count) in self.sums.items()
            }
            self.train_stats["loss"] = float(stage_loss)
            return
        logits = torch.cat(self.logits).float().cpu().numpy()
        targets = self.dataset.targets[self.indices].numpy()
        self.metrics = slot_metrics(logits, targets, self.schema.slices)
        if stage == sb.Stage.TEST:
            self.outputs = logits, targets, self.indices
            return
        valid_stats = {
            "loss": float(stage_loss),
            "error": self.metrics["intent_error"],
        }
        self.hparams.train_logger.log_stats(
            {"epoch": epoch}, self.train_stats, valid_stats
        )
        stats = {
            **{f"train_{k}": v for k, v in self.train_stats.items()},
            **{f"valid_{k}": v for k, v in valid_stats.items()},
        }
        self.history.epochs.append({"epoch": epoch, **stats})
        for name, value in stats.items():
            self.tensorboard.add_scalar(name, value, epoch)
        self.checkpointer.save_and_keep_only(
            meta={"valid_error": float(stats["valid_error"]), "epoch": epoch},
            min_keys=["valid_error"],
        )

    def test(self, dataset):
        """Metrics and outputs of a data set, with the epoch to be tested."""
        self.dataset = dataset
        best = "valid_error" if self.hparams.test_epoch == "best" else None
        self.evaluate(dataset.loader(self.hparams.batch_size), min_key=best)
        return self.metrics, self.outputs


def dataio_prep(hparams, manifests, schema, tables, store):
    """Builds the data sets: what is read, and what it means."""

    @takes("wav")
    @provides("sig")
    def audio_pipeline(wav):
        return read_waveform(wav, hparams["sample_rate"])

    @takes(*schema.names)
    @provides("targets")
    def slot_pipeline(*values):
        return torch.tensor(schema.encode(dict(zip(schema.names, values))))

    @takes("transcription")
    @provides("teacher_rows")
    def teacher_pipeline(transcription):
        rows = [table.rows([transcription]) for table in tables]
        return torch.cat(rows) if rows else torch.zeros(0, dtype=torch.long)

    splits = {
        "train": manifests["train"],
        "valid": manifests["valid"],
        **manifests["tests"],
    }
    pipelines, rows = {}, {}
    for name, path in splits.items():
        pipelines[name] = DynamicItemDataset.from_csv(
            path,
            replacements={"data_root": hparams["data_folder"]},
            dynamic_items=[audio_pipeline, slot_pipeline, teacher_pipeline],
            output_keys=["id", "wav", "duration", "targets", "teacher_rows"],
        )
        # Labels and text fit in memory; audio or features are read by batch.
        rows[name] = list(pipelines[name])
        pipelines[name].set_output_keys(["sig"])
    if store is not None:
        everything = [row for name in splits for row in rows[name]]
        store.load(
            *([row[key] for row in everything] for key in ("wav", "duration"))
        )
    datasets = {}
    for name in splits:
        ids, wavs, durations, targets, teacher_rows = zip(
            *(row.values() for row in rows[name])
        )
        if store is None:
            read = partial(read_waveforms, pipelines[name])
            lengths = [round(1000 * duration) for duration in durations]
        else:
            stored = store.load(wavs, durations)
            read, lengths = stored.batch, stored.lengths
        datasets[name] = UtteranceDataset(
            ids, read, torch.stack(targets), torch.stack(teacher_rows), lengths
        )
    return datasets


def read_waveforms(pipeline, indices):
    """Waveforms of a batch, padded, and their relative lengths."""
    return batch_pad_right([pipeline[index]["sig"] for index in indices])


def make_encoder(hparams, device):
    """The pre-trained encoder; refuses to store features that would change."""
    encoder = hparams["encoder"]
    if hparams["encoder_source"] is not None:
        load_pretrained(hparams["pretrainer"], hparams["encoder_source"])
    elif not hparams["unfreezing"].trains:
        raise ValueError(
            "encoder_source is null and unfreezing is Frozen: an encoder "
            "that is neither pre-trained nor trained hears nothing"
        )
    moving = hparams["unfreezing"].trains or hparams["encoder_dropout"]
    if hparams["store_features"] and moving:
        key = "encoder_dropout" if hparams["encoder_dropout"] else "unfreezing"
        raise ValueError(
            f"features cannot be stored when {key} changes them in training: "
            "set store_features to False"
        )
    return encoder.to(device)


def make_store(hparams, encoder, run_opts):
    """The feature store of the frozen encoder, or None."""
    if not hparams["store_features"]:
        return None
    return FeatureStore(
        hparams["feature_folder"],
        encoder,
        dtype=hparams["feature_dtype"],
        sample_rate=hparams["sample_rate"],
        device=run_opts["device"],
        num_workers=hparams["num_workers"],
    )


def get_tables(hparams, run_opts):
    """The teachers' tables, in the order of the configuration."""
    keys = ("data_folder", "csv_folder", "slots", "slot_values", "test_splits")
    keys += ("teacher_folder", "text_encoder")
    overrides = {key: hparams[key] for key in keys}
    overrides.update(hparams["teacher_overrides"])
    folder = Path(__file__).resolve().parent / "hparams"
    return [
        get_teacher_table(
            folder / f"{name}.yaml", json.dumps(overrides), run_opts
        )
        for name in hparams["teachers"]
    ]


def write_outputs(hparams, brain, datasets, manifests, seconds, encoder):
    """Tests, and writes metrics, predictions and plots."""
    folder = Path(hparams["output_folder"])
    slots = brain.schema.slices
    start = time.perf_counter()
    valid, _ = brain.test(datasets["valid"])
    tests, plots = {}, [folder / "learning_curves.png"]
    for name in manifests["tests"]:
        data = datasets[name]
        tests[name], (logits, targets, indices) = brain.test(data)
        write_predictions(
            folder / f"predictions_{name}.csv",
            [data.ids[index] for index in indices],
            logits,
            targets,
            brain.schema,
        )
        if name == manifests["main_test"]:
            values, _ = slot_predictions(logits, slots)
            for i, slot in enumerate(slots):
                plots.append(folder / f"confusion_{slot}.png")
                names = brain.schema.values[slot]
                plot_confusion(
                    plots[-1], slot, names, targets[:, i], values[:, i]
                )
    seconds["test"] = time.perf_counter() - start
    plot_learning_curves(brain.history, plots[0])
    trained = sum(p.numel() for p in brain.modules.parameters())
    frozen = sum(p.numel() for p in encoder.parameters())
    if hparams["unfreezing"].trains:
        frozen = 0
    others = {k: v for k, v in tests.items() if k != manifests["main_test"]}
    metrics = {
        "config": hparams["config"],
        "seed": hparams["seed"],
        "train_fraction": hparams["train_fraction"],
        "subset_seed": hparams["subset_seed"],
        "n_train": len(datasets["train"]),
        "valid": valid,
        "test": tests[manifests["main_test"]],
        **others,
        "main_test": manifests["main_test"],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_mb": peak_memory_mb(),
        "parameters": {"trained": trained, "frozen": frozen},
        "versions": package_versions(),
        "commit": git_commit(),
    }
    write_json(folder / "metrics.json", metrics)
    print(f"\n{results_table(tests)}\n")
    print(f"metrics: {folder / 'metrics.json'}")
    for plot in plots:
        print(f"plot:    {plot}")


def main(arguments):
    """Prepares, trains and tests."""
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    sb.utils.distributed.ddp_init_group(run_opts)
    seconds = {}

    def timed(name, function, *args, **kwargs):
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[name] = time.perf_counter() - start
        return result

    with one_sentence_errors():
        hparams, text = load_hparams(hparams_file, overrides)
        check_same_run(hparams["output_folder"], text)
        check_writable(hparams["output_folder"], megabytes=100)
        sb.create_experiment_directory(hparams["output_folder"])
        run_on_main(save_yaml, [hparams["output_folder"], text])
        manifests = timed(
            "prepare",
            run_on_main,
            prepare_fsc,
            kwargs={
                "data_folder": hparams["data_folder"],
                "save_folder": hparams["manifest_folder"],
                "slots": hparams["slots"],
                "csv_folder": hparams["csv_folder"],
                "test_splits": hparams["test_splits"],
                "slot_values": hparams["slot_values"],
                "train_fraction": hparams["train_fraction"],
                "subset_seed": hparams["subset_seed"],
                "sample_rate": hparams["sample_rate"],
                "skip_prep": hparams["skip_prep"],
            },
        )
        schema = SlotSchema.load(manifests["slots"])
        tables = timed("teacher", get_tables, hparams, run_opts)
        encoder = make_encoder(hparams, run_opts["device"])
        store = make_store(hparams, encoder, run_opts)
        datasets = timed(
            "features", dataio_prep, hparams, manifests, schema, tables, store
        )

    # Whatever ran before, the same seed gives the same student.
    sb.utils.seed.seed_everything(hparams["seed"])
    student = hparams["student"](num_logits=schema.num_logits)
    modules = {"student": student}
    if hparams["unfreezing"].trains:
        modules["encoder"] = encoder
    history = TrainingHistory()
    provenance = Provenance(
        {
            "train data": sha256(Path(manifests["train"]).read_bytes()),
            "encoder": module_fingerprint(encoder),
            "teacher": [table.made_from for table in tables],
        }
    )
    hparams["checkpointer"].add_recoverables(
        {
            **modules,
            "slots": schema,
            "history": history,
            "provenance": provenance,
        }
    )
    brain = SLUBrain(
        modules=modules,
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.encoder = encoder if store is None else None
    brain.schema = schema
    brain.history = history
    brain.teacher_logits = [table.logits.to(brain.device) for table in tables]
    brain.tensorboard = SummaryWriter(hparams["tensorboard_folder"])
    brain.dataset = datasets["valid"]
    train_loader = datasets["train"].loader(
        hparams["batch_size"], hparams["seed"], hparams["num_workers"]
    )
    brain.train_sampler = train_loader.batch_sampler
    timed(
        "train",
        brain.fit,
        hparams["epoch_counter"],
        train_loader,
        datasets["valid"].loader(hparams["batch_size"]),
    )
    brain.tensorboard.close()
    write_outputs(hparams, brain, datasets, manifests, seconds, encoder)


if __name__ == "__main__":
    main(sys.argv[1:])
