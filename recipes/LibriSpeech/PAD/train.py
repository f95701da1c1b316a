#!/usr/bin/env python3
"""Aligns a pre-trained speech model with a pre-trained text model.

A frame of the speech model is drawn towards the text model's vector of what
is said there, on a few hours of speech with transcripts. How much a frame or a
token counts is the attention that it receives. The structure of the speech
model stays as it is: the aligned one is saved as its source was, and serves
whatever its source served, such as the encoder of a student of spoken
language understanding.

To run this recipe:
> python train.py hparams/slocal.yaml --data_folder=/path/to/LibriSpeech \
>     --speech_model=facebook/wav2vec2-base --text_model=bert-base-uncased

Source: Ni et al. 2023, "Adaptive Knowledge Distillation between Text and
Speech Pre-trained Models" (PAD).

Authors
 * slu_kd_lobes authors
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from prepare import prepare_pairs
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.data.batching import UtteranceDataset
from slu_kd_lobes.evaluation.alignment_plot import plot_alignment
from slu_kd_lobes.evaluation.plots import drawn
from slu_kd_lobes.evaluation.retrieval import ranks, retrieval_metrics
from slu_kd_lobes.students.aligned import AlignedModel
from slu_kd_lobes.training.brain import StudentBrain
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    finish_run,
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
    write_metrics,
)
from slu_kd_lobes.utils.files import whole
from slu_kd_lobes.utils.fingerprints import module_fingerprint

logger = get_logger(__name__)


class AlignmentBrain(StudentBrain):
    """Trains the speech model on the distances to the text model.

    Besides what StudentBrain has, it is given the `model`, the `features`, the
    `tokens`, a table of the text model, and in `valid_rows` the rows of it that
    are the validation set's transcripts.
    """

    best = "top1"
    highest_is_best = True

    def compute_forward(self, batch, stage):
        """Returns the frames, and how far they are from their tokens."""
        tokens = self.tokens.units(batch.rows, self.device)
        batch.to(self.device)
        inputs, lengths = self.features(batch.inputs, batch.lengths)
        return self.modules.model(inputs, lengths, tokens)

    def compute_objectives(self, outputs, batch, stage):
        """Returns the sum of the distances that are wanted."""
        frames, terms = outputs
        loss = sum(terms.values())
        self.log_terms(len(batch.indices), loss=loss, **terms)
        if stage != sb.Stage.TRAIN:  # of all transcripts, which is nearest?
            tokens = self.tokens.units(self.valid_rows, self.device)
            distances = self.model.distances(frames, tokens)
            own = torch.searchsorted(self.valid_rows, batch.rows.cpu())
            self.ranks.append(ranks(distances, own.to(self.device)).cpu())
        return loss

    @torch.no_grad()
    def frames_of(self, dataset, index):
        """Frames of one utterance, for the picture."""
        batch = dataset.__getitems__([index]).to(self.device)
        inputs = self.features(batch.inputs, batch.lengths)
        return self.model.to(self.device).eval().frames(*inputs).on_cpu()

    def on_stage_start(self, stage, epoch=None):
        """Starts the list of ranks."""
        super().on_stage_start(stage, epoch)
        self.ranks = []

    def evaluation_stats(self):
        """Returns the mean distance, and how often the own text is nearest."""
        found = retrieval_metrics(torch.cat(self.ranks))
        return {"loss": self.means()["loss"], **found}


def dataio_prep(hparams, splits, features, device):
    """Builds the data sets, the table of their transcripts, and an example."""
    texts = {
        split: [row["transcription"] for row in rows]
        for split, rows in splits.items()
    }
    if hparams["shuffled_transcripts"]:  # a control that must fail
        np.random.default_rng(hparams["seed"]).shuffle(texts["train"])
    tokens = hparams["token_model"].table(sum(texts.values(), []), device)
    run_on_main(features.build, [sum(splits.values(), [])])
    datasets = {
        split: UtteranceDataset(
            ids=[row["wav"] for row in rows],
            inputs=features.load(rows),
            rows=torch.tensor(tokens.rows_of(texts[split])),
        )
        for split, rows in splits.items()
    }
    valid = splits["valid"]  # of a middling length
    order = sorted(range(len(valid)), key=lambda i: valid[i]["duration"])
    example = order[len(order) // 2]
    return datasets, tokens, {"index": example, **valid[example]}


def chosen_losses(hparams):
    """The distances that are wanted, by name."""
    losses, names = hparams["losses"], hparams["alignments"]
    if not names or any(name not in losses for name in names):
        raise ValueError(
            f"alignments is {names}: choose of {', '.join(losses)}"
        )
    by_priors = "slocal" in names and hparams["anchors"] == "priors"
    if by_priors and hparams["priors"] == "uniform":
        raise ValueError(
            "uniform priors tell no anchor from other frames: give "
            "--anchors=strides, too"
        )
    return {name: losses[name] for name in names}


def make_model(hparams, encoder, tokens):
    """The speech model, and its distances to the text model."""
    losses = chosen_losses(hparams)
    width = tokens.outputs.shape[1] - 1  # beside the prior
    model = AlignedModel(encoder, losses, width, hparams["priors"])
    if model.projects:
        logger.warning(
            f"The speech model has vectors of {encoder.feature_size} and the "
            f"text model of {width}: a linear projection goes between them, "
            "and is no part of the aligned speech model."
        )
    return model


def save_aligned(brain, folder):
    """Writes the speech model of the best epoch in its source's layout."""
    with whole(Path(folder)) as part:
        brain.model.encoder.save_pretrained(part)
        shutil.rmtree(folder, ignore_errors=True)  # of fewer epochs


