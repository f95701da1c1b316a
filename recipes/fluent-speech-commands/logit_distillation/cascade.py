#!/usr/bin/env python3
"""Tests the cascade that end-to-end students are compared with.

A recogniser writes the command down; a reader finds the slots in the text: a
fine-tuned BERT, or the known wording that is most alike.

To run this recipe:
> python cascade.py hparams/cascade.yaml --reader=teacher
> python cascade.py hparams/cascade.yaml --reader=nearest \
>     --data_folder=/path/to/fluent_speech_commands_dataset

Source: Cho et al. 2020, section 4.1, the baseline "ASR-NLU".

Authors
 * slu_kd_lobes authors
"""

import sys
import time

import torch
from prepare import prepare_fsc

from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.evaluation.report import Tested, write_results
from slu_kd_lobes.inference.recognisers import (
    NearestTranscript,
    TranscriptStore,
)
from slu_kd_lobes.teachers.tables import read
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
)


def prepare(hparams):
    """Manifests, and what the recogniser heard in each tested set, by name."""
    manifests = prepare_fsc(**hparams["corpus"])
    manifests.check_transcripts("cascade", *manifests.splits)
    store = TranscriptStore(
        hparams["transcript_folder"],
        hparams["make_recogniser"](),
        hparams["recogniser_batch_size"],
    )
    heard = {
        name: store.load([row["wav"] for row in manifests.read(name)])
        for name in ["valid", *manifests.tests]
    }
    return manifests, heard


def make_reader(hparams, manifests, run_opts):
    """A function from texts to logits, [texts, values]."""
    schema = manifests.schema
    known = manifests.typed_wordings(hparams["typed"])
    if hparams["reader"] == "nearest":
        targets = torch.tensor(list(known.values()))
        return NearestTranscript(list(known), targets, schema.slices)
    model, splits = hparams["reading_model"], {"train": known}
    teacher = model.fine_tuned(schema, splits, run_opts)
    return lambda texts: read(teacher, texts)


def main(arguments):
    """Transcribes, reads and tests."""
    start = time.perf_counter()
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        manifests, heard = prepare(hparams)
        start_or_resume(hparams, text)
        reader = make_reader(hparams, manifests, run_opts)
    seconds = {"train": round(time.perf_counter() - start, 3)}
    results, exact = {}, {}
    for name, transcripts in heard.items():
        rows, schema = manifests.read(name), manifests.schema
        texts = [normalise_transcript(text) for text in transcripts]
        true = [normalise_transcript(row["transcription"]) for row in rows]
        logits = reader(texts).numpy()
        results[name] = Tested.of(rows, logits, schema)
        right = sum(map(str.__eq__, texts, true))
        exact[name] = round(100 * right / len(rows), 4)
    write_results(
        hparams,
        manifests,
        {"last": results, "best": results},  # there are no epochs
        tested_epoch="last",
        exact_transcripts=exact,
        seconds=seconds,
    )
    for name, share in exact.items():
        print(f"transcripts as spoken, {name}: {share:.2f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
