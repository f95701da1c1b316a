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

import statistics
import sys
import time
from pathlib import Path

import torch
from prepare_commands import prepare_fsc
from tqdm import tqdm

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.data.batching import UtteranceDataset
from slu_kd_lobes.evaluation.report import Tested, write_results
from slu_kd_lobes.inference.recognisers import logits_of_nearest
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    CONFIGURATION,
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
)
from slu_kd_lobes.utils.fingerprints import file_fingerprint
from train import make_model

#: Utterances of the main test set that are answered one at a time.
TIMED = 50


def load_alignment(hparams):
    """Keys of the run that aligned, and where its best epoch is."""
    yaml = Path(hparams["alignment"]) / CONFIGURATION
    if not yaml.is_file():
        raise FileNotFoundError(
            f"alignment: there is no {yaml}: give the folder of a run of "
            "train.py"
        )
    save = str(yaml.parent / "save")
    run, _ = load_hparams(yaml, {"save_folder": save})
    best = run["checkpointer"].find_checkpoint(max_key="valid_top1")
    if best is None and hparams["aligned"]:
        raise FileNotFoundError(
            f"alignment: {save} has no checkpoint: let train.py end there"
        )
    return run, best


@torch.no_grad()
def answer(model, features, rows, tokens, device, batch_size):
    """Distance of each utterance to each wording, [utterances, wordings]."""
    features.build(rows)
    data = UtteranceDataset(range(len(rows)), features.load(rows))
    batches = data.loader_options(batch_size)["batch_sampler"]
    distances = torch.zeros(len(rows), len(tokens.mask))
    for indices in tqdm(batches, "typed commands", unit="batch"):
        batch = data.__getitems__(indices).to(device)
        frames = model.frames(*features(batch.inputs, batch.lengths))
        distances[indices] = model.distances(frames, tokens).cpu()
    return distances


@torch.no_grad()
def cost(model, first_frames, tokens, rows, sample_rate):
    """Parameters, and ms from a waveform to the nearest wording, one thread."""
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for row in rows:
        wav = read_waveform(row["wav"], sample_rate)
        start = time.perf_counter()
        frames = model.frames(*first_frames(wav.unsqueeze(0)))
        model.distances(frames, tokens).argmin().item()
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    used = [p for p in model.parameters() if p.requires_grad]  # no decoder
    used += first_frames.parameters()
    return {
        "parameters": sum(p.numel() for p in used),
        "milliseconds": round(1000 * statistics.median(seconds), 2),
    }


def main(arguments):
    """Finds the nearest typed wording of each utterance."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        device = run_opts["device"]
        manifests = prepare_fsc(**hparams["corpus"])
        manifests.check_transcripts("nearest wording", *manifests.splits)
        run, best = load_alignment(hparams)
        encoder = run["make_encoder"]()
        features = hparams["make_features"](encoder.first_frames(), device)
        wordings = manifests.typed_wordings(hparams["typed"])
        table = run["token_model"].table(wordings, device)
        model = make_model(run, encoder, table)
        sources = {"tokens": table.made_from}
        if hparams["aligned"]:
            path = best.paramfiles["model"]
            sources["alignment"] = file_fingerprint(path)
            model.load_state_dict(torch.load(path, weights_only=True))
        start_or_resume(hparams, text, sources)

    model.to(device).eval()
    tokens = table.units(table.rows_of(list(wordings)), device)
    targets, schema = torch.tensor(list(wordings.values())), manifests.schema
    results = {}
    for name in ["valid", *manifests.tests]:
        rows = manifests.read(name)
        distances = answer(
            model, features, rows, tokens, device, hparams["batch_size"]
        )
        similarities = distances.amax(1, keepdim=True) - distances
        logits = logits_of_nearest(similarities, targets, schema.slices)
        results[name] = Tested.of(rows, logits.numpy(), schema)
    write_results(
        hparams,
        manifests,
        {"last": results, "best": results},  # nothing is trained
        tested_epoch="best",
        wordings=len(wordings),
        seconds={"train": 0.0},
        cost=cost(
            model.cpu(),
            features.encoder.cpu(),
            table.units(table.rows_of(list(wordings))),
            manifests.read(manifests.main_test)[:TIMED],
            hparams["sample_rate"],
        ),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
