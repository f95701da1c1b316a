#!/usr/bin/env python3
"""Trains a student that writes what it hears, with the slots marked in it.

A frozen encoder that was pre-trained on speech feeds two BiGRUs, which write the
transcript letter by letter (CTC); marks before and after a value name its slot.
Slots may have any value, also one that was never heard in training.

To run this recipe:
> python train.py hparams/bundled.yaml
> python train.py hparams/base.yaml --data_folder=/path/to/coffee-orders \
>     --slots="[drink, shots, roast, size, milk, sweetener]" \
>     --number_of_epochs=100

Source: Yang et al. 2021, "SUPERB: Speech processing Universal PERformance
Benchmark", section 2.2.3, slot filling.

Authors
 * slu_kd_lobes authors
"""

import sys
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from prepare import prepare_fsc
from speechbrain.utils.distributed import if_main_process, run_on_main

from slu_kd_lobes.data.batching import UtteranceDataset
from slu_kd_lobes.data.feature_store import StoredFeatures
from slu_kd_lobes.data.tagged_text import TaggedText
from slu_kd_lobes.evaluation.report import SUBSET_KEYS
from slu_kd_lobes.evaluation.slot_filling import slot_filling_metrics
from slu_kd_lobes.losses.asr import check_frames, ctc_collapse
from slu_kd_lobes.training.brain import StudentBrain
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    finish_run,
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
    write_metrics,
)
from slu_kd_lobes.utils.files import write_csv
from slu_kd_lobes.utils.fingerprints import module_fingerprint


class SlotFillingBrain(StudentBrain):
    """Trains the student to write.

    Besides what StudentBrain has, it is given the `features` and the `text`,
    which knows what the symbols stand for.
    """

    best = "slot_value_cer"

    def compute_forward(self, batch, stage):
        """Returns log-probabilities, [batch, frames, symbols], and lengths."""
        batch.to(self.device)
        features, lengths = self.features(batch.inputs, batch.lengths)
        return self.modules.student(features, lengths), lengths

    def compute_objectives(self, outputs, batch, stage):
        """Returns the loss of CTC, a symbol."""
        scores, lengths = outputs
        sizes = (batch.labels > 0).sum(1)
        loss = torch.nn.functional.ctc_loss(
            scores.transpose(0, 1),
            batch.labels,
            lengths,
            sizes,
            zero_infinity=True,  # of those that do not fit into their frames
        )
        self.log_terms(len(batch.indices), loss=loss)
        if stage != sb.Stage.TRAIN:
            paths = scores.argmax(-1).cpu()
            for i, path, size in zip(batch.indices, paths, lengths.tolist()):
                self.written[i] = ctc_collapse(path[:size])
            self.true.update(zip(batch.indices, batch.values))
        return loss

    def on_stage_start(self, stage, epoch=None):
        """Starts the lists of what is written, and of what was said."""
        super().on_stage_start(stage, epoch)
        self.written, self.true = {}, {}

    def evaluation_stats(self):
        """Returns the mean loss and how well the slots are found."""
        found = [self.text.decode(labels) for labels in self.written.values()]
        true = [self.true[i] for i in self.written]
        return {**self.means(), **slot_filling_metrics(found, true)}


def dataio_prep(hparams, manifests, features):
    """Builds the data sets, and the text that knows all symbols."""
    rows = {split: manifests.read(split) for split in manifests.splits}
    run_on_main(features.build, [sum(rows.values(), [])])
    text = TaggedText.of(
        rows["train"], manifests.schema.names, hparams["absent"]
    )
    datasets = {}
    for split, utterances in rows.items():
        labels = [
            torch.tensor(text.encode(row["transcription"], row))
            for row in utterances
        ]
        labels = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True)
        inputs = features.load(utterances)
        if isinstance(inputs, StoredFeatures):  # whose frames are known
            check_frames(split, labels, inputs.lengths, "lower encoder_pool")
        values = np.empty(len(utterances), object)
        values[:] = [text.values(row) for row in utterances]
        datasets[split] = UtteranceDataset(
            ids=[row["ID"] for row in utterances],
            inputs=inputs,
            labels=labels,
            values=values,
        )
    return datasets, text


def main(arguments):
    """Prepares, trains and tests."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, yaml = load_hparams(hparams_file, overrides)
        open_folder(hparams, yaml)
        manifests = run_on_main(prepare_fsc, kwargs=hparams["corpus"])
        manifests.check_transcripts("writing student", *manifests.splits)
        encoder = hparams["make_encoder"]()
        features = hparams["make_features"](encoder, run_opts["device"])
        sources = {
            "data": manifests.fingerprint("train"),
            "encoder": module_fingerprint(encoder),
        }
        slots = {"slots": manifests.schema}
        start_or_resume(hparams, yaml, sources, **slots)
        datasets, text = dataio_prep(hparams, manifests, features)

    sb.utils.seed.seed_everything(hparams["seed"])
    student = hparams["student"](
        num_symbols=len(text.symbols),
        input_size=encoder.feature_size,
        layers=encoder.layers,
    )
    brain = SlotFillingBrain(
        {"student": student},
        made_from=sources,
        recoverables=slots,
        train_logger=hparams["train_logger"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.features, brain.text = features, text
    brain.valid_every = hparams["valid_every"]
    size, workers = hparams["batch_size"], features.loader_workers
    train, valid = datasets["train"], datasets["valid"]
    with one_sentence_errors():
        brain.fit(
            hparams["epoch_counter"],
            train,
            valid,
            train_loader_kwargs=train.loader_options(
                size, hparams["seed"], workers
            ),
            valid_loader_kwargs=valid.loader_options(size),
        )
    tested = {}
    for name in ["valid", *manifests.tests]:
        options = datasets[name].loader_options(size)
        brain.test(datasets[name], hparams["test_epoch"], **options)
        tested[name] = {"n": len(datasets[name]), **brain.evaluation_stats()}
        if if_main_process():
            path = Path(hparams["output_folder"]) / f"written_{name}.csv"
            write_csv(path, written(datasets[name], text, brain.written))
    if if_main_process():
        report(hparams, manifests, tested, brain)
    finish_run()


def written(dataset, text, labels):
    """What was said and what the student wrote, for a person to read."""
    true = dataset.columns["labels"].tolist()
    return [
        {
            "ID": name,
            "true": text.show(true[i]),
            "written": text.show(labels[i]),
        }
        for i, name in enumerate(dataset.ids)
    ]


def report(hparams, manifests, tested, brain):
    """Writes metrics.json, and prints what a person wants to see."""
    valid, main_test = tested.pop("valid"), manifests.main_test
    student = brain.modules.student
    path = write_metrics(
        hparams,
        {
            **{key: hparams[key] for key in SUBSET_KEYS},
            "n_train": len(manifests.read("train")),
            "parameters": sum(p.numel() for p in student.parameters()),
            "history": brain.history.epochs,
            "valid": valid,
            "test": tested[main_test],
            "tests": tested,
            "main_test": main_test,
            "tested_epoch": hparams["test_epoch"],
        },
    )
    for name, found in tested.items():
        print(
            f"{name}: {found['n']} utterances, slot-type F1 "
            f"{found['slot_type_f1']:.2f} %, slot-value CER "
            f"{found['slot_value_cer']:.2f} %, {found['intent_error']:.2f} % "
            "with a wrong or a missing slot"
        )
    print(f"metrics: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
