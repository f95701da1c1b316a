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
import statistics
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from prepare import prepare_fsc
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.data_utils import batch_pad_right
from speechbrain.utils.distributed import (
    ddp_init_group,
    if_main_process,
    infer_device,
    is_distributed_initialized,
    run_on_main,
)
from speechbrain.utils.logger import get_logger
from torch.utils.tensorboard import SummaryWriter

from slu_kd_lobes.audio import read_waveform
from slu_kd_lobes.batching import UtteranceDataset
from slu_kd_lobes.checkpoints import load_pretrained
from slu_kd_lobes.controls import beyond_labels
from slu_kd_lobes.distillation import intent_errors
from slu_kd_lobes.distributed import rank_and_processes, sum_over_processes
from slu_kd_lobes.features import FeatureStore, module_fingerprint, sha256
from slu_kd_lobes.files import check_writable
from slu_kd_lobes.hparams import (
    check_same_run,
    load_hparams,
    one_sentence_errors,
    save_yaml,
)
from slu_kd_lobes.metrics import slot_metrics
from slu_kd_lobes.provenance import Provenance, TrainingHistory
from slu_kd_lobes.randomness import seed_step
from slu_kd_lobes.report import plot_learning_curves, write_results
from slu_kd_lobes.slots import SlotSchema
from train_teacher import get_teacher_table

logger = get_logger(__name__)

LOOK_EVERY = 50  # steps between two looks at the loss of a GPU

# Keys that metrics.json repeats
REPORTED_KEYS = ("config", "seed", "train_fraction", "subset_seed")


@dataclass
class Data:
    """What students with the same data and encoder share."""

    manifests: dict
    schema: SlotSchema
    tables: dict  # of the teachers, by name
    encoder: torch.nn.Module
    datasets: dict
    seconds: dict
    encoding: threading.Lock = field(default_factory=threading.Lock)


