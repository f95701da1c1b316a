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

from slu_kd_lobes.data.sentences import read_templates, spoken
from slu_kd_lobes.evaluation.typed_commands import (
    distances_of_rows,
    finished_run,
    milliseconds,
    score_answers,
)
from slu_kd_lobes.inference.sentence_graph import Graph
from slu_kd_lobes.inference.sentence_recogniser import SentenceRecogniser
from slu_kd_lobes.inference.typed_commands import sureness
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
)


def graph_of(manifests, typed, templates):
    """A graph of all that is typed, and how many sentences there are."""
    graph, texts, count = Graph(), {}, 0
    if templates:
        return graph, sum(read_templates(x).add_to(graph) for x in templates)
    for wording, target in manifests.typed_wordings(typed).items():
        texts.setdefault(spoken(wording), target)  # alike to a listener
    for count, (text, target) in enumerate(texts.items(), start=1):
        end = graph.listed(text)
        graph.accept(graph.mark(end, manifests.schema.decode(target)))
    return graph, count


def logits_of_slots(found, schema, absent):
    """A mark at the value of each slot; where a slot is absent, at `absent`."""
    logits = torch.zeros(schema.num_logits)
    if found is None:
        return logits
    row = {name: found.slots.get(name, absent) for name in schema.names}
    for columns, value in zip(schema.slices.values(), schema.encode(row)):
        logits[columns.start + value] = sureness(found)
    return logits


def main(arguments):
    """Finds the most probable typed wording of each utterance."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        manifests = prepare_fsc(**hparams["corpus"])
        manifests.check_transcripts("list", *manifests.splits)
        finished_run("trained", hparams["trained"])
        graph, wordings = graph_of(
            manifests, hparams["typed"], hparams["templates"]
        )
        folder = str(Path(hparams["trained"]) / "recogniser")
        recogniser = SentenceRecogniser(folder, graph, **hparams["search"])
        front_end = recogniser.front_end
        features = hparams["make_features"](front_end, run_opts["device"])
        start_or_resume(hparams, text)

    schema, absent = manifests.schema, hparams["absent"]

    def measure(inputs, lengths):
        answers = map(recogniser.search, recogniser.hear(inputs, lengths))
        return torch.stack(
            [logits_of_slots(found, schema, absent) for found in answers]
        )

    def logits_of(rows):
        recogniser.model.mods.to(run_opts["device"])
        facts = features, run_opts["device"], hparams["batch_size"], measure
        return distances_of_rows(rows, schema.num_logits, *facts)

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
    score_answers(hparams, manifests, wordings, logits_of, **facts)


if __name__ == "__main__":
    main(sys.argv[1:])
