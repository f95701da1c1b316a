#!/usr/bin/env python3
"""Pre-trains the SincNet encoder to recognise phonemes and words.

Every 40 ms the phoneme module names a phone, every 160 ms the word module
names a word. Afterwards the encoder is exported as a pre-trained folder that
the SLU recipe loads.

To run this recipe:
> python train.py hparams/frames.yaml --data_folder=/path/to/LibriSpeech \
>     --alignment_folder=/path/to/librispeech_alignments

Source: Lugosch et al. 2019, sections 3.1 and 4.1.

Authors
 * slu_kd_lobes authors
"""

import functools
import json
import random
import sys
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataio import read_audio
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.nnet.schedulers import update_learning_rate
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.distributed import run_on_main

from slu_kd_lobes.alignments import PHONES, frequent_words, label_track

LEVELS = ("phoneme", "word")


class ASRPretraining(sb.Brain):
    """Trains the encoder with one classifier on each of its two levels."""

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
        loss, correct, total = self.hparams.objective(
            logits, lengths, self.targets, self.speed
        )
        for level in LEVELS:
            self.correct[level] += correct[level]
            self.total[level] += total[level]
        return loss

    def on_stage_start(self, stage, epoch=None):
        """Starts counting; one seed an epoch makes a resumed run the same."""
        self.correct = dict.fromkeys(LEVELS, 0)
        self.total = dict.fromkeys(LEVELS, 0)
        if stage == sb.Stage.TRAIN:
            torch.manual_seed(self.hparams.seed + epoch)
            random.seed(self.hparams.seed + epoch)

    def on_stage_end(self, stage, stage_loss, epoch):
        """Logs, anneals and saves."""
        stats = {"loss": stage_loss}
        for level in LEVELS:
            share = self.correct[level] / max(self.total[level], 1)
            stats[f"{level}_accuracy"] = 100 * share
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
        old_lr, new_lr = self.hparams.lr_annealing(epoch)
        update_learning_rate(self.optimizer, new_lr)
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "lr": old_lr},
            train_stats=self.train_stats,
            valid_stats=stats,
        )
        self.checkpointer.save_and_keep_only(
            meta={key: float(value) for key, value in stats.items()},
            max_keys=["word_accuracy"],
        )


def dataio_prep(hparams):
    """Builds the data sets: waveform, phoneme targets and word targets."""
    words = frequent_words(hparams["train_manifest"], hparams["num_words"])
    vocabularies = hparams["vocabularies"](words)

    @functools.lru_cache(maxsize=hparams["utterances_in_memory"])
    def read(wav):
        return (read_audio(wav) * 32767).to(torch.int16)

    @takes("wav", "phones", "words", "duration")
    @provides("sig", "phoneme_targets", "word_targets")
    def aligned_item(wav, phones, words, duration):
        yield read(wav).float() / 32767
        for intervals, classes in zip((phones, words), vocabularies.values()):
            yield label_track(intervals, classes, duration)

    @takes("wav", "transcription")
    @provides("sig", "phoneme_targets", "word_targets")
    def transcribed_item(wav, transcription):
        yield read(wav).float() / 32767
        letters, words = vocabularies.values()
        yield torch.tensor([letters[c] for c in transcription if c in letters])
        yield torch.tensor(
            [words[w] for w in transcription.split() if w in words]
        )

    datasets = {}
    for name in ("train", "valid"):
        data = DynamicItemDataset.from_json(hparams[f"{name}_manifest"])
        data.add_dynamic_item(
            aligned_item if hparams["aligned"] else transcribed_item
        )
        data.set_output_keys(
            ["id", "sig", "phoneme_targets", "word_targets"]
        )
        datasets[name] = data
    return datasets


def phone_and_word_classes(words):
    """Classes of frame targets: 42 phones, and words with silence."""
    return {
        "phoneme": {phone: i for i, phone in enumerate(PHONES)},
        "word": {word: i for i, word in enumerate(words)},
    }


def letter_and_word_classes(words):
    """Classes of CTC targets; 0 is left to the blank."""
    letters = "abcdefghijklmnopqrstuvwxyz' "
    return {
        "phoneme": {letter: i for i, letter in enumerate(letters, start=1)},
        "word": {word: i for i, word in enumerate(words) if word},
    }


def export(hparams, accuracies):
    """Writes the encoder as a folder that SpeechBrain's Pretrainer loads."""
    folder = Path(hparams["export_folder"])
    folder.mkdir(parents=True, exist_ok=True)
    encoder = hparams["modules"]["encoder"]
    torch.save(encoder.state_dict(), folder / "encoder.ckpt.part")
    (folder / "encoder.ckpt.part").replace(folder / "encoder.ckpt")
    (folder / "accuracies.json").write_text(json.dumps(accuracies, indent=1))


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as f:
        hparams = load_hyperpyyaml(f, overrides)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )

    from prepare import prepare_aligned_speech  # noqa

    run_on_main(
        prepare_aligned_speech,
        kwargs={
            "data_folder": hparams["data_folder"],
            "alignment_folder": hparams["alignment_folder"],
            "manifests": {
                "train": hparams["train_manifest"],
                "valid": hparams["valid_manifest"],
            },
            "splits": hparams["splits"],
        },
    )
    hparams["vocabularies"] = (
        phone_and_word_classes if hparams["aligned"] else letter_and_word_classes
    )
    datasets = dataio_prep(hparams)
    brain = ASRPretraining(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs=hparams["train_dataloader_opts"],
        valid_loader_kwargs=hparams["valid_dataloader_opts"],
    )
