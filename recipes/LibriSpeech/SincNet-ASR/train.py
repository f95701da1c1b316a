#!/usr/bin/env python3
"""Pre-trains the SincNet encoder to recognise phonemes and words.

Every 40 ms the phoneme module names a phone, every 160 ms the word module
names a word; without alignments both learn letters and words by CTC. Then the
encoder of the best epoch is exported as a pre-trained folder, which the SLU
recipe loads. A run that was cut short goes on when it is started again; one
that is finished exports again.

To run this recipe:
> python train.py hparams/frames.yaml --data_folder=/path/to/LibriSpeech \
>     --alignment_folder=/path/to/librispeech_alignments
> python train.py hparams/ctc.yaml --data_folder=/path/to/LibriSpeech

Source: Lugosch et al. 2019, sections 3.1 and 4.1.

Authors
 * slu_kd_lobes authors
"""

import functools
import json
import sys
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import resolve_references
from prepare import prepare_speech
from ruamel.yaml import YAML
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.nnet.schedulers import update_learning_rate
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from slu_kd_lobes.data.alignments import (
    frequent_words,
    label_track,
    unpack_alignment,
)
from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.inference.package import package_encoder
from slu_kd_lobes.inference.saved_objects import object_yaml
from slu_kd_lobes.training.brain import StudentBrain
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    finish_run,
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
)
from slu_kd_lobes.utils.fingerprints import file_fingerprint, module_fingerprint

logger = get_logger(__name__)

LEVELS = ("phoneme", "word")


class ASRPretraining(StudentBrain):
    """Trains the encoder with one classifier on each of its two levels."""

    best = "word_accuracy"
    highest_is_best = True

    def compute_forward(self, batch, stage):
        """Returns the logits of both levels, their lengths and the speed."""
        batch = batch.to(self.device)
        wavs, wav_lens = batch.sig
        self.targets = {
            level: getattr(batch, f"{level}_targets").data for level in LEVELS
        }
        self.speed = 1.0
        if stage == sb.Stage.TRAIN and self.hparams.excerpt is not None:
            wavs, wav_lens, self.targets = self.hparams.excerpt(
                wavs, wav_lens, self.targets
            )
        if stage == sb.Stage.TRAIN and self.hparams.augment:
            wavs, wav_lens = self.augment(wavs, wav_lens)
        encoder = self.modules.encoder
        phonemes, phoneme_lengths = encoder.encode_phonemes(wavs, wav_lens)
        words, word_lengths = encoder.encode_words(phonemes, phoneme_lengths)
        logits = {
            "phoneme": self.modules.phoneme_head(phonemes),
            "word": self.modules.word_head(words),
        }
        return logits, {"phoneme": phoneme_lengths, "word": word_lengths}

    def augment(self, wavs, wav_lens):
        """Changes speed, channel, noise and level, and notes the speed."""
        perturb = self.hparams.speed_perturb
        wavs = perturb(wavs)
        self.speed = perturb.speeds[int(perturb.samp_index)] / 100
        wavs, wav_lens = self.hparams.augmenter(wavs, wav_lens)
        # The level comes last, since adding noise turns the speech down.
        low, high = self.hparams.level_db
        level = low + (high - low) * torch.rand(len(wavs), 1)
        return wavs * 10 ** (level.to(wavs.device) / 20), wav_lens

    def compute_objectives(self, predictions, batch, stage):
        """Returns the pre-training loss and counts what was right."""
        logits, lengths = predictions
        loss, correct, total = self.hparams.loss(
            logits, lengths, self.targets, self.speed
        )
        self.log_terms(len(batch.id), loss=loss)
        for level in LEVELS:
            share = 100 * correct[level] / max(1, total[level])
            self.log_terms(total[level], **{f"{level}_accuracy": share})
        return loss

    def start_epoch(self, epoch):
        """Sets the learning rate of the epoch."""
        lr, _ = self.hparams.lr_annealing(epoch)
        update_learning_rate(self.optimizer, lr)
        self.epoch_facts = {"lr": lr}