class SLUBrain(sb.Brain):
    """Trains the student on the labels and on its teachers' logits.

    Besides what `make_brain` gives to SpeechBrain's Brain, it has the `data`,
    the rows of all tables as `teacher_logits`, and the `history`.
    """

    def compute_forward(self, batch, stage):
        """Returns the student's logits, [batch, values], and its frames."""
        with self.data.encoding:  # one student does it for all
            self.encode(batch, stage)
        if stage == sb.Stage.TRAIN:
            seed_step(self.hparams.seed, self.epoch, self.step)
        return self.modules.student(
            batch.inputs, batch.lengths, return_frames=True
        )

    def encode(self, batch, stage):
        """Puts a batch on the device and features in place of its audio."""
        batch.to(self.device)
        if batch.encoded:
            return
        if stage == sb.Stage.TRAIN:
            order = self.hparams.shuffle_seed
            seed_step(order, self.epoch, self.step, stream=1)
        batch.inputs, batch.lengths = self.data.encoder(
            batch.inputs, batch.lengths
        )
        batch.encoded = True

    def compute_objectives(self, outputs, batch, stage):
        """Returns the loss, eq. 1; the cross entropy outside training."""
        logits, frames = outputs
        slices = self.data.schema.slices
        # Fillers of a process's part count only where it has nothing else.
        own = slice(batch.size or None)
        logits, targets = logits[own], batch.targets[own]
        ce = self.hparams.ce_loss(logits, targets, slices)
        if stage != sb.Stage.TRAIN:
            self.note(batch.size, loss=ce)
            self.logits.append(logits)
            self.indices += batch.indices
            return ce
        errors = intent_errors(logits.detach(), targets, slices)
        self.note(batch.size, ce=ce, error=100 * errors.mean())
        # The error rate of eqs. 4 and 5a is that of the whole batch.
        error_rate = (
            sum_over_processes(errors[: batch.size].sum()) / batch.total
        )
        loss = ce
        if self.hparams.teachers:
            teacher_logits = torch.stack(
                [
                    self.look_up(name, batch.teacher_rows[own])
                    for name in self.hparams.teachers
                ]
            )
            kd, weights = self.hparams.distillation(
                logits, teacher_logits, error_rate, slices
            )
            beta = self.hparams.kd_schedule(self.epoch, error_rate)
            loss = (1 - beta) * ce + beta * kd
            # gamma is the professor's weight; a lone teacher's is 0.
            shares = dict(zip(self.hparams.teachers, weights))
            gamma = shares.pop("professor", 0.0)
            shares.pop("teacher", None)
            others = {f"weight_{name}": value for name, value in shares.items()}
            self.note(batch.size, kd=kd, beta=beta, gamma=gamma, **others)
        if self.hparams.matching is not None:
            sentences = self.look_up("sentence", batch.teacher_rows[own])
            lengths = batch.lengths[own]
            matching = self.modules.matching(frames[own], lengths, sentences)
            loss = loss + matching
            self.note(batch.size, matching=matching)
        self.note(batch.size, loss=loss)
        # Processes average their gradients: weigh by the size of the part.
        _, processes = rank_and_processes()
        return loss * (processes * batch.size / batch.total)

    def look_up(self, name, rows):
        """What a table says of the batch's transcripts, [batch, values]."""
        column = list(self.teacher_logits).index(name)
        return self.teacher_logits[name][rows[:, column]]

    def fit_batch(self, batch):
        """As SpeechBrain's, but nothing waits for the device."""
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            # A spoilt student stays so: a GPU need not be asked every time.
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
        return self.means()["loss"]

    def check_loss_isfinite(self, loss):
        """Stops at once: a step on such a loss would spoil the student."""
        if not torch.isfinite(loss):
            parts = ", ".join(f"{k} {v:.4g}" for k, v in self.means().items())
            raise ValueError(
                f"the loss is {float(loss)} at epoch {self.epoch}, step "
                f"{self.step} (means so far: {parts}): lower lr, or look for "
                "broken audio or teachers"
            )

    def note(self, items, **values):
        """Adds to the sums of this stage without waiting for the device."""
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                value = value.detach()
            total, count = self.sums[name]
            self.sums[name] = total + items * value, count + items

    def means(self):
        """Means of what was noted, over the utterances of this process."""
        return {
            name: float(total) / max(1, count)
            for name, (total, count) in self.sums.items()
        }

    def on_stage_start(self, stage, epoch=None):
        """Starts the sums and the clock."""
        self.stage_started = time.perf_counter()
        self.sums = defaultdict(lambda: (0.0, 0))
        self.logits, self.indices = [], []
        training = stage == sb.Stage.TRAIN
        if training:
            self.epoch = epoch
            self.hparams.unfreezing(self.data.encoder, epoch)
        moving = self.hparams.unfreezing.trains or self.hparams.encoder_dropout
        self.data.encoder.train(training and moving)

    def validates(self, epoch):
        """Whether an epoch ends with validation; the last one does."""
        last = epoch == self.hparams.number_of_epochs
        return last or epoch % self.hparams.valid_every == 0

    def _fit_valid(self, valid_set, epoch, enable):
        # Brain.fit offers no other place to leave validation out.
        if self.validates(epoch):
            super()._fit_valid(valid_set, epoch, enable)

    def on_stage_end(self, stage, stage_loss, epoch):
        """Logs every epoch, and saves after validation."""
        if stage == sb.Stage.TRAIN:
            for name, sums in self.sums.items():
                sums = torch.tensor([float(value) for value in sums])
                sums = sum_over_processes(sums.to(self.device))
                self.sums[name] = sums.tolist()
            self.train_stats = self.means()
            self.check_loss_isfinite(torch.tensor(self.train_stats["loss"]))
            self.clock("train_epoch")
            if not self.validates(epoch):
                self.log_epoch(epoch, {})
            return
        logits = torch.cat(self.logits).float().cpu().numpy()
        targets = self.dataset.targets[self.indices].numpy()
        self.metrics = slot_metrics(logits, targets, self.data.schema.slices)
        if stage == sb.Stage.TEST:
            self.outputs = logits, targets, self.indices
            return
        self.clock("valid_epoch")
        valid_stats = {
            "loss": self.means()["loss"],
            "error": self.metrics["intent_error"],
        }
        self.log_epoch(epoch, valid_stats)
        self.checkpointer.save_and_keep_only(
            meta={"valid_error": valid_stats["error"], "epoch": epoch},
            min_keys=["valid_error"],
        )

    def log_epoch(self, epoch, valid_stats):
        """Notes an epoch in the log, in TensorBoard and in the history."""
        self.hparams.train_logger.log_stats(
            {"epoch": epoch}, self.train_stats, valid_stats
        )
        stats = {
            **{f"train_{k}": v for k, v in self.train_stats.items()},
            **{f"valid_{k}": v for k, v in valid_stats.items()},
        }
        self.history.epochs.append({"epoch": epoch, **stats})
        if if_main_process():
            with SummaryWriter(self.hparams.tensorboard_folder) as writer:
                for name, value in stats.items():
                    writer.add_scalar(name, value, epoch)

    def clock(self, name):
        """Keeps the seconds of the stage that ends."""
        self.seconds[name].append(time.perf_counter() - self.stage_started)

    def test(self, dataset, epoch):
        """Metrics and outputs of a data set at the `last` or `best` epoch."""
        self.dataset = dataset
        best = "valid_error" if epoch == "best" else None
        self.evaluate(dataset.loader(self.hparams.batch_size), min_key=best)
        logits, targets, indices = self.outputs
        ids = [dataset.ids[index] for index in indices]
        return self.metrics, (logits, targets, ids)


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
        rows = [table.rows([transcription]) for table in tables.values()]
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
        audio = [
            [row[key] for row in everything] for key in ("wav", "duration")
        ]
        run_on_main(store.build, audio)
    datasets = {}
    for name in splits:
        ids, wavs, durations, targets, teacher_rows = zip(
            *(row.values() for row in rows[name])
        )
        if store is None:
            read = waveform_reader(pipelines[name])
            lengths = [round(1000 * duration) for duration in durations]
        else:
            stored = store.load(wavs, durations).near(store.device)
            read, lengths = stored.batch, stored.lengths
        datasets[name] = UtteranceDataset(
            ids,
            read,
            torch.stack(targets),
            torch.stack(teacher_rows),
            lengths,
            encoded=store is not None,
        )
    return datasets