def draw_example(hparams, example, tokens, sides):
    """Draws what one validation utterance was like, and is."""
    text, rate = example["transcription"], hparams["sample_rate"]
    facts = (
        read_waveform(example["wav"], rate),
        rate,
        hparams["token_model"].words(text),
        tokens.units(tokens.rows_of([text])),
        sides,
        hparams["losses"]["slocal"],
    )
    path = Path(hparams["output_folder"]) / "alignment.png"
    for plot in drawn(path, plot_alignment, *facts):
        print(f"plot: {plot}")


def main(arguments):
    """Prepares, aligns and saves."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        chosen_losses(hparams)  # or raises, before any work
        open_folder(hparams, text)
        splits = prepare_pairs(**hparams["speech"])
        device, encoder = run_opts["device"], hparams["make_encoder"]()
        features = hparams["make_features"](encoder.first_frames(), device)
        datasets, tokens, example = dataio_prep(
            hparams, splits, features, device
        )
        sb.utils.seed.seed_everything(hparams["seed"])
        model = make_model(hparams, encoder, tokens)
        sources = {
            "tokens": tokens.made_from,
            "speech model": module_fingerprint(encoder),
            # Known of what is stored.
            "speech": getattr(datasets["train"].inputs, "audio", None),
        }
        start_or_resume(hparams, text, sources)

    brain = AlignmentBrain(
        {"model": model},
        made_from=sources,
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
        train_logger=hparams["train_logger"],
    )
    train, valid = datasets["train"], datasets["valid"]
    brain.model, brain.tokens, brain.features = model, tokens, features
    brain.valid_rows = valid.columns["rows"].unique()
    size, workers = hparams["batch_size"], features.loader_workers
    train_options = train.loader_options(size, hparams["seed"], workers)
    batches = len(train_options["batch_sampler"])
    valid_options = valid.loader_options(size, num_workers=workers)
    before = brain.frames_of(valid, example["index"])
    if hparams["checkpointer"].find_checkpoint() is None:
        brain.evaluate(valid, test_loader_kwargs=dict(valid_options))
        brain.train_stats = {}
        brain.log_epoch(0, brain.evaluation_stats())  # unaligned
    with one_sentence_errors():
        steps = brain.steps_of_epoch(batches)
        brain.schedule = hparams["make_schedule"](steps=steps)
        brain.fit(
            hparams["epoch_counter"],
            train,
            valid,
            train_loader_kwargs=train_options,
            valid_loader_kwargs=dict(valid_options),
        )
    brain.test(valid, hparams["test_epoch"], **valid_options)
    if if_main_process():
        first, last = brain.history.epochs[0], brain.evaluation_stats()
        print(
            f"own transcript nearest: {first['valid_top1']:.1f} % before, "
            f"{last['top1']:.1f} % after (of {len(valid)} utterances)\n"
            f"aligned model: {hparams['aligned_folder']}"
        )
        save_aligned(brain, hparams["aligned_folder"])
        write_metrics(
            hparams,
            {
                "before": first,
                "valid": last,
                "n_train": len(train),
                "n_valid": len(valid),
                "history": brain.history.epochs,
                "projection": model.projects,
            },
        )
        sides = {
            "before": before,
            "aligned": brain.frames_of(valid, example["index"]),
        }
        draw_example(hparams, example, tokens, sides)
    finish_run()


if __name__ == "__main__":
    main(sys.argv[1:])
