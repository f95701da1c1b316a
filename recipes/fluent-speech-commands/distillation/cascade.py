#!/usr/bin/env python3
"""Tests the cascade that end-to-end students are compared with.

A recogniser writes the command down; a reader finds the slots in the text: a
fine-tuned BERT, or the training transcript that is most alike.

To run this recipe:
> python cascade.py hparams/cascade.yaml --reader=teacher
> python cascade.py hparams/cascade.yaml --reader=nearest \
>     --data_folder=/path/to/fluent_speech_commands_dataset

Source: Cho et al. 2020, section 4.1, the baseline "ASR-NLU".

Authors
 * slu_kd_lobes authors
"""

import json
import sys
import time
from pathlib import Path

import speechbrain as sb
import torch
from prepare import prepare_fsc

from slu_kd_lobes.cascade import NearestTranscript, TranscriptStore
from slu_kd_lobes.files import read_csv
from slu_kd_lobes.hparams import load_hparams, one_sentence_errors
from slu_kd_lobes.metrics import slot_metrics
from slu_kd_lobes.report import write_results
from slu_kd_lobes.slots import SlotSchema
from slu_kd_lobes.text import normalise_transcript
from train import REPORTED_KEYS, open_run, parse_arguments
from train_teacher import compute_logits, read_transcripts, train_teacher


def load(arguments):
    """Configuration of a command line, as objects and as text."""
    hparams_file, _, overrides = sb.parse_arguments(arguments)
    return load_hparams(hparams_file, overrides)


def prepare(hparams):
    """The manifests, and what the recogniser heard in each tested set."""
    keys = ("data_folder", "csv_folder", "slots", "slot_values", "test_splits")
    keys += ("train_fraction", "subset_seed", "sample_rate", "skip_prep")
    manifests = prepare_fsc(
        save_folder=hparams["manifest_folder"],
        **{key: hparams[key] for key in keys},
    )
    store = TranscriptStore(
        hparams["transcript_folder"],
        hparams["recogniser"](),
        hparams["recogniser_batch_size"],
    )
    transcripts = {}
    for name, path in {
        **manifests["tests"],
        "valid": manifests["valid"],
    }.items():
        root = str(hparams["data_folder"])
        wavs = [
            row["wav"].replace("$data_root", root) for row in read_csv(path)
        ]
        transcripts[name] = store.load(wavs)
    return manifests, transcripts


def make_reader(hparams, schema, known, run_opts):
    """A function from texts to logits, [texts, values]."""
    if hparams["reader"] == "nearest":
        targets = torch.tensor(list(known.values()))
        return NearestTranscript(list(known), targets, schema.slices)
    folder = Path(__file__).resolve().parent / "hparams"
    keys = ("data_folder", "csv_folder", "slots", "slot_values", "test_splits")
    keys += ("train_fraction", "subset_seed", "text_encoder", "seed")
    overrides = {key: hparams[key] for key in keys}
    overrides.update(hparams["teacher_overrides"])
    teacher_hparams, _ = load_hparams(
        folder / f"{hparams['reader']}.yaml", json.dumps(overrides)
    )
    teacher = train_teacher(teacher_hparams, schema, known, run_opts)
    return lambda texts: compute_logits(teacher, texts)


def main(arguments):
    """Transcribes, reads and tests."""
    start = time.perf_counter()
    _, run_opts, _ = parse_arguments(list(arguments))
    with one_sentence_errors():
        hparams, text = load(arguments)
        open_run(hparams["output_folder"], text)
        manifests, transcripts = prepare(hparams)
        schema = SlotSchema.load(manifests["slots"])
        known = read_transcripts(manifests["train"], schema)
        reader = make_reader(hparams, schema, known, run_opts)
    trained = time.perf_counter() - start
    results, exact = {}, {}
    paths = {**manifests["tests"], "valid": manifests["valid"]}
    for name, path in paths.items():
        rows = read_csv(path)
        texts = [normalise_transcript(heard) for heard in transcripts[name]]
        logits = reader(texts).numpy()
        targets = torch.tensor([schema.encode(row) for row in rows]).numpy()
        metrics = slot_metrics(logits, targets, schema.slices)
        ids = [row["ID"] for row in rows]
        results[name] = metrics, (logits, targets, ids)
        true = [normalise_transcript(row["transcription"]) for row in rows]
        right = sum(map(str.__eq__, texts, true))
        exact[name] = round(100 * right / len(rows), 4)
    facts = {
        **{key: hparams[key] for key in REPORTED_KEYS},
        "n_train": len(read_csv(manifests["train"])),
        "exact_transcripts": exact,
        "history": [],
        "seconds": {"train": round(trained, 3)},
    }
    write_results(
        hparams["output_folder"],
        {"last": results, "best": results},  # there are no epochs
        "last",
        schema,
        manifests["main_test"],
        facts,
    )
    for name, share in exact.items():
        print(f"transcripts as spoken, {name}: {share:.2f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
