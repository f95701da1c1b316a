#!/usr/bin/env python3
"""Pre-trains an encoder of audio tokens under a text encoder (stage 1).

Speech becomes discrete tokens, and a BERT learns to say which of them were
masked. Beside that, its vector of an utterance is drawn to the one that a
frozen text encoder has of the transcript: utterance matching.

To run this recipe:
> python train.py hparams/pt_kd.yaml --data_folder=/path/to/LibriSpeech

Source: Kim et al. 2020, "Two-stage Textual Knowledge Distillation for
End-to-End Spoken Language Understanding", section 2. This stage was never
published as code: the pieces are the paper's, their sum is our reading.

Authors
 * slu_kd_lobes authors
"""

import shutil
import sys
from pathlib import Path

import speechbrain as sb
import torch
from prepare import prepare_pairs
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from slu_kd_lobes.data.batching import UtteranceDataset
from slu_kd_lobes.data.token_dictionary import TokenDictionary, frame_tokens
from slu_kd_lobes.evaluation.retrieval import ranks, retrieval_metrics
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
from slu_kd_lobes.utils.fingerprints import fingerprint, module_fingerprint
from slu_kd_lobes.utils.sealed import save_sealed

#: Beside the encoder: what makes vectors of the text encoder's width.
PROJECTION = "projection.safetensors"

logger = get_logger(__name__)


class PretrainingBrain(StudentBrain):
    """Trains the encoder on masked tokens, and on the text encoder's vectors.

    Besides what StudentBrain has, it is given the `features`, which are codes
    of audio tokens, and with matching the `sentences`, the different vectors
    of the validation set's transcripts.
    """

    best = "loss"

    def compute_forward(self, batch, stage):
        """Returns scores of the masked tokens, what they are, and vectors."""
        batch.to(self.device)
        codes, lengths = self.features(batch.inputs, batch.lengths)
        numbers = self.dictionary.look_up(codes)
        tokens, lengths = frame_tokens(numbers, lengths, eos=True)
        masked, chosen = self.hparams.masking(
            tokens, lengths, self.dictionary.mask, self.frame_ms
        )
        states, scores = self.modules.encoder(masked, lengths, chosen)
        vectors = self.modules.projection(states[:, 0])
        if stage != sb.Stage.TRAIN and self.hparams.matching_weight > 0:
            heard = self.modules.encoder(tokens, lengths)  # nothing is masked
            self.heard = self.modules.projection(heard[:, 0])
        return scores, tokens[chosen], vectors

    def compute_objectives(self, outputs, batch, stage):
        """Returns the loss of the masked tokens and that of the matching."""
        scores, targets, vectors = outputs
        loss = torch.nn.functional.cross_entropy(scores.float(), targets)
        accuracy = 100 * (scores.argmax(-1) == targets).float().mean()
        self.log_terms(len(targets), masked=loss, accuracy=accuracy)
        if self.hparams.matching_weight > 0:
            matching = self.hparams.distance(vectors, batch.sentence_vectors)
            self.log_terms(len(batch.indices), matching=matching)
            loss = loss + self.hparams.matching_weight * matching
            if stage != sb.Stage.TRAIN:  # of all transcripts, the nearest?
                norm = 1.0 if self.hparams.matching_distance == "l1" else 2.0
                distances = torch.cdist(
                    self.heard.float(), self.sentences, p=norm
                )
                self.ranks.append(ranks(distances, batch.sentence_rows).cpu())
        self.log_terms(len(batch.indices), loss=loss)
        return loss

    def on_stage_start(self, stage, epoch=None):
        """Starts the list of ranks; validation masks the same every time."""
        super().on_stage_start(stage, epoch)
        self.ranks = []
        if stage != sb.Stage.TRAIN:
            torch.manual_seed(self.hparams.seed)

    def evaluation_stats(self):
        """Returns the means, and how often the own transcript is nearest."""
        found = retrieval_metrics(torch.cat(self.ranks)) if self.ranks else {}
        return {**self.means(), **found}


def make_tokeniser(hparams, rows, device):
    """What makes tokens of audio; a K-means is fitted on the training set."""
    make = hparams["make_tokeniser"]
    if hparams["tokeniser"] != "kmeans":
        return make(), None
    heard = [(Path(row["wav"]).name, row["duration"]) for row in rows]
    keys = (hparams[f"kmeans_{key}"] for key in ("groups", "clusters", "seed"))
    name = f"kmeans-{fingerprint([*keys, heard])[:12]}.safetensors"
    path = Path(hparams["save_folder"]) / name

    def fit():
        if not path.is_file():
            tokeniser = make().to(device)
            tokeniser.fit(rows, hparams["kmeans_seed"]).save(path)

    run_on_main(fit)
    return make(source=path), path


