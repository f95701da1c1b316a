"""Trains what a matrix of runs lacks, and writes the report.

> python -m slu_kd_lobes.experiments experiments/table1.yaml \
>     --data_folder=/path/to/corpus
> python -m slu_kd_lobes.experiments experiments/*.yaml \
>     --data_folder=/path/to/corpus --workers 8 --report my_report

Stopped at any moment, the same command goes on. What else is given, such as
--text_encoder=bert-base-uncased, replaces a key of all runs.
"""

import argparse
import logging
import sys
from itertools import islice
from pathlib import Path

import joblib

from slu_kd_lobes.bundled import bundled
from slu_kd_lobes.experiments.execution import (
    execute_all,
    identify_all,
    local_pool,
    ray_pool,
)
from slu_kd_lobes.experiments.matrix import check_tests, read_matrix, runs_of
from slu_kd_lobes.experiments.outcomes import read_outcomes
from slu_kd_lobes.experiments.report import write_report
from slu_kd_lobes.hparams import one_sentence_errors, split_overrides

OPTIONS = (
    "--data_folder --csv_folder --results --report --workers --ray-address "
    "--recipe"
).split()


def parse(arguments):
    """The options, and what replaces keys of all runs."""
    parser = argparse.ArgumentParser(
        prog="python -m slu_kd_lobes.experiments",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("matrices", nargs="+", metavar="experiments/NAME.yaml")
    parser.add_argument("--data_folder", required=True, help="the corpus")
    parser.add_argument("--csv_folder", help="CSV files of the corpus")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="of the runs"
    )
    parser.add_argument(
        "--report", type=Path, default=Path(), help="folder of RESULTS.md"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=joblib.cpu_count(),
        help="runs at the same time (default: one a core)",
    )
    parser.add_argument("--ray-address", help="use this Ray cluster, or auto")
    parser.add_argument(
        "--recipe",
        type=Path,
        default=Path(bundled("recipes/fluent-speech-commands/distillation")),
        help="folder of the scripts",
    )
    parser.add_argument(
        "--only-report", action="store_true", help="train nothing"
    )
    arguments, rest = split_overrides(arguments, OPTIONS)
    options = parser.parse_args(arguments)
    overrides = dict(item.removeprefix("--").split("=", 1) for item in rest)
    if options.workers < 1:
        raise ValueError("--workers must be at least 1")
    return options, overrides


def main(arguments):
    """Reads the matrices, trains what is missing, writes the report."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with one_sentence_errors():
        options, overrides = parse(arguments)
        results = options.results.resolve()
        matrices = [read_matrix(path) for path in options.matrices]
        variables = {name for matrix in matrices for name in matrix.variables}
        runs = []
        for matrix in matrices:
            others = variables - set(matrix.variables)
            own = {k: v for k, v in overrides.items() if k not in others}
            data = options.data_folder, options.csv_folder
            runs.append(runs_of(matrix, *data, own, results))
        everything = [run for part in runs for run in part]
        jobs = identify_all(everything, options.recipe, results)
        left = iter(jobs)
        jobs_of = [list(islice(left, len(part))) for part in runs]
        for matrix, own in zip(matrices, jobs_of):
            check_tests(matrix, {job["manifests"] for job in own})
        pool = local_pool(options.workers)
        if options.ray_address:
            pool = ray_pool(options.ray_address)
        failed = {} if options.only_report else execute_all(jobs, pool)
    outcomes = [read_outcomes(*each) for each in zip(runs, jobs_of)]
    for path in write_report(options.report, matrices, outcomes):
        print(path)
    if failed:
        sys.exit(f"{len(failed)} runs failed; the first: {failed.popitem()[1]}")


if __name__ == "__main__":
    main(sys.argv[1:])
