#!/usr/bin/env python3
"""Chooses which answers of a CTC head are rejected, on validation speech.

Every second validation sentence is listed; each answer to one of the others,
and to noise, is false. The threshold keeps most of the right answers, and goes
into the packaged head, `recogniser/rejection.json`.

To run this recipe:
> python rejection.py hparams/rejection.yaml \
>     --trained=results/ctc_head_sincnet/1234

Authors
 * slu_kd_lobes authors
"""

import math
import sys
from functools import partial
from pathlib import Path

import torch
from prepare import prepare_pairs
from tqdm import tqdm

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.evaluation.rejection import (
    answers_of_halves,
    false_accepts,
    graph_of_texts,
    note,
    said_texts,
)
from slu_kd_lobes.evaluation.typed_commands import finished_run
from slu_kd_lobes.inference.sentence_graph import Graph, SentenceSearch
from slu_kd_lobes.inference.sentence_recogniser import SentenceRecogniser
from slu_kd_lobes.inference.typed_commands import REJECTION
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    finish_run,
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
    write_metrics,
)
from slu_kd_lobes.utils.files import write_json


def noises(number, sample_rate):
    """Waveforms of a second: silence, constants, noise, tones."""
    generator = torch.Generator().manual_seed(0)
    times = torch.arange(sample_rate) / sample_rate
    found = [torch.full((sample_rate,), x) for x in (0.0, 0.1, -0.5)]
    for i in range(number):
        level = 10 ** (-3 * torch.rand((), generator=generator))
        if i % 2:
            found.append(level * torch.randn(sample_rate, generator=generator))
        else:
            hertz = 80 * 2 ** (5 * torch.rand(3, 1, generator=generator))
            found.append(level * (6.2832 * hertz * times).sin().mean(0))
    return found


def main(arguments):
    """Hears validation speech and noise, and writes the threshold."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        run = finished_run("trained", hparams["trained"])
        folder = Path(hparams["trained"]) / "recogniser"
        recogniser = SentenceRecogniser(str(folder), Graph())
        own = {"save_folder": hparams["save_folder"], "distort": None}
        rows = prepare_pairs(**{**run["speech"], **own})["valid"]
        start_or_resume(hparams, text)

    texts, rows = said_texts(rows, recogniser.letters)
    rate, likely = recogniser.sample_rate, []
    for row in tqdm(rows, "validation", unit="utterance"):
        wav = read_waveform(row["wav"], rate).unsqueeze(0)
        likely += recogniser.hear(*recogniser.front_end(wav))
    known = recogniser.symbols | hparams["search"]
    search = partial(SentenceSearch, **known)
    right, wrong, share = answers_of_halves(texts, likely, search)
    finder = search(graph_of_texts(texts))
    sounds = noises(hparams["noises"], rate)
    for noise in tqdm(sounds, "noise", unit="second"):
        (heard,) = recogniser.hear(*recogniser.front_end(noise.unsqueeze(0)))
        found = finder(heard)
        if found is not None:
            note(wrong, found, heard)
    with one_sentence_errors():
        chosen = false_accepts(right, wrong, hparams["keep"])
    facts = {
        "keep": hparams["keep"],
        "sentences": len(texts),
        "right": share,
        "statistics": chosen,
    }
    threshold = math.exp(chosen["letter"]["threshold"])
    write_json(folder / REJECTION, {"threshold": threshold, **facts})
    path = write_metrics(hparams, {"test": facts})
    for name, found in chosen.items():
        print(f"{name}: {100 * found['accepted']:.2f} % falsely accepted")
    print(f"threshold: {folder / REJECTION}\nmetrics: {path}")
    finish_run()


if __name__ == "__main__":
    main(sys.argv[1:])
