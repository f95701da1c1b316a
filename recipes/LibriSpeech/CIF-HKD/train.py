#!/usr/bin/env python3
"""Trains a speech recogniser whose tokens learn from a text model.

A Conformer's frames become one vector a token by continuous integrate-and-fire
(CIF), and a decoder without cross-attention writes the tokens. A frozen text
model teaches both: the vectors must be more like their own teacher vectors than
like others (acoustic, contrastive), the decoder's states are drawn to them
(linguistic, by regression).

To run this recipe:
> python train.py hparams/hkd.yaml --data_folder=/path/to/LibriSpeech

Source: Han et al. 2023, "Knowledge Transfer from Pre-trained Language Models to
Cif-based Speech Recognizers via Hierarchical Distillation", and its published
code.

Authors
 * slu_kd_lobes authors
"""

import sys
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from prepare import prepare_pairs
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.utils.checkpoints import average_checkpoints
from speechbrain.utils.distributed import if_main_process, run_on_main
from torch.nn.functional import cross_entropy, ctc_loss

from slu_kd_lobes.data.batching import UtteranceDataset
from slu_kd_lobes.data.text_units import BLANK, TextUnits
from slu_kd_lobes.evaluation.written import WrittenErrors
from slu_kd_lobes.inference.recogniser_package import package_recogniser
from slu_kd_lobes.losses.asr import check_frames, quantity_loss
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
from slu_kd_lobes.utils.fingerprints import module_fingerprint


