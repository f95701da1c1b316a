#!/usr/bin/env python3
"""Trains what a matrix of runs lacks, and writes its tables and figures.

To run all of a question's runs, or of several:
> python experiments.py experiments/table1.yaml --data_folder=/path/to/corpus
> python experiments.py experiments/*.yaml --data_folder=/path/to/corpus \
>     --workers 8 --report my_report

Stopped at any moment, the same command goes on. What else is given, such as
--text_encoder=bert-base-uncased, replaces a key of all runs. The tables alone,
from the files in results, without a corpus:
> python experiments.py experiments/*.yaml --tables

Authors
 * slu_kd_lobes authors
"""

import logging
import runpy
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from prepare import prepare_fsc
from tqdm import tqdm

import cascade
import train
from slu_kd_lobes.experiments import engine
from slu_kd_lobes.training.hparams import load_hparams, settings
from slu_kd_lobes.training.run_folder import SHAPES_NO_NUMBER, parse_arguments
from slu_kd_lobes.utils.fingerprints import (
    file_fingerprint,
    fingerprint,
    model_fingerprint,
)

RECIPES = Path(__file__).resolve().parents[2]
PAD = RECIPES / "LibriSpeech" / "PAD"
TWO_STAGE = RECIPES / "fluent-speech-commands" / "two_stage"
STAGE_ONE = RECIPES / "LibriSpeech" / "two_stage_pretraining"

#: Of a part of a corpus that is no file, such as one of LibriSpeech; a guess
#: that orders the runs.
UTTERANCES = 10_000


class Once(dict):
    """What several runs share, made for the first of them.

    Example
    -------
    >>> once = Once()
    >>> once("letters", list, "xy"), once("letters", list, "z")
    (['x', 'y'], ['x', 'y'])
    """

    def __call__(self, key, make, *arguments):
        """Returns what `make` makes of the arguments, or made of this key."""
        key = repr(key)
        if key not in self:
            self[key] = make(*arguments)
        return self[key]


def load(run):
    """Objects, complete YAML and options of a run without a folder."""
    logging.getLogger("speechbrain.utils.seed").setLevel(logging.WARNING)
    config, run_opts, overrides = parse_arguments(run)
    # Loading makes the output folder, which has no name yet.
    with tempfile.TemporaryDirectory() as folder:
        overrides["output_folder"] = folder
        return *load_hparams(config, overrides), run_opts


def plan(text, sources, manifests, utterances):
    """All that shapes a run; see :class:`engine.Script`."""
    tests = {}
    if manifests is not None:
        names = ["valid", *manifests.tests]
        tests = {
            "sets": [[name, manifests.fingerprint(name)] for name in names],
            "slots": manifests.schema.fingerprint,
        }
    return {
        "settings": {
            key: value
            for key, value in settings(text).items()
            if key not in SHAPES_NO_NUMBER
        },
        "sources": sources,
        "tests": tests,
        "utterances": utterances,
        "manifests": manifests,
    }


def plan_students(runs):
    """Prepares, encodes and fine-tunes what runs of train.py share.

    Arguments
    ---------
    runs : list of list of str
        Command lines.

    Returns
    -------
    list of dict
        A plan for each.
    """
    once, plans = Once(), []
    for run in tqdm(runs, "preparing students", ncols=79):
        hparams, text, run_opts = load(run)
        corpus, encoder = hparams["corpus"], hparams["make_encoder"]
        manifests = once(corpus, lambda: prepare_fsc(**corpus))
        key = encoder, hparams["make_features"]
        features = once(key, key[1], once(encoder, encoder), run_opts["device"])
        # An encoder is hashed, and a corpus encoded, once for all its runs.
        sources, size = once((key, corpus), share, features, manifests)
        tables = {
            name: once([vars(model), corpus], model.table, manifests, run_opts)
            for name, model in train.chosen_text_models(hparams).items()
        }
        taught = {name: table.made_from for name, table in tables.items()}
        sources = {**sources, "tables": taught}
        utterances = size * hparams["number_of_epochs"]
        plans.append(plan(text, sources, manifests, utterances))
    return plans


def share(features, manifests):
    """Encodes a corpus; fingerprints without tables, and training's size."""
    rows = {split: manifests.read(split) for split in manifests.splits}
    features.build(sum(rows.values(), []))
    return train.made_from(manifests, features, {}), len(rows["train"])


def plan_cascades(runs):
    """Transcribes what runs of cascade.py share; see `plan_students`."""
    once, plans = Once(), []
    for run in tqdm(runs, "preparing cascades", ncols=79):
        hparams, text, _ = load(run)
        key = [hparams["corpus"], hparams["make_recogniser"]]
        manifests, heard = once(key, cascade.prepare, hparams)
        sources = {
            "train data": manifests.fingerprint("train"),
            "transcripts": fingerprint(heard),
            "text_encoder": model_fingerprint(hparams["text_encoder"]),
        }
        plans.append(plan(text, sources, manifests, 0))
    return plans


# What another recipe does


@contextmanager
def modules_of(folder):
    """Lets scripts of another recipe import what has the same names there."""
    names = {path.stem for path in folder.glob("*.py")}
    hidden = {name: sys.modules.pop(name) for name in names & {*sys.modules}}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in names & {*sys.modules}:
            del sys.modules[name]
        sys.modules.update(hidden)