def waveform_reader(pipeline):
    """Reads waveforms of a batch, padded, and their relative lengths."""

    def read(indices, longest):
        return batch_pad_right([pipeline[index]["sig"] for index in indices])

    return read


def make_encoder(hparams, device):
    """The pre-trained encoder; refuses to store features that would change."""
    encoder = hparams["encoder"]
    trains = hparams["unfreezing"].trains
    if encoder.sample_rate != hparams["sample_rate"]:
        raise ValueError(
            f"the encoder hears {encoder.sample_rate} Hz: set sample_rate to "
            f"that, not to {hparams['sample_rate']}"
        )
    if encoder.pretrained:
        if trains or hparams["encoder_dropout"]:
            raise ValueError(
                f"{type(encoder).__name__} stays as it is: leave unfreezing at "
                "Frozen and encoder_dropout at False"
            )
    elif hparams["encoder_source"] is not None:
        load_pretrained(hparams["pretrainer"], hparams["encoder_source"])
    elif not trains:
        raise ValueError(
            "encoder_source is null and unfreezing is Frozen: an encoder "
            "that is neither pre-trained nor trained hears nothing"
        )
    if hparams["store_features"] and (trains or hparams["encoder_dropout"]):
        key = "encoder_dropout" if hparams["encoder_dropout"] else "unfreezing"
        raise ValueError(
            f"features cannot be stored when {key} changes them in training: "
            "set store_features to False"
        )
    if trains and rank_and_processes()[1] > 1:
        raise ValueError(
            "an encoder that unfreezes cannot train in several processes: "
            "start train.py without torchrun, or leave unfreezing at Frozen"
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


def get_tables(hparams, names, run_opts):
    """The tables of hparams/<name>.yaml, by name."""
    keys = ("data_folder", "csv_folder", "slots", "slot_values", "test_splits")
    keys += ("teacher_folder", "text_encoder")
    folder, tables = Path(__file__).resolve().parent / "hparams", {}
    for name in names:
        overrides = {key: hparams[key] for key in keys}
        if name != "sentence":  # which is no teacher, and is not trained
            overrides.update(hparams["teacher_overrides"])
        tables[name] = get_teacher_table(
            folder / f"{name}.yaml", json.dumps(overrides), run_opts
        )
    return tables


def parse_arguments(arguments):
    """SpeechBrain's, with the device; joins the processes of torchrun."""
    _, run_opts, _ = sb.parse_arguments(arguments)
    device = run_opts.device or infer_device()
    known = [f"--device={device}"]
    if device == "cpu":
        known.append("--distributed_backend=gloo")
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments + known)
    ddp_init_group(run_opts)
    return hparams_file, run_opts, overrides


