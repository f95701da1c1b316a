#!/usr/bin/env python3
"""Tests an aligned model on commands that were typed and never spoken.

A speech model and a text model that were aligned share a space, so a command
can be the nearest of wordings that somebody typed: there is no classifier, and
no recording of the commands is needed.

To run this recipe:
> python typed_commands.py hparams/typed_commands.yaml \
>     --alignment=results/pad_slocal/1234 \
>     --data_folder=/path/to/fluent_speech_commands_dataset

Authors
 * slu_kd_lobes authors
"""

import sys

import torch
from prepare_commands import prepare_fsc

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
from slu_kd_lobes.utils.fingerprints import file_fingerprint
from train import make_model


def load_alignment(hparams):
    """Keys of the run that aligned, and the checkpoint that it tested."""
    run = finished_run("alignment", hparams["alignment"])
    best = {"max_key": "valid_top1"} if run["test_epoch"] == "best" else {}
    return run, run["checkpointer"].find_checkpoint(**best)


def parameters(model, first_frames):
    """How many an answer needs: Whisper's decoder is not asked."""
    used = [p for p in model.parameters() if p.requires_grad]
    used += first_frames.parameters()
    return sum(p.numel() for p in used)


def main(arguments):
    """Finds the nearest typed wording of each utterance."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        device = run_opts["device"]
        manifests = prepare_fsc(**hparams["corpus"])
        manifests.check_transcripts("nearest wording", *manifests.splits)
        run, checkpoint = load_alignment(hparams)
        encoder = run["make_encoder"]()
        features = hparams["make_features"](encoder.first_frames(), device)
        wordings = manifests.typed_wordings(hparams["typed"])
        table = run["token_model"].table(wordings, device)
        model = make_model(run, encoder, table)
        made_from = {"tokens": table.made_from}
        if hparams["aligned"]:
            path = checkpoint.paramfiles["model"]
            made_from["alignment"] = file_fingerprint(path)
            model.load_state_dict(torch.load(path, weights_only=True))
        start_or_resume(hparams, text)

    model.to(device).eval()
    tokens = table.units(table.rows_of(list(wordings)), device)

    def measure(inputs, lengths):
        return model.distances(model.frames(inputs, lengths), tokens)

    def distances_of(rows):
        facts = features, device, hparams["batch_size"], measure
        return distances_of_rows(rows, len(wordings), *facts)

    def cost(rows):
        first_frames, units = features.encoder.cpu(), tokens.on_cpu()
        model.cpu()

        def nearest(wav):
            frames = model.frames(*first_frames(wav))
            return model.distances(frames, units).argmin().item()

        return {
            "parameters": parameters(model, first_frames),
            "milliseconds": milliseconds(nearest, rows, hparams["sample_rate"]),
        }

    facts = {"made_from": made_from, "cost": cost}
    score_nearest_wordings(hparams, manifests, wordings, distances_of, **facts)


if __name__ == "__main__":
    main(sys.argv[1:])
