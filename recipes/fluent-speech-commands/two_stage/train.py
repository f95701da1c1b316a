#!/usr/bin/env python3
"""Trains a student by two-stage textual knowledge distillation.

Stage after stage, each in a folder of its own, and none a second time:

- `pt` or `pt_kd`: a BERT on audio tokens learns to name masked ones; with `_kd`
  it also learns a text encoder's vector of each utterance.
- `am_pt`: the acoustic model on top of it learns to write.
- `teacher`: a text encoder learns the slots from transcripts.
- `ft` or `ft_kd`: all of it learns the commands; with `_kd` the teacher's logits
  as well.

To run this recipe:
> python train.py hparams/two_stage.yaml --stages=pt_kd,am_pt,teacher,ft_kd \
>     --data_folder=/path/to/fluent_speech_commands_dataset \
>     --speech_folder=/path/to/LibriSpeech

Source: Kim et al. 2020, "Two-stage Textual Knowledge Distillation for
End-to-End Spoken Language Understanding".

Authors
 * slu_kd_lobes authors
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import finetune
from filelock import FileLock
from prepare import prepare_fsc
from speechbrain.utils.distributed import is_distributed_initialized
from torch import get_num_threads

from slu_kd_lobes.training.hparams import complete_yaml, load_hparams, settings
from slu_kd_lobes.training.run_folder import (
    SHAPES_NO_NUMBER,
    one_sentence_errors,
    open_folder,
    parse_arguments,
    split_arguments,
)
from slu_kd_lobes.utils.command_line import typed
from slu_kd_lobes.utils.fingerprints import fingerprint

PRETRAINING = Path(__file__).resolve().parents[2] / (
    "LibriSpeech/two_stage_pretraining"
)
#: What trains the stages of it.
SCRIPTS = {
    "pt": ("train.py", "hparams/base.yaml"),
    "pt_kd": ("train.py", "hparams/base.yaml"),
    "am_pt": ("train_ctc.py", "hparams/am_pt.yaml"),
}
#: What shapes a model of a stage, and so the name of its folder, although it
#: shapes no number of a run: places by their content, and the epoch that is kept.
ALSO_SHAPES = (
    "data_folder other_folder text_encoder tokeniser_source kmeans_source "
    "test_epoch"
).split()
#: Stages in their order; one of each line.
ORDER = (("pt", "pt_kd"), ("am_pt",), ("teacher",), ("ft", "ft_kd"))


def stages_of(text):
    """The stages that are wanted, in their order."""
    names = text.replace(",", " ").split()
    known = [name for line in ORDER for name in line]
    places = [known.index(name) for name in names if name in known]
    lines = [[name for name in names if name in line] for line in ORDER]
    if (
        len(places) < len(names)
        or places != sorted(places)
        or any(len(line) > 1 for line in lines)
        or not lines[0]
    ):
        raise ValueError(
            f"stages is '{text}': choose, in this order, pt or pt_kd, then of "
            "am_pt, teacher, and ft or ft_kd"
        )
    return names


def keys_of(stage, hparams):
    """Keys that the script of a stage is given."""
    keys = dict(hparams["pretraining"])
    if stage == "am_pt":
        for key in ("acoustic", "encoder_dropout"):  # those of the student
            keys[key] = hparams[key]
        return keys | hparams["acoustic_pretraining"]
    keys |= hparams["token_pretraining"]
    return keys | (hparams["utterance_matching"] if stage == "pt_kd" else {})


def complete(stage, keys):
    """The complete YAML of a stage, what is typed, and what shapes a model."""
    yaml = str(PRETRAINING / SCRIPTS[stage][1])
    texts = {key: typed(absolute(key, x)) for key, x in keys.items()}
    named = {
        key: value
        for key, value in settings(complete_yaml(yaml, texts)).items()
        if key not in SHAPES_NO_NUMBER or key in ALSO_SHAPES
    }
    return yaml, texts, named


def pretrain(stage, keys, options, folder, after=""):
    """Runs a script of pre-training in a folder named after its settings.

    They are those of the stages before it, too. A finished one says so and
    ends; one that was cut short goes on.
    """
    yaml, texts, named = complete(stage, keys)
    name = f"{stage}-{fingerprint([after, named])[:12]}"
    place = Path(folder).resolve() / name
    texts |= {"config": stage, "output_folder": str(place)}
    command = [sys.executable, SCRIPTS[stage][0], yaml, *options]
    command += [f"--{key}={value}" for key, value in texts.items()]
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f".{name}.lock")):
        print(f"stage: {name}", flush=True)
        # Its share of the cores, and its output, are those of this process.
        variables = {**os.environ, "OMP_NUM_THREADS": str(get_num_threads())}
        code = subprocess.run(
            command,
            cwd=PRETRAINING,
            env=variables,
            stdout=sys.stdout,
            stderr=sys.stderr,
        ).returncode
    if code:
        raise SystemExit(
            f"error: {name} failed; it said above why. To begin that stage "
            f"anew, delete {place}"
        )
    return place


def absolute(key, value):
    """A path for a script that runs elsewhere; other values as they are."""
    is_text = isinstance(value, str)
    if is_text and (key.endswith("_folder") or os.path.exists(value)):
        return os.path.abspath(value)
    return value


def check(hparams, text, stages):
    """Refuses what a later stage would refuse, before hours of work."""
    if hparams["speech_folder"] is None:
        raise ValueError(
            "speech_folder: give a folder of transcribed speech, such as "
            "LibriSpeech"
        )
    if is_distributed_initialized():
        raise ValueError(
            "the stages are started in one process: give torchrun the script "
            "of each, one after the other"
        )
    for stage in stages:
        if stage in SCRIPTS:
            complete(stage, keys_of(stage, hparams))
    if stages[-1] not in SCRIPTS:
        prepare_fsc(**hparams["corpus"])
        finetune.chosen_text_models(hparams)
        open_folder(hparams, text)


def main(arguments):
    """Runs the stages."""
    with one_sentence_errors():
        hparams_file, run_opts, overrides = parse_arguments(arguments)
        hparams, _ = load_hparams(hparams_file, overrides)
        stages = stages_of(hparams["stages"])
        given = {"teachers": "[teacher]" if "ft_kd" in stages else "[]"}
        hparams, text = load_hparams(hparams_file, overrides | given)
        check(hparams, text, stages)
    options = split_arguments(arguments, run_opts.as_dict())[0][1:]
    folder = hparams["pretraining_folder"]
    for stage in stages:
        with one_sentence_errors():
            if stage in ("pt", "pt_kd"):
                place = pretrain(
                    stage, keys_of(stage, hparams), options, folder
                )
                given["token_encoder"] = str(place / "encoder")
            elif stage == "am_pt":
                keys = keys_of(stage, hparams)
                keys["token_encoder"] = given["token_encoder"]
                place = pretrain(stage, keys, options, folder, place.name)
                given["acoustic_model"] = str(place / "acoustic.safetensors")
            elif stage == "teacher":
                manifests = prepare_fsc(**hparams["corpus"])
                hparams["text_models"]["teacher"].table(manifests, run_opts)
            else:
                typed_too = [f"--{key}={value}" for key, value in given.items()]
                finetune.main(arguments + typed_too)


if __name__ == "__main__":
    # A stage ends with the command that started it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main(sys.argv[1:])