def dataio_prep(hparams, splits, features, device):
    """Builds the data sets and the dictionary of the training set's tokens."""
    run_on_main(features.build, [sum(splits.values(), [])])
    table, vectors = None, {split: {} for split in splits}
    if hparams["matching_weight"] > 0:
        texts = {
            split: [row["transcription"] for row in rows]
            for split, rows in splits.items()
        }
        model = hparams["text_models"]["sentence"]
        table = model.vectors(sum(texts.values(), []), device)
        for split, said in texts.items():
            sentences, _, which = table.distinct(said)
            vectors[split] = {
                "sentence_vectors": sentences[which],
                "sentence_rows": which,
            }
    inputs = {split: features.load(rows) for split, rows in splits.items()}
    datasets = {
        split: UtteranceDataset(
            ids=[row["wav"] for row in rows],
            inputs=inputs[split],
            **vectors[split],
        )
        for split, rows in splits.items()
    }
    dictionary = TokenDictionary.of(
        (inputs["train"].batch([i])[0][0] for i in range(len(splits["train"]))),
        features.encoder.codes,
    )
    return datasets, dictionary, table


def make_modules(hparams, dictionary, tokeniser, table):
    """What trains: the encoder, and a projection where widths differ."""
    encoder = hparams["encoder"](
        dictionary,
        tokeniser.frame_ms,
        tokeniser=module_fingerprint(tokeniser),
    )
    projection = torch.nn.Identity()
    width = encoder.hidden_size if table is None else table.outputs.shape[1]
    if width != encoder.hidden_size:
        logger.warning(
            f"The encoder has vectors of {encoder.hidden_size} and the text "
            f"encoder of {width}: a linear projection goes between them."
        )
        projection = torch.nn.Linear(encoder.hidden_size, width)
    return {"encoder": encoder, "projection": projection}


def main(arguments):
    """Prepares, trains and saves."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        open_folder(hparams, text)
        device = run_opts["device"]
        splits = prepare_pairs(**hparams["speech"])
        tokeniser, fitted = make_tokeniser(hparams, splits["train"], device)
        features = hparams["make_features"](tokeniser, device)
        datasets, dictionary, table = dataio_prep(
            hparams, splits, features, device
        )
        sb.utils.seed.seed_everything(hparams["seed"])
        modules = make_modules(hparams, dictionary, tokeniser, table)
        sources = {
            "tokeniser": module_fingerprint(tokeniser),
            "dictionary": dictionary.fingerprint,
            "sentences": table and table.made_from,
            "speech": [part.inputs.audio for part in datasets.values()],
        }
        start_or_resume(hparams, text, sources)
        folder = Path(hparams["encoder_folder"])
        if is_finished(hparams, folder / "model.safetensors"):
            return finish_run()

    brain = PretrainingBrain(
        modules,
        made_from=sources,
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
        train_logger=hparams["train_logger"],
    )
    train, valid = datasets["train"], datasets["valid"]
    brain.features, brain.frame_ms = features, tokeniser.frame_ms
    brain.dictionary = dictionary.to(device)
    if table is not None:
        said = [row["transcription"] for row in splits["valid"]]
        brain.sentences = table.distinct(said)[0].to(device)
    size, workers = hparams["batch_size"], features.loader_workers
    train_options = train.loader_options(size, hparams["seed"], workers)
    batches = len(train_options["batch_sampler"])
    with one_sentence_errors():
        steps = brain.steps_of_epoch(batches)
        brain.schedule = hparams["make_schedule"](steps=steps)
        brain.fit(
            hparams["epoch_counter"],
            train,
            valid,
            train_loader_kwargs=train_options,
            valid_loader_kwargs=valid.loader_options(size),
        )
    brain.test(valid, hparams["test_epoch"], **valid.loader_options(size))
    if if_main_process():
        found = brain.evaluation_stats()
        modules["encoder"].save(folder)
        save_sealed(folder / PROJECTION, modules["projection"].state_dict())
        if fitted is not None:
            shutil.copy(fitted, folder / "tokeniser.safetensors")
        path = write_metrics(
            hparams,
            {
                "valid": found,
                "history": brain.history.epochs,
                "tokens": len(dictionary),
                "parameters": sum(
                    p.numel() for p in brain.modules.parameters()
                ),
                "made_from": sources,
            },
        )
        print(f"masked tokens named: {found['accuracy']:.1f} % of validation")
        if "top1" in found:
            print(
                f"own transcript nearest: {found['top1']:.1f} % of validation"
            )
        print(f"encoder: {folder}\nmetrics: {path}")
    finish_run()


if __name__ == "__main__":
    main(sys.argv[1:])
