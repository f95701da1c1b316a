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
    milliseconds,
    score_nearest_wordings,
)
from slu_kd_lobes.students.token_encoder import TokenEncoder
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    CONFIGURATION,
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
)
from slu_kd_lobes.utils.fingerprints import (
    file_fingerprint,
    joined,
    module_fingerprint,
)


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
    """Keys of the run that trained, its model, and a hash of it."""
    yaml = Path(folder) / CONFIGURATION
    if not yaml.is_file():
        raise FileNotFoundError(
            f"pretrained: there is no {yaml}: give the folder of a run of "
            "train.py"
        )
    places = {"save_folder": str(yaml.parent / "save")}
    places["encoder_folder"] = str(yaml.parent / "encoder")
    run, _ = load_hparams(yaml, places)
    if run["matching_weight"] == 0:
        raise ValueError(
            f"pretrained: {folder} learnt no vectors of text: give a run of "
            "hparams/pt_kd.yaml"
        )
    best = run["checkpointer"].find_checkpoint(min_key="valid_loss")
    if best is None:
        raise FileNotFoundError(
            f"pretrained: {places['save_folder']} has no checkpoint: let "
            "train.py end there"
        )
    encoder = TokenEncoder.load(run["encoder_folder"])
    paths = [best.paramfiles[name] for name in ("encoder", "projection")]
    weights = [torch.load(path, "cpu", weights_only=True) for path in paths]
    encoder.load_state_dict(weights[0])  # of the best epoch
    model = StageOne(encoder, weights[1]).eval()
    return run, model, [file_fingerprint(path) for path in paths]


def make_tokeniser(run, folder):
    """What makes tokens of audio, as the run had it."""
    options = {}
    if run["tokeniser"] == "kmeans":
        options["source"] = Path(folder) / "encoder" / "tokeniser.safetensors"
    return run["make_tokeniser"](**options)


def main(arguments):
    """Finds the nearest typed wording of each utterance."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        device = run_opts["device"]
        manifests = prepare_fsc(**hparams["corpus"])
        manifests.check_transcripts("nearest wording", *manifests.splits)
        run, model, weights = load_stage_one(hparams["pretrained"])
        tokeniser = make_tokeniser(run, hparams["pretrained"])
        features = hparams["make_features"](tokeniser, device)
        wordings = manifests.typed_wordings(hparams["typed"])
        table = run["text_models"]["sentence"].vectors(wordings, device)
        made_from = {
            "stage one": weights,
            "tokeniser": module_fingerprint(tokeniser),
            "sentences": table.made_from,
        }
        known = {"tokeniser": model.encoder.tokeniser}
        sources = joined(made_from, known)
        start_or_resume(hparams, text, sources)

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

    score_nearest_wordings(hparams, manifests, wordings, distances_of, cost)


if __name__ == "__main__":
    main(sys.argv[1:])
