#!/usr/bin/env python3
"""Tests token vectors on commands that were typed and never spoken.

Contrastive distillation gives each token that is heard the text model's vector
of it, so a command can be the nearest of wordings that somebody typed: the one
whose tokens are most like those that were heard, and the other way round. Or a
head answers that learnt the meaning of the text model's own vectors.

To run this recipe:
> python typed_commands.py hparams/typed_commands.yaml \
>     --trained=results/cif_hkd/1234 \
>     --data_folder=/path/to/fluent_speech_commands_dataset

Authors
 * slu_kd_lobes authors
"""

import sys

import torch
from prepare_commands import prepare_fsc
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.utils.checkpoints import average_checkpoints

from slu_kd_lobes.evaluation.token_answers import units_of
from slu_kd_lobes.evaluation.typed_commands import (
    distances_of_rows,
    finished_run,
    milliseconds,
    score_nearest_wordings,
)
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
)
from slu_kd_lobes.utils.fingerprints import module_fingerprint


class TokenHearing(torch.nn.Module):
    """Features to vectors like those that a text model has of tokens.

    Arguments
    ---------
    recogniser : slu_kd_lobes.students.cif_recogniser.TokenRecogniser
    head : torch.nn.Module
        Of the contrastive distillation.
    """

    def __init__(self, recogniser, head):
        super().__init__()
        self.recogniser, self.head = recogniser, head

    @torch.no_grad()
    def forward(self, features, lengths):
        """Returns the tokens that are heard, `Units`."""
        vectors, sizes, _ = self.recogniser(features, lengths).fired
        # One of nothing for those where no token is heard.
        vectors = self.head(torch.nn.functional.pad(vectors, (0, 0, 0, 1)))
        mask = length_to_mask(sizes.clamp(min=1), vectors.shape[1])
        return units_of(vectors, mask.bool())


def load_trained(folder):
    """Keys of the run that trained, and what it hears with, as tested."""
    run = finished_run("trained", folder)
    if "acoustic" not in run["distillation"]:
        raise ValueError(
            f"trained: {folder} learnt no vectors of text: give a run of "
            "hparams/acd.yaml or hparams/hkd.yaml"
        )
    key = "valid_wer" if run["test_epoch"] == "best" else None
    kept = run["checkpointer"].find_checkpoints(
        min_key=key, max_num_checkpoints=run["average"]
    )
    weights, head = (
        average_checkpoints(kept, name) for name in ("recogniser", "acoustic")
    )
    symbols = len(weights["symbols.bias"])
    front_end = run["make_front_end"]()
    size = front_end.feature_size * front_end.layers
    encoder = run["make_encoder"](input_size=size)
    recogniser = run["make_recogniser"](symbols, encoder)
    recogniser.load_state_dict(weights)
    width, size = head["weight"].shape
    layer = torch.nn.Linear(size, width)
    layer.load_state_dict(head)
    return run, front_end, TokenHearing(recogniser, layer).eval()


def main(arguments):
    """Finds the nearest typed wording of each utterance."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        device = run_opts["device"]
        manifests = prepare_fsc(**hparams["corpus"])
        manifests.check_transcripts("nearest wording", *manifests.splits)
        run, front_end, model = load_trained(hparams["trained"])
        features = hparams["make_features"](front_end, device)
        wordings = manifests.typed_wordings(hparams["typed"])
        table = run["token_model"].table(wordings, device)
        made_from = {
            "recogniser": module_fingerprint(model),
            "tokens": table.made_from,
        }
        start_or_resume(hparams, text)

    said = table.units(table.rows_of(list(wordings)))
    said = units_of(said.vectors[:, 1:], said.mask[:, 1:])  # less the begin
    targets = torch.tensor(list(wordings.values()))
    schema, seed = manifests.schema, hparams["seed"]
    answer = hparams["make_answer"](said, targets, schema.slices, seed)

    def distances_of(rows):
        model.to(device), answer.to(device)

        def measure(inputs, lengths):
            return answer(model(inputs, lengths))

        facts = features, device, hparams["batch_size"], measure
        return distances_of_rows(rows, len(wordings), *facts)

    def cost(rows):
        model.cpu(), front_end.cpu(), answer.to("cpu")

        def nearest(wav):
            return answer(model(*front_end(wav))).argmin()

        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "milliseconds": milliseconds(nearest, rows, hparams["sample_rate"]),
        }

    facts = {"made_from": made_from, "cost": cost}
    score_nearest_wordings(hparams, manifests, wordings, distances_of, **facts)


if __name__ == "__main__":
    main(sys.argv[1:])
