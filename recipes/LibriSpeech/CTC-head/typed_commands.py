#!/usr/bin/env python3
"""Tests a CTC head on commands that were typed and never spoken.

A head that writes letters knows how any sentence sounds, so a command can be
the most probable of those that somebody typed.

To run this recipe:
> python typed_commands.py hparams/typed_commands.yaml \
>     --trained=results/ctc_head_sincnet/1234 \
>     --data_folder=/path/to/fluent_speech_commands_dataset

Authors
 * slu_kd_lobes authors
"""

import sys
from pathlib import Path

import torch
from prepare_commands import prepare_fsc

from slu_kd_lobes.data.sentences import spoken
from slu_kd_lobes.evaluation.typed_commands import (
    distances_of_rows,
    finished_run,
    milliseconds,
    score_nearest_wordings,
)
from slu_kd_lobes.inference.sentence_graph import Graph
from slu_kd_lobes.inference.sentence_recogniser import SentenceRecogniser
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
)

#: How far an utterance is from the wordings that are not the answer.
FAR = 1e4


def graph_of(wordings):
    """A graph that says the numbers of the wordings."""
    graph, texts = Graph(), {}
    for number, wording in enumerate(wordings):
        texts.setdefault(spoken(wording), number)  # alike to a listener
    for text, number in texts.items():
        end = graph.listed(text)
        graph.accept(graph.mark(end, {"number": number}))
    return graph


def main(arguments):
    """Finds the most probable typed wording of each utterance."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        manifests = prepare_fsc(**hparams["corpus"])
        manifests.check_transcripts("list", *manifests.splits)
        wordings = manifests.typed_wordings(hparams["typed"])
        finished_run("trained", hparams["trained"])
        recogniser = SentenceRecogniser(
            str(Path(hparams["trained"]) / "recogniser"),
            graph_of(wordings),
            **hparams["search"],
        )
        front_end = recogniser.front_end
        features = hparams["make_features"](front_end, run_opts["device"])
        start_or_resume(hparams, text)

    def measure(inputs, lengths):
        distances = torch.full((len(inputs), len(wordings)), FAR)
        for row, likely in enumerate(recogniser.hear(inputs, lengths)):
            if (found := recogniser.search(likely)) is not None:
                distances[row, found.slots["number"]] = -found.ratio
        return distances

    def distances_of(rows):
        recogniser.model.mods.to(run_opts["device"])
        facts = features, run_opts["device"], hparams["batch_size"], measure
        return distances_of_rows(rows, len(wordings), *facts)

    def cost(rows):
        model = recogniser.model.mods.cpu()
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "milliseconds": milliseconds(
                recogniser, rows, recogniser.sample_rate
            ),
        }

    made_from = {"recogniser": recogniser.fingerprint}
    facts = {"made_from": made_from, "cost": cost}
    score_nearest_wordings(hparams, manifests, wordings, distances_of, **facts)


if __name__ == "__main__":
    main(sys.argv[1:])
