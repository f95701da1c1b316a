"""The command of a recipe's experiments.py: trains what matrices lack.

A recipe hands over its scripts; nothing here knows what they train.
"""

import argparse
import logging
import os
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import joblib

from slu_kd_lobes.experiments.execution import (
    Script,
    execute_all,
    local_pool,
    ray_pool,
    run_plans,
)
from slu_kd_lobes.experiments.figures import draw_figures
from slu_kd_lobes.experiments.matrix import (
    SYSTEMS_FILE,
    check_tests,
    read_matrix,
)
from slu_kd_lobes.experiments.outcomes import Outcome, records_of
from slu_kd_lobes.experiments.records import (
    Records,
    merged,
    read_records,
    write_records,
)
from slu_kd_lobes.experiments.report import write_html
from slu_kd_lobes.experiments.runs import runs_of
from slu_kd_lobes.experiments.tables import make_tables
from slu_kd_lobes.training.run_folder import (
    one_sentence_errors,
    split_arguments,
)
from slu_kd_lobes.utils.files import write_text

__all__ = ["Script", "main", "parse"]

OPTIONS = (
    "data_folder csv_folder results report workers ray_address only_report "
    "tables html help"
).split()


def parse(arguments):
    """Reads the command line.

    Arguments
    ---------
    arguments : list of str

    Returns
    -------
    options : argparse.Namespace
        The program's own.
    overrides : dict
        Typed text by key of all runs, or by variable of a matrix.

    Raises
    ------
    ValueError
        If an option is wrong.

    Example
    -------
    >>> options, overrides = parse(["a.yaml", "--data_folder=c", "--lr=0.1"])
    >>> options.data_folder, overrides
    ('c', {'lr': '0.1'})
    """
    parser = argparse.ArgumentParser(
        prog="python experiments.py",
        description="Trains what matrices of runs lack, and writes tables.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "matrices", nargs="+", type=Path, metavar="experiments/NAME.yaml"
    )
    home = os.path.expanduser  # a shell leaves what follows = alone
    parser.add_argument("--data_folder", type=home, help="the corpus")
    parser.add_argument("--csv_folder", type=home, help="its CSV files")
    parser.add_argument(
        "--results",
        type=lambda text: Path(home(text)),
        default=Path("results"),
        help="of the runs",
    )
    parser.add_argument(
        "--report",
        type=lambda text: Path(home(text)),
        default=Path(),
        help="folder whose 'results' takes tables and figures",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=joblib.cpu_count(),
        help="runs at the same time (default: one a core)",
    )
    parser.add_argument("--ray-address", help="use this Ray cluster, or auto")
    parser.add_argument(
        "--only-report", action="store_true", help="train nothing"
    )
    parser.add_argument(
        "--tables",
        action="store_true",
        help="make the tables alone, from the files in results",
    )
    parser.add_argument(
        "--html", action="store_true", help="write results/report.html too"
    )
    arguments, overrides = split_arguments(arguments, OPTIONS)
    options = parser.parse_args(arguments)
    if options.workers < 1:
        raise ValueError("--workers must be at least 1")
    if not (options.data_folder or options.tables):
        raise ValueError(
            "where is the corpus? Give --data_folder=/path/to/corpus, or "
            "--tables to make the tables alone"
        )
    return options, overrides


