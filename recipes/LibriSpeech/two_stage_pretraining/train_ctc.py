#!/usr/bin/env python3
"""Pre-trains the acoustic model on a frozen encoder of audio tokens (AM-PT).

Convolutions and BiLSTMs over the states of the encoder write the transcript
letter by letter (CTC). What writes is left behind: the acoustic model itself
is what fine-tuning starts from.

To run this recipe:
> python train_ctc.py hparams/am_pt.yaml --data_folder=/path/to/LibriSpeech \
>     --token_encoder=results/pretraining_pt_kd/1234/encoder

Source: Kim et al. 2020, "Two-stage Textual Knowledge Distillation for
End-to-End Spoken Language Understanding", section 2, and its published code;
Amodei et al. 2016, "Deep Speech 2".

Authors
 * slu_kd_lobes authors
"""

import sys

import speechbrain as sb
import torch
from prepare import prepare_pairs
from speechbrain.nnet.schedulers import update_learning_rate
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.edit_distance import accumulatable_wer_stats

from slu_kd_lobes.data.batching import UtteranceDataset
from slu_kd_lobes.data.token_dictionary import frame_tokens
from slu_kd_lobes.losses.asr import LETTERS, check_frames, ctc_collapse
from slu_kd_lobes.students.token_encoder import TokenEncoder
from slu_kd_lobes.training.brain import StudentBrain
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.training.run_folder import (
    finish_run,
    is_finished,
    one_sentence_errors,
    open_folder,
    parse_arguments,
    start_or_resume,
    write_metrics,
)
from slu_kd_lobes.utils.fingerprints import (
    fingerprint,
    joined,
    module_fingerprint,
)

#: Numbers of the symbols; the blank of CTC is 0.
SYMBOLS = {letter: number for number, letter in enumerate(LETTERS, start=1)}

#: Tokens for the begin and the end of an utterance.
MARKS = 2


class AcousticBrain(StudentBrain):
    """Trains the acoustic model to write.

    Besides what StudentBrain has, it is given the `features`, which are codes
    of audio tokens, and the frozen `encoder`.
    """

    best = "cer"

    def compute_forward(self, batch, stage):
        """Returns log-probabilities, [batch, frames, symbols], and lengths."""
        batch.to(self.device)
        codes, lengths = self.features(batch.inputs, batch.lengths)
        numbers = self.encoder.dictionary.look_up(codes)
        tokens, lengths = frame_tokens(numbers, lengths, eos=True)
        # The published code leaves dropout on in its frozen encoder.
        on = stage == sb.Stage.TRAIN and self.hparams.encoder_dropout
        with torch.no_grad():
            states = self.encoder.train(on)(tokens, lengths)
        frames, lengths = self.modules.acoustic(states, lengths)
        return self.modules.writer(frames, lengths), lengths

    def compute_objectives(self, outputs, batch, stage):
        """Returns the loss of CTC, the sum of an utterance."""
        scores, lengths = outputs
        sizes = (batch.letters > 0).sum(1)
        loss = torch.nn.functional.ctc_loss(
            scores.transpose(0, 1),
            batch.letters,
            lengths,
            sizes,
            reduction="sum",
            zero_infinity=True,  # of those that do not fit into their frames
        )
        loss = loss / len(batch.indices)
        self.log_terms(len(batch.indices), loss=loss)
        if stage != sb.Stage.TRAIN:
            paths = scores.argmax(-1).cpu()
            self.written += [
                ctc_collapse(path[:size])
                for path, size in zip(paths, lengths.tolist())
            ]
            self.said += [
                row[:size]
                for row, size in zip(batch.letters.tolist(), sizes.tolist())
            ]
        return loss

    def start_epoch(self, epoch):
        """Sets the learning rate of the epoch."""
        lr = self.hparams.lr * self.hparams.lr_decay ** (epoch - 1)
        update_learning_rate(self.optimizer, lr)

    def on_stage_start(self, stage, epoch=None):
        """Starts the lists of what is written, and of what was said."""
        super().on_stage_start(stage, epoch)
        self.written, self.said = [], []

    def evaluation_stats(self):
        """Returns the mean loss and the letter error rate, in percent."""
        stats = accumulatable_wer_stats(self.said, self.written)
        return {**self.means(), "cer": stats["WER"]}