def run_script(path, arguments):
    """Runs a script of another recipe."""
    with modules_of(path.parent):
        runpy.run_path(str(path))["main"](arguments)


def list_of(folder, part):
    """The file that lists a part of a corpus; None for one of LibriSpeech."""
    paths = (Path(folder, f"{part}.{kind}") for kind in ("jsonl", "csv"))
    return next((path for path in paths if path.is_file()), None)


def pairs_of(*corpora):
    """What lists the speech of corpora, and how many utterances there are.

    Arguments
    ---------
    corpora : tuple of tuple
        Folder and parts by split of each.
    """
    pairs, count = [], 0
    for folder, splits in corpora:
        for split, parts in sorted(splits.items()):
            for part in parts:
                file = list_of(folder, part)
                pairs.append([split, file_fingerprint(file) if file else part])
                count += file.read_bytes().count(b"\n") if file else UTTERANCES
    return pairs, count


def plan_pairs(runs, models_of):
    """Finds what runs on speech and transcripts are made from.

    Arguments
    ---------
    runs : list of list of str
        Command lines.
    models_of : callable
        From keys of a run to fingerprints of the models that it reads.

    Returns
    -------
    list of dict
        A plan for each.
    """
    plans = []
    for run in runs:
        hparams, text, _ = load(run)
        pairs, count = pairs_of(
            (hparams["data_folder"], hparams["splits"]),
            (hparams["other_folder"], hparams["other_splits"]),
        )
        sources = {"pairs": pairs, **models_of(hparams)}
        utterances = count * hparams["number_of_epochs"]
        plans.append(plan(text, sources, None, utterances))
    return plans


def models_aligned(hparams):
    """Fingerprints of both models of an alignment."""
    keys = "speech_model", "text_model"
    return {key: model_fingerprint(hparams[key]) for key in keys}


def models_of_tokens(hparams):
    """Fingerprints of what makes tokens, and of the text encoder."""
    own = hparams["tokeniser"] == "kmeans"
    key = "kmeans_source" if own else "tokeniser_source"
    return {k: model_fingerprint(hparams[k]) for k in (key, "text_encoder")}


def plan_two_stage(runs):
    """Finds what all stages are made from; see `plan_students`."""
    once, plans = Once(), []
    for run in runs:
        hparams, text, _ = load(run)
        corpus = hparams["corpus"]
        manifests = once(corpus, lambda: prepare_fsc(**corpus))
        pairs, _ = pairs_of(
            (hparams["speech_folder"], hparams["speech_splits"]),
            (hparams["other_folder"], hparams["other_splits"]),
        )
        sources = {
            "pairs": pairs,
            "train data": manifests.fingerprint("train"),
            **models_of_tokens(hparams),
        }
        size = len(manifests.read("train"))
        utterances = size * hparams["number_of_epochs"]
        plans.append(plan(text, sources, manifests, utterances))
    return plans


def plan_typed(runs):
    """Prepares what tests of typed commands share; see `plan_students`."""
    once, plans = Once(), []
    for run in runs:
        hparams, text, _ = load(run)
        corpus = hparams["corpus"]
        manifests = once(corpus, lambda: prepare_fsc(**corpus))
        # What a model is made from stands beside it.
        model = hparams.get("alignment") or hparams["pretrained"]
        sources = {"model": file_fingerprint(Path(model) / "made_from.json")}
        plans.append(plan(text, sources, manifests, 0))
    return plans


SCRIPTS = {
    "train.py": engine.Script(
        train.main,
        plan_students,
        {
            "feature_folder": "features",
            "teacher_folder": "teachers",
            "manifest_folder": "manifests",
        },
    ),
    "cascade.py": engine.Script(
        cascade.main,
        plan_cascades,
        {"transcript_folder": "transcripts", "manifest_folder": "manifests"},
    ),
    "align.py": engine.Script(
        partial(run_script, PAD / "train.py"),
        partial(plan_pairs, models_of=models_aligned),
        {"feature_folder": "features", "token_folder": "tokens"},
    ),
    "typed_commands.py": engine.Script(
        partial(run_script, PAD / "typed_commands.py"),
        plan_typed,
        {"feature_folder": "features", "manifest_folder": "manifests"},
    ),
    "two_stage.py": engine.Script(
        partial(run_script, TWO_STAGE / "train.py"),
        plan_two_stage,
        {
            "feature_folder": "features",
            "teacher_folder": "teachers",
            "manifest_folder": "manifests",
            "pretraining_folder": "pretraining",
        },
    ),
    "pretrain.py": engine.Script(
        partial(run_script, STAGE_ONE / "train.py"),
        partial(plan_pairs, models_of=models_of_tokens),
        {"feature_folder": "features", "teacher_folder": "teachers"},
    ),
    "typed_by_tokens.py": engine.Script(
        partial(run_script, STAGE_ONE / "typed_commands.py"),
        plan_typed,
        {"feature_folder": "features", "manifest_folder": "manifests"},
    ),
}

if __name__ == "__main__":
    engine.main(sys.argv[1:], SCRIPTS, Path(__file__).resolve().parent)