def open_run(folder, text):
    """Makes the output folder, or goes on in that of the same run."""
    check_same_run(folder, text)
    check_writable(folder, megabytes=100)
    sb.create_experiment_directory(folder)
    run_on_main(save_yaml, [folder, text])


def table_names(hparams):
    """The tables that a student learns from."""
    sentence = [] if hparams["matching"] is None else ["sentence"]
    return [*hparams["teachers"], *sentence]


def load_data(hparams, tables, run_opts):
    """Prepares all that comes before the student, and times it."""
    every = hparams["valid_every"]
    if every != int(every) or every < 1:
        raise ValueError(
            f"valid_every is {every}: give a whole number of epochs from 1"
        )
    seconds = {}

    def timed(name, function, *args, **kwargs):
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[name] = time.perf_counter() - start
        return result

    keys = ("data_folder", "csv_folder", "slots", "slot_values", "test_splits")
    keys += ("train_fraction", "subset_seed", "sample_rate", "skip_prep")
    manifests = timed(
        "prepare",
        run_on_main,
        prepare_fsc,
        kwargs={
            "save_folder": hparams["manifest_folder"],
            **{key: hparams[key] for key in keys},
        },
    )
    schema = SlotSchema.load(manifests["slots"])
    tables = timed("teacher", get_tables, hparams, tables, run_opts)
    encoder = make_encoder(hparams, run_opts["device"])
    store = make_store(hparams, encoder, run_opts)
    datasets = timed(
        "features", dataio_prep, hparams, manifests, schema, tables, store
    )
    return Data(manifests, schema, tables, encoder, datasets, seconds)


def sources(data, tables):
    """Hashes of what a student with these tables is made from."""
    manifest = Path(data.manifests["train"]).read_bytes()
    return {
        "train data": sha256(manifest),
        "encoder": module_fingerprint(data.encoder),
        "teacher": [data.tables[name].made_from for name in tables],
    }