class RecogniserBrain(StudentBrain):
    """Trains the recogniser, and the heads that a teacher needs.

    It is also given the `recogniser`, the `features`, the `units`, the rows of
    all `utterances`, and with a teacher the `tokens`, a table of its vectors.
    """

    best = "wer"
    search = (1,)  # the width of the beam

    def compute_forward(self, batch, stage):
        """Returns what is recognised by a model that is told what was said."""
        size = int(batch.sizes.max())
        batch.targets = batch.targets[:, :size]
        if hasattr(batch, "rows"):
            batch.taught = self.tokens.targets(batch.rows, size)
        batch.to(self.device)
        features, lengths = self.features(batch.inputs, batch.lengths)
        if stage == sb.Stage.TRAIN and self.hparams.augment is not None:
            features = self.hparams.augment(features)
        said = batch.targets, batch.sizes
        found = self.modules.recogniser(features, lengths, *said)
        if stage != sb.Stage.TRAIN:
            self.write(found, batch)
        return found

    def compute_objectives(self, found, batch, stage):
        """Returns the sum of the terms, each for a token."""
        if stage == sb.Stage.TEST:  # what is written counts alone
            return torch.zeros(())
        hparams, targets = self.hparams, batch.targets
        path = found.ctc.transpose(0, 1), targets, found.lengths, batch.sizes
        terms = {"ctc": ctc_loss(*path, BLANK, "sum", zero_infinity=True)}
        inside = length_to_mask(batch.sizes, targets.shape[1]).bool()
        if found.scores is not None:
            errors = cross_entropy(
                found.scores.float().transpose(1, 2),
                targets,
                reduction="none",
                label_smoothing=hparams.label_smoothing,
            )
            terms["ce"] = (errors * inside).sum()
            weights = found.fired.weights
            if weights is not None:
                terms["quantity"] = quantity_loss(weights, batch.sizes)
        for name in hparams.distillation:
            acoustic = name == "acoustic"
            heard = found.fired.vectors if acoustic else found.states
            loss, head = hparams.distillation_losses[name], self.modules[name]
            terms[name] = loss(head(heard), batch.taught, inside)
        count = batch.sizes.sum()
        terms = {name: term / count for name, term in terms.items()}
        loss = sum(hparams.weights[name] * x for name, x in terms.items())
        self.log_terms(len(batch.indices), loss=loss, **terms)
        return loss

    @torch.no_grad()
    def write(self, found, batch):
        """Writes utterances, and counts what is wrong."""
        heard = self.recogniser.recognise(found.frames, found.lengths)
        written = self.recogniser.transcribe(heard, *self.search)
        rows = [self.utterances[number] for number in batch.numbers.tolist()]
        self.errors.append(
            [row["wav"] for row in rows],
            [self.units.decode_ids(row) for row in written],
            [row["transcription"] for row in rows],
        )

    def on_stage_start(self, stage, epoch=None):
        """Starts the statistics of what is written."""
        super().on_stage_start(stage, epoch)
        self.errors = WrittenErrors()

    def evaluation_stats(self):
        """Returns the means, and errors of words and characters in percent."""
        return {**self.means(), **self.errors.rates()}

    def on_fit_batch_start(self, batch, should_step):
        """Sets the learning rate of the step."""
        if should_step:
            self.schedule(self.optimizer, self.optimizer_step + 1)

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Takes the mean of several checkpoints, the best or the last."""
        super().on_evaluate_start(max_key=max_key, min_key=min_key)
        kept = self.checkpointer.find_checkpoints(
            max_key=max_key, min_key=min_key, max_num_checkpoints=self.keep
        )
        mean = average_checkpoints(kept, "recogniser")
        self.recogniser.load_state_dict(mean)


def check_distillation(hparams):
    """Refuses what cannot be taught, before any work."""
    kind, known = hparams["recogniser"], [*hparams["distillation_losses"]]
    for name in hparams["distillation"]:
        if name not in known or kind == "ctc":  # which has no tokens
            raise ValueError(
                f"distillation: '{name}' cannot be taught to the recogniser "
                f"'{kind}': choose of {', '.join(known)}, for cif or compressed"
            )


def dataio_prep(hparams, splits, features):
    """Builds the data sets, the units, and the table of the teacher."""
    cutter = hparams["make_cutter"]()
    run_on_main(features.build, [sum(splits.values(), [])])
    texts = {
        split: [row["transcription"] for row in rows]
        for split, rows in splits.items()
    }
    cut = {split: cutter.cut(said) for split, said in texts.items()}
    units, tokens, first = TextUnits.of(cut["train"], cutter.join), None, 0
    taught = {split: {} for split in splits}
    if hparams["distillation"]:
        model, known = hparams["token_model"], ("train", "valid")
        said = sum((texts[split] for split in known), [])
        tokens = model.table(said, features.device)
        for split in known:
            rows = torch.tensor(tokens.rows_of(texts[split]))
            model.check_same_tokens(texts[split], cut[split], tokens)
            taught[split] = {"rows": rows}
        if hparams["other_sentences"]:  # a control that must not help
            order = np.random.default_rng(hparams["seed"])
            order.shuffle(taught["train"]["rows"].numpy())
    datasets = {}
    for split, rows in splits.items():
        numbers = [torch.tensor(units.numbers(x)) for x in cut[split]]
        datasets[split] = UtteranceDataset(
            ids=[row["wav"] for row in rows],
            inputs=features.load(rows),
            numbers=torch.arange(first, first + len(rows)),
            targets=torch.nn.utils.rnn.pad_sequence(numbers, batch_first=True),
            sizes=torch.tensor([len(x) for x in numbers]),
            **taught[split],
        )
        first += len(rows)
    return datasets, units, tokens


def make_modules(hparams, encoder, units, tokens):
    """What trains: the recogniser, and a head for each kind of distillation.

    Heads are no part of the recogniser: without a teacher there are none.
    """
    recogniser = hparams["make_recogniser"](len(units), encoder)
    modules, size = {"recogniser": recogniser}, encoder.output_size
    if tokens is not None:
        width = tokens.outputs.shape[1] - 1  # beside the prior
        for name in hparams["distillation"]:
            modules[name] = torch.nn.Linear(size, width)
    return modules


def test_all(brain, hparams, datasets):
    """Tests by greedy and by beam search; returns what is wrong, by set."""
    found, searches = {}, {"greedy": (1,)}
    if hparams["recogniser"] != "ctc":
        make, width = hparams["make_scorer"], hparams["beam_size"]
        searches["beam"] = (width, make and make(brain.recogniser))
    for name in [x for x in datasets if x not in ("train", "valid")]:
        data, found[name] = datasets[name], {"n": len(datasets[name])}
        options = data.loader_options(hparams["test_batch_size"])
        for search, brain.search in searches.items():
            brain.test(data, hparams["test_epoch"], **options)
            found[name][search] = brain.evaluation_stats()
        found[name] |= found[name][search]  # of the wider search
        path = Path(hparams["output_folder"]) / f"wer_{name}.txt"
        run_on_main(brain.errors.write, [path])
    return found


def main(arguments):
    """Prepares, trains and tests."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, text = load_hparams(hparams_file, overrides)
        check_distillation(hparams)
        open_folder(hparams, text)
        splits = prepare_pairs(**hparams["speech"])
        front_end = hparams["make_front_end"]()
        features = hparams["make_features"](front_end, run_opts["device"])
        datasets, units, tokens = dataio_prep(hparams, splits, features)
        sb.utils.seed.seed_everything(hparams["seed"])
        size = front_end.feature_size * front_end.layers
        encoder = hparams["make_encoder"](input_size=size)
        advice = "leave a layer out of pool_after, or lower front_end_pool"
        for split, data in datasets.items():
            frames = encoder.frames_of(data.inputs.lengths)
            check_frames(split, data.columns["targets"], frames, advice)
        modules = make_modules(hparams, encoder, units, tokens)
        sources = {
            "units": units.fingerprint,
            "teacher": tokens and tokens.made_from,
            "front_end": module_fingerprint(front_end),
            "speech": [part.inputs.audio for part in datasets.values()],
        }
        start_or_resume(hparams, text, sources)

    brain = RecogniserBrain(
        modules,
        made_from=sources,
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
        train_logger=hparams["train_logger"],
    )
    brain.recogniser, brain.tokens = modules["recogniser"], tokens
    brain.features, brain.units = features, units
    brain.utterances, brain.keep = sum(splits.values(), []), hparams["average"]
    train, size = datasets["train"], hparams["batch_size"]
    frames, test_size = hparams["batch_frames"], hparams["test_batch_size"]
    options = train.loader_options(size, hparams["seed"], batch_frames=frames)
    valid = datasets["valid"]
    with one_sentence_errors():
        steps = brain.steps_of_epoch(len(options["batch_sampler"]))
        brain.schedule = hparams["make_schedule"](steps=steps)
        brain.fit(
            hparams["epoch_counter"],
            train,
            valid,
            train_loader_kwargs=options,
            valid_loader_kwargs=valid.loader_options(test_size),
        )
    tests = test_all(brain, hparams, datasets)
    if if_main_process():
        folder = Path(hparams["output_folder"]) / "recogniser"
        package_recogniser(folder, front_end, brain.recogniser, units, text)
        main_test = next(iter(tests), None)
        weights = brain.recogniser.parameters()
        facts = {
            "test": tests.get(main_test),
            "tests": tests,
            "main_test": main_test,
            "history": brain.history.epochs,
            "symbols": len(units),
            "parameters": sum(p.numel() for p in weights),
            "seconds": dict(brain.seconds),
            "made_from": sources,
        }
        path = write_metrics(hparams, facts)
        for name, stats in tests.items():
            print(f"{name}: {stats['wer']:.2f} % of words wrong")
        print(f"recogniser: {folder}\nmetrics: {path}")
    finish_run()


if __name__ == "__main__":
    main(sys.argv[1:])
