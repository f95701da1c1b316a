#!/usr/bin/env python3
"""Tests stage 1 on commands that were typed and never spoken.

Utterance matching gives speech the vectors of a text encoder, so a command can
be the nearest of wordings that somebody typed: there is no classifier, and no
recording of the commands is needed.

To run this recipe:
> python typed_commands.py hparams/typed_commands.yaml \
>     --pretrained=results/pretraining_pt_kd/1234 \
>     --data_folder=/path/to/fluent_speech_commands_dataset

Authors
 * slu_kd_lobes authors
"""

import sys
from pathlib import Path

import torch
from prepare_commands import prepare_fsc

from slu_kd_lobes.data.token_dictionary import frame_tokens
from slu_kd_lobes.evaluation.typed_commands import (
    distances_of_rows,
    finished_run,
    milliseconds,
    score_nearest_wordings,
)
from slu_kd_lobes.students.token_encoder import TokenEncoder
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
)
from slu_kd_lobes.utils.fingerprints import joined, module_fingerprint
from slu_kd_lobes.utils.sealed import load_sealed
from train import PROJECTION


class StageOne(torch.nn.Module):
    """Codes of audio tokens to the vector of an utterance.

    Arguments
    ---------
    encoder : slu_kd_lobes.students.token_encoder.TokenEncoder
    weights : dict
        Of the projection; empty where there is none.
    """

    def __init__(self, encoder, weights):
        super().__init__()
        self.encoder = encoder
        self.projection = torch.nn.Identity()
        if weights:
            width, size = weights["weight"].shape
            self.projection = torch.nn.Linear(size, width)
            self.projection.load_state_dict(weights)

    @torch.no_grad()
    def forward(self, codes, lengths):
        """Returns the vectors, [batch, values]."""
        numbers = self.encoder.dictionary.look_up(codes)
        tokens = frame_tokens(numbers, lengths, eos=True)
        return self.projection(self.encoder(*tokens)[:, 0])


def load_stage_one(folder):
    """Keys of the run that trained, its model, and what makes its tokens."""
    run = finished_run("pretrained", folder)
    if run["matching_weight"] == 0:
        raise ValueError(
            f"pretrained: {folder} learnt no vectors of text: give a run of "
            "hparams/pt_kd.yaml"
        )
    place = Path(folder) / "encoder"
    weights, _ = load_sealed(place / PROJECTION, "run train.py again")
    model = StageOne(TokenEncoder.load(place), weights).eval()
    options = {}
    if run["tokeniser"] == "kmeans":
        options["source"] = place / "tokeniser.safetensors"
    return run, model, run["make_tokeniser"](**options)


def main(arguments):
    """Finds the nearest typed wording of each utterance."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        device = run_opts["device"]
        manifests = prepare_fsc(**hparams["corpus"])
        manifests.check_transcripts("nearest wording", *manifests.splits)
        run, model, tokeniser = load_stage_one(hparams["pretrained"])
        features = hparams["make_features"](tokeniser, device)
        wordings = manifests.typed_wordings(hparams["typed"])
        table = run["text_models"]["sentence"].vectors(wordings, device)
        made_from = {
            "stage one": module_fingerprint(model),
            "tokeniser": module_fingerprint(tokeniser),
            "sentences": table.made_from,
        }
        known = {"tokeniser": model.encoder.tokeniser}
        made_from = joined(made_from, known)
        start_or_resume(hparams, text)

    sentences = table.look_up(list(wordings))
    norm = 1.0 if run["matching_distance"] == "l1" else 2.0

    def distances_of(rows):
        there = sentences.to(device)
        model.to(device)

        def measure(codes, lengths):
            return torch.cdist(model(codes, lengths), there, p=norm)

        facts = features, device, hparams["batch_size"], measure
        return distances_of_rows(rows, len(wordings), *facts)

    def cost(rows):
        model.cpu(), tokeniser.cpu()

        def nearest(wav):
            return torch.cdist(
                model(*tokeniser(wav)), sentences, p=norm
            ).argmin()

        used = [*model.parameters(), *tokeniser.parameters()]
        return {
            "parameters": sum(p.numel() for p in used),
            "milliseconds": milliseconds(nearest, rows, hparams["sample_rate"]),
        }

    facts = {"made_from": made_from, "cost": cost}
    score_nearest_wordings(hparams, manifests, wordings, distances_of, **facts)


if __name__ == "__main__":
    main(sys.argv[1:])