class Writer(torch.nn.Module):
    """The letters' probabilities a frame, as in Deep Speech 2.

    Arguments
    ---------
    size : int
        Values of a frame.
    """

    def __init__(self, size):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(size)
        self.symbols = torch.nn.Linear(size, len(LETTERS) + 1, bias=False)

    def forward(self, frames, lengths):
        """Returns their logarithms, [batch, frames, symbols], in float32."""
        order = torch.arange(frames.shape[1], device=frames.device)
        inside = order < lengths.to(frames.device).unsqueeze(1)
        known = self.symbols(self.norm(frames[inside]))
        scores = known.new_zeros(*inside.shape, known.shape[-1])
        scores[inside] = known
        return scores.float().log_softmax(-1)


def dataio_prep(splits, features):
    """Builds the data sets: audio tokens and letters."""
    run_on_main(features.build, [sum(splits.values(), [])])
    datasets = {}
    for split, rows in splits.items():
        texts = [row["transcription"].lower() for row in rows]
        letters = [
            torch.tensor([SYMBOLS[x] for x in text if x in SYMBOLS])
            for text in texts
        ]
        datasets[split] = UtteranceDataset(
            ids=[row["wav"] for row in rows],
            inputs=features.load(rows),
            letters=torch.nn.utils.rnn.pad_sequence(letters, batch_first=True),
        )
    return datasets


def main(arguments):
    """Prepares, trains and saves."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        device = run_opts["device"]
        splits = prepare_pairs(**hparams["speech"])
        if hparams["token_encoder"] is None:
            raise ValueError(
                "token_encoder: give the encoder folder of a run of train.py"
            )
        encoder = TokenEncoder.load(hparams["token_encoder"]).to(device)
        encoder.requires_grad_(False)
        features = hparams["make_features"](hparams["make_tokeniser"](), device)
        datasets = dataio_prep(splits, features)
        sb.utils.seed.seed_everything(hparams["seed"])
        acoustic = hparams["acoustic"](encoder.hidden_size)
        for split, dataset in datasets.items():
            check_frames(
                split,
                dataset.columns["letters"],
                acoustic.frames_of(dataset.inputs.lengths + MARKS),
                "lower the stride of acoustic, or choose a tokeniser with "
                "more tokens a second",
            )
        made_from = {
            "encoder": module_fingerprint(encoder),
            "dictionary": encoder.dictionary.fingerprint,
            "tokeniser": module_fingerprint(features.encoder),
            "letters": fingerprint(
                datasets["train"].columns["letters"].tolist()
            ),
            "speech": [part.inputs.audio for part in datasets.values()],
        }
        sources = joined(made_from, {"tokeniser": encoder.tokeniser})
        start_or_resume(hparams, text, sources)
        if is_finished(hparams, hparams["acoustic_file"]):
            return finish_run()

    brain = AcousticBrain(
        {"acoustic": acoustic, "writer": Writer(acoustic.output_size)},
        made_from=sources,
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
        train_logger=hparams["train_logger"],
    )
    brain.features, brain.encoder = features, encoder
    train, valid = datasets["train"], datasets["valid"]
    size, workers = hparams["batch_size"], features.loader_workers
    with one_sentence_errors():
        brain.fit(
            hparams["epoch_counter"],
            train,
            valid,
            train_loader_kwargs=train.loader_options(
                size, hparams["seed"], workers
            ),
            valid_loader_kwargs=valid.loader_options(size),
        )
    brain.test(valid, hparams["test_epoch"], **valid.loader_options(size))
    if if_main_process():
        found = brain.evaluation_stats()
        acoustic.save(hparams["acoustic_file"], sources)
        path = write_metrics(
            hparams,
            {
                "valid": found,
                "history": brain.history.epochs,
                "parameters": sum(
                    p.numel() for p in brain.modules.parameters()
                ),
                "made_from": sources,
            },
        )
        print(f"letters wrong: {found['cer']:.1f} % of validation")
        print(f"acoustic model: {hparams['acoustic_file']}\nmetrics: {path}")
    finish_run()


if __name__ == "__main__":
    main(sys.argv[1:])