def main(arguments, scripts, folder):
    """Reads the matrices, trains what is missing, writes what it shows.

    Arguments
    ---------
    arguments : list of str
        The command line.
    scripts : dict
        `Script` by the name that matrices give it.
    folder : str or Path
        Of the recipe; configurations are relative to it.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    paths, failed = [], {}
    with one_sentence_errors():
        options, overrides = parse(arguments)
        matrices = read_matrices(options.matrices)
        target = options.report / "results"
        if not options.tables:
            there = (target / "runs.csv").is_file()
            old = read_records(target) if there else Records()
            runs = runs_of_all(matrices, options, overrides)
            runs = train_first(runs, options, scripts, folder)
            jobs = plan_all(matrices, runs, options, scripts, folder)
            if not options.only_report:
                every = [job for part in jobs.values() for job in part]
                failed = execute_all(every, pool_of(options))
            outcomes = {
                name: list(map(Outcome.read, runs[name], jobs[name]))
                for name in runs
            }
            # What the files that are there say of other matrices is kept.
            records = merged(old, records_of(outcomes), list(outcomes))
            paths += write_records(target, records)
            for matrix in matrices:
                paths += draw_figures(
                    matrix, outcomes[matrix.name], target / "figures"
                )
        tables = make_tables(matrices, target)
        for path, text in tables.items():
            write_text(path, text)
            paths.append(path)
        if options.html:
            made = {path.stem for path in tables}
            shown = [matrix for matrix in matrices if matrix.name in made]
            paths.append(write_html(target, shown))
    for path in paths:
        print(path)
    if failed:
        sys.exit(f"{len(failed)} runs failed; the first: {failed.popitem()[1]}")


def read_matrices(paths):
    """Reads matrices, each of a name of its own.

    Arguments
    ---------
    paths : list of Path
        That of the systems is passed over: ``experiments/*.yaml`` names it.

    Returns
    -------
    list of Matrix

    Raises
    ------
    ValueError
        If two have one name, or there is none.
    """
    paths = [path for path in paths if path.name != SYSTEMS_FILE]
    matrices = [read_matrix(path) for path in paths]
    names = [matrix.name for matrix in matrices]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two matrices have the name '{twice[0]}': rename one")
    if not matrices:
        raise ValueError(f"{SYSTEMS_FILE} is no matrix of runs")
    return matrices


def pool_of(options):
    """Where runs are trained."""
    if options.ray_address:
        return ray_pool(options.ray_address)
    return local_pool(options.workers)


def runs_of_all(matrices, options, overrides):
    """Lists of Run by name of the matrix; see `main`."""
    if not os.path.isdir(options.data_folder):
        raise ValueError(
            f"there is no folder {options.data_folder}: unpack the corpus "
            "there, or correct --data_folder"
        )
    variables = {name for matrix in matrices for name in matrix.variables}
    runs = {}
    for matrix in matrices:
        others = variables - set(matrix.variables)
        keys = {k: v for k, v in overrides.items() if k not in others}
        corpus = options.data_folder, options.csv_folder
        made = options.results.resolve()
        runs[matrix.name] = runs_of(matrix, *corpus, keys, made)
    return runs


def train_first(runs, options, scripts, folder):
    """Trains what other runs need; returns the runs with its folders.

    Arguments
    ---------
    runs : dict
        Lists of Run by name of the matrix.
    options : argparse.Namespace
    scripts : dict
    folder : str or Path
        See `main`.

    Returns
    -------
    dict
        As `runs`.

    Raises
    ------
    ValueError
        If one of them fails.
    """
    needing = [r for part in runs.values() for r in part if r.first is not None]
    # Systems and conditions share them.
    firsts = {_command(run.first): run.first for run in needing}
    made = options.results.resolve()
    jobs = run_plans(list(firsts.values()), scripts, folder, made)
    if not options.only_report:
        failed = execute_all(jobs, pool_of(options))
        if failed:
            raise ValueError(
                f"{len(failed)} runs that others need failed; the first: "
                f"{failed.popitem()[1]}"
            )
    places = dict(zip(firsts, (str(job.folder) for job in jobs)))
    return {
        name: [_placed(run, places) for run in part]
        for name, part in runs.items()
    }


def _placed(run, places):
    """A run that knows the folder of what it needs, by the command of that."""
    if run.first is None:
        return run
    place = places[_command(run.first)]
    texts = {k: v.replace("<first>", place) for k, v in run.overrides.items()}
    return replace(run, overrides=texts)


def _command(run):
    """What is typed for a run."""
    return str([run.script, run.config, sorted(run.overrides.items())])


def plan_all(matrices, runs, options, scripts, folder):
    """Makes ready what all runs need.

    Arguments
    ---------
    matrices : list of Matrix
    runs : dict
        Lists of Run by name of the matrix.
    options : argparse.Namespace
    scripts : dict
    folder : str or Path
        See `main`.

    Returns
    -------
    dict
        Lists of Job by name of the matrix.
    """
    every = [run for part in runs.values() for run in part]
    made = options.results.resolve()
    left = iter(run_plans(every, scripts, folder, made))
    jobs = {name: list(islice(left, len(part))) for name, part in runs.items()}
    for matrix in matrices:
        manifests = [job.manifests for job in jobs[matrix.name]]
        check_tests(matrix, {name for m in manifests for name in m.splits})
    return jobs