def dataio_prep(hparams):
    """Builds the data sets: waveform, phoneme targets and word targets."""
    words = frequent_words(hparams["train_manifest"], hparams["num_words"])
    classes = get_classes(hparams, words)

    @functools.lru_cache(maxsize=hparams["utterances_in_memory"])
    def read(wav):
        wav = read_waveform(wav, hparams["sample_rate"])
        return (wav * 32767).to(torch.int16)

    @takes("wav", "phones", "words", "duration")
    @provides("sig", "phoneme_targets", "word_targets")
    def aligned_item(wav, phones, words, duration):
        yield read(wav).float() / 32767
        for level, text in zip(LEVELS, (phones, words)):
            intervals = unpack_alignment(text)
            yield label_track(intervals, classes[level], duration)

    @takes("wav", "transcription")
    @provides("sig", "phoneme_targets", "word_targets")
    def transcribed_item(wav, transcription):
        yield read(wav).float() / 32767
        for level, labels in zip(
            LEVELS, (transcription, transcription.split())
        ):
            known = (label for label in labels if label in classes[level])
            labels = [classes[level][label] for label in known]
            yield torch.tensor(labels, dtype=torch.long)

    return {
        name: DynamicItemDataset.from_json(
            hparams[f"{name}_manifest"],
            replacements={"data_root": hparams["data_folder"]},
            dynamic_items=[
                aligned_item if hparams["loss"].aligned else transcribed_item
            ],
            output_keys=["id", "sig", "phoneme_targets", "word_targets"],
        )
        for name in ("train", "valid")
    }


def get_classes(hparams, words):
    """Classes of both levels, which the classifiers must have room for."""
    classes = hparams["loss"].classes(words)
    for level, key in zip(LEVELS, ("num_phones", "num_words")):
        needed = max(classes[level].values(), default=0) + 1
        if hparams[key] < needed:
            raise ValueError(
                f"{key} is {hparams[key]}, and there are {needed} classes: "
                "raise it"
            )
    return classes


def export(hparams, brain, text, arguments):
    """Exports the epoch with the best validation word accuracy."""
    checkpoint = brain.checkpointer.find_checkpoint(
        max_key="valid_word_accuracy"
    )
    if checkpoint is None:
        raise ValueError(
            "no epoch is finished, so there is nothing to export: raise "
            "--number_of_epochs"
        )
    encoder = hparams["encoder"]
    state = torch.load(
        checkpoint.paramfiles["encoder"], map_location="cpu", weights_only=True
    )
    encoder.load_state_dict(state)
    folder = Path(hparams["export_folder"])
    if brain.debug and not brain.debug_persistently:
        # A trial run must not replace an encoder that took days.
        folder = Path(brain.checkpointer.checkpoints_dir) / "encoder"
    node = YAML().load(resolve_references(text).getvalue())["encoder"]
    del node["source"]
    data_name = Path(hparams["data_folder"]).resolve().name
    package_encoder(
        folder,
        encoder,
        {
            "encoder": object_yaml("encoder", node),
            "description": hparams["data_description"]
            or f"Trained on the transcribed speech of `{data_name}`.",
            "command": ["train.py", *arguments],
            "data": {
                f"{name} ({', '.join(hparams['splits'][name])})": manifest_size(
                    hparams[f"{name}_manifest"]
                )
                for name in ("train", "valid")
            },
            "seed": hparams["seed"],
            "epochs": hparams["epoch_counter"].current,
            "epoch": int(checkpoint.paramfiles["counter"].read_text()),
            "accuracies": {
                hparams["loss"].measures[level]: checkpoint.meta[
                    f"valid_{level}_accuracy"
                ]
                for level in LEVELS
            },
        },
    )
    logger.info(f"The encoder of the best epoch is in {folder}")


def manifest_size(path):
    """Utterances and hours that a manifest lists."""
    rows = json.loads(Path(path).read_text(encoding="utf-8"))
    return len(rows), sum(row["duration"] for row in rows.values()) / 3600


def main(arguments):
    """Prepares, trains and exports."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        # A finished run goes on when it is given more epochs, unless those
        # that are done had other learning rates then.
        steady = hparams["lr"] == hparams["final_lr"]
        open_folder(hparams, text, ["lr_annealing"] if steady else [])
        run_on_main(
            prepare_speech,
            kwargs={
                "data_folder": hparams["data_folder"],
                "alignment_folder": hparams["alignment_folder"],
                "manifests": {
                    "train": hparams["train_manifest"],
                    "valid": hparams["valid_manifest"],
                },
                "splits": hparams["splits"],
                "aligned": hparams["loss"].aligned,
            },
        )
        datasets = dataio_prep(hparams)
        sources = {"train data": file_fingerprint(hparams["train_manifest"])}
        if hparams["start_from"] is not None:
            sources["start_from"] = module_fingerprint(hparams["encoder"])
        start_or_resume(hparams, text, sources)

    brain = ASRPretraining(
        hparams["modules"],
        made_from=sources,
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
        train_logger=hparams["train_logger"],
    )
    with one_sentence_errors():
        brain.fit(
            hparams["epoch_counter"],
            datasets["train"],
            datasets["valid"],
            train_loader_kwargs=hparams["train_dataloader_opts"],
            valid_loader_kwargs=hparams["valid_dataloader_opts"],
        )
        run_on_main(export, [hparams, brain, text, arguments])
    finish_run()


if __name__ == "__main__":
    main(sys.argv[1:])
