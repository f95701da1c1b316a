#!/usr/bin/env python3
"""Trains many students at once, each as `train.py` would train it alone.

Several configurations and seeds share one process: the data are prepared and
the frozen encoder and the teachers run once for all. Students whose utterances
come in the same order (`shuffle_seed`) also share the pass over the data.

To run this recipe:
> python train_many.py hparams/baseline.yaml \
>     hparams/distill_hybrid_mae_err.yaml --seeds 1234 1235 1236
> python train_many.py hparams/baseline.yaml --seeds 1 2 3 \
>     --shuffle_seed=0 --results=results/same_order

The student of hparams/<config>.yaml with seed S is left in
<results>/<config>/S. With `--workers N`, N students take their steps at the
same time and share out the threads, of which OMP_NUM_THREADS is the number:
each has the numbers that it would have alone with a share of them. What else
is given replaces keys of all configurations.

Authors
 * slu_kd_lobes authors
"""

import argparse
import sys
import time
from itertools import product
from pathlib import Path

from speechbrain.utils.distributed import is_distributed_initialized

from slu_kd_lobes.hparams import (
    differing_keys,
    load_hparams,
    one_sentence_errors,
    plain_values,
    split_overrides,
)
from slu_kd_lobes.together import fit_together
from train import (
    load_data,
    make_brain,
    make_loaders,
    open_run,
    parse_arguments,
    table_names,
    write_outputs,
)

# What students may differ in; the rest shapes data that they can share.
OWN_KEYS = (
    "seed __set_seed shuffle_seed config output_folder save_folder train_log "
    "tensorboard_folder manifest_folder teachers teacher_control kd_distance "
    "teacher_weights distillation kd_schedule matching ce_loss "
    "number_of_epochs batch_size lr test_epoch student opt_class epoch_counter "
    "train_logger checkpointer"
).split()


def check_shareable(students, texts):
    """Refuses students that cannot share data and encoder."""
    if any(student["unfreezing"].trains for student in students):
        raise ValueError(
            "an encoder that unfreezes belongs to one student: use train.py, "
            "or leave unfreezing at Frozen"
        )
    if is_distributed_initialized():
        raise ValueError(
            "many students train in one process: start train_many.py without "
            "torchrun"
        )
    first = plain_values(texts[0])
    for text in texts[1:]:
        differing = differing_keys(first, plain_values(text), OWN_KEYS)
        if differing:
            raise ValueError(
                "the configurations differ in what students trained together "
                f"must share ({', '.join(differing)}): train them apart"
            )


def main(arguments):
    """Prepares once, trains all, and tests each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("configs", nargs="+", metavar="hparams/CONFIG.yaml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1234])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--results", default="results", metavar="FOLDER")
    own = ["--seeds", "--workers", "--results"]
    arguments, overrides = split_overrides(arguments, own)
    options, rest = parser.parse_known_args(arguments)
    rest += overrides
    with one_sentence_errors():
        if options.workers < 1:
            raise ValueError("--workers must be at least 1")
        students, texts = [], []
        for config, seed in product(options.configs, options.seeds):
            folder = f"{options.results}/{Path(config).stem}/{seed}"
            own = [f"--seed={seed}", f"--output_folder={folder}"]
            _, run_opts, overrides = parse_arguments([config, *own, *rest])
            hparams, text = load_hparams(config, overrides)
            if students:  # the first one's encoder serves all
                del hparams["encoder"], hparams["pretrainer"]
            students.append(hparams)
            texts.append(text)
        check_shareable(students, texts)
        for student, text in zip(students, texts):
            open_run(student["output_folder"], text)
        tables = dict.fromkeys(n for s in students for n in table_names(s))
        data = load_data(students[0], tables, run_opts)
    brains = [make_brain(student, data, run_opts) for student in students]
    orders = {}
    for student in students:
        order = student["shuffle_seed"], student["batch_size"]
        if order not in orders:
            orders[order] = make_loaders(student, data.datasets)
        student["loaders"] = orders[order]
    start = time.perf_counter()
    loaders = zip(*(student["loaders"] for student in students))
    fit_together(brains, *loaders, workers=options.workers)
    seconds = {
        **data.seconds,
        "train": time.perf_counter() - start,
        "students": len(students),
    }
    for student, brain in zip(students, brains):
        print(f"\n{student['config']}, seed {student['seed']}:")
        write_outputs(student, brain, seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