def make_brain(hparams, data, run_opts):
    """The student of a configuration, ready to train on the data."""
    # Whatever ran before, the same seed gives the same student.
    sb.utils.seed.seed_everything(hparams["seed"])
    student = hparams["student"](
        num_logits=data.schema.num_logits,
        input_size=data.encoder.feature_size,
        layers=data.encoder.layers,
    )
    modules = {"student": student}
    if hparams["matching"] is not None:
        vector_size = data.tables["sentence"].logits.shape[1]
        modules["matching"] = hparams["matching"](
            frame_size=student.frame_size, vector_size=vector_size
        )
    if hparams["unfreezing"].trains:
        modules["encoder"] = data.encoder
    history = TrainingHistory()
    provenance = Provenance(sources(data, table_names(hparams)))
    hparams["checkpointer"].add_recoverables(
        {
            **modules,
            "slots": data.schema,
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
    brain.data = data
    brain.dataset = data.datasets["valid"]
    brain.teacher_logits = {
        name: logits.to(brain.device)
        for name, logits in teacher_logits(hparams, data).items()
    }
    brain.history = history
    brain.seconds = defaultdict(list)
    return brain


def teacher_logits(hparams, data):
    """What the tables teach, or a control's in its place."""
    logits = {name: table.logits for name, table in data.tables.items()}
    control = hparams["teacher_control"]
    if control is None:
        return logits
    for name, (rows, values, targets) in training_rows(data).items():
        # Other transcripts teach nobody.
        logits[name] = torch.full_like(logits[name], torch.nan)
        logits[name][rows] = control(values, targets, data.schema.slices)
    return logits


def training_rows(data):
    """Of each table the rows of training transcripts, values and targets."""
    train, found = data.datasets["train"], {}
    for rows, (name, table) in zip(train.teacher_rows.T, data.tables.items()):
        known, first = np.unique(rows.numpy(), return_index=True)
        found[name] = known, table.logits[known], train.targets[first]
    return found


def make_loaders(hparams, datasets):
    """The loaders of training, in its random order, and of validation."""
    size, seed = hparams["batch_size"], hparams["shuffle_seed"]
    # Stored features are read faster than another process hands them over.
    workers = 0 if hparams["store_features"] else hparams["num_workers"]
    train = datasets["train"].loader(size, seed, workers)
    return train, datasets["valid"].loader(size)


def write_outputs(hparams, brain, seconds):
    """Tests, and writes metrics, predictions and plots."""
    folder, data = Path(hparams["output_folder"]), brain.data
    start = time.perf_counter()
    by_epoch = {
        epoch: {
            name: brain.test(data.datasets[name], epoch)
            for name in ["valid", *data.manifests["tests"]]
        }
        for epoch in ("last", "best")
    }
    seconds = {**seconds, "test": time.perf_counter() - start}
    for name, values in brain.seconds.items():
        seconds[name] = statistics.median(values)
    if not if_main_process():
        return
    trained = sum(p.numel() for p in brain.modules.parameters())
    frozen = sum(p.numel() for p in data.encoder.parameters())
    if hparams["unfreezing"].trains:
        frozen = 0
    rows = training_rows(data)
    facts = {
        **{key: hparams[key] for key in REPORTED_KEYS},
        "n_train": len(data.datasets["train"]),
        "parameters": {"trained": trained, "frozen": frozen},
        "history": brain.history.epochs,
        "teachers": {
            name: {
                "errors": data.tables[name].errors,
                **beyond_labels(
                    *rows[name][1:],
                    data.schema.slices if name in hparams["teachers"] else None,
                ),
            }
            for name in table_names(hparams)
        },
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    plot = folder / "learning_curves.png"
    plot_learning_curves(brain.history, plot)
    tested, main_test = hparams["test_epoch"], data.manifests["main_test"]
    write_results(folder, by_epoch, tested, data.schema, main_test, facts)
    print(f"plot:    {plot}")


def main(arguments):
    """Prepares, trains and tests."""
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    with one_sentence_errors():
        hparams, text = load_hparams(hparams_file, overrides)
        open_run(hparams["output_folder"], text)
        data = load_data(hparams, table_names(hparams), run_opts)
    brain = make_brain(hparams, data, run_opts)
    train_loader, valid_loader = make_loaders(hparams, data.datasets)
    brain.train_sampler = train_loader.batch_sampler
    start = time.perf_counter()
    brain.fit(hparams["epoch_counter"], train_loader, valid_loader)
    seconds = {**data.seconds, "train": time.perf_counter() - start}
    write_outputs(hparams, brain, seconds)
    if is_distributed_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
