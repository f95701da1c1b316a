"""Tables in Markdown, from tidy records and what a matrix declares alone."""

import os
from collections import defaultdict
from pathlib import Path

import numpy as np

from slu_kd_lobes.experiments.comparisons import (
    compare,
    correct_for_many,
    length_groups,
    shares,
    summarise,
)
from slu_kd_lobes.experiments.matrix import check_tests
from slu_kd_lobes.experiments.records import read_records
from slu_kd_lobes.utils.environment import ROOT

LEGEND = """\
*Error*: utterances with a wrong slot, in percent, of the last epoch, or of the
best one where that is the configuration's `test_epoch`; mean ± standard
deviation over runs (draws of the training data, or seeds). *Best epoch*: the
same, of the epoch with the lowest validation error. *Errors*: mean number of a
run, and the 95 % Wilson interval of its rate. *Difference*: to the reference,
over the same draws and seeds, with the 95 % interval and p of the paired t
test; *p, adjusted*: for all comparisons of the table (Benjamini and Hochberg).
*Over speakers*, *over wordings*: 95 % interval of the difference when
speakers, or wordings, of the test set are drawn anew (bootstrap). *McNemar*:
exact, on the same utterances; median p of the pairs of runs. *NLL* and *ECE*:
negative log likelihood in nats and expected calibration error. A difference
whose intervals hold 0 is not shown to be one. A system with * is its
configuration with the overrides in `systems.yaml`."""

TEACHERS = """\
*Beyond two numbers*: share of the variance of a teacher's logits, over the
training transcripts, that is left when one number stands for the true values
and another for the rest. *Beyond the intent*: when the mean over the
transcripts of an intent stands for each; all that a teacher says of a single
wording."""

COLUMNS = (
    "system",
    "error %",
    "runs",
    "best epoch",
    "errors",
    "difference",
    "p",
    "p, adjusted",
    "over speakers",
    "over wordings",
    "McNemar",
    "NLL",
    "ECE",
    "paper",
)


def make_tables(matrices, folder):
    """Makes the tables of matrices from the tidy files of a folder.

    Arguments
    ---------
    matrices : list of Matrix
    folder : str or Path
        With the files of :mod:`slu_kd_lobes.experiments.records`.

    Returns
    -------
    dict
        Text of ``tables/<matrix>.md`` of each that has runs, by path.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If one is damaged, none has a run of these matrices, or no run has a
        test set that a matrix shows.
    """
    records = read_records(folder)
    ran = {row["matrix"] for row in records.runs}
    if not any(matrix.name in ran for matrix in matrices):
        raise ValueError(
            f"{folder} holds no run of {', '.join(m.name for m in matrices)}: "
            "train some with --data_folder=... and without --tables"
        )
    matrices = [matrix for matrix in matrices if matrix.name in ran]
    for matrix in matrices:
        rows = [row for row in records.runs if row["matrix"] == matrix.name]
        check_tests(matrix, {row["test_set"] for row in rows} - {""})
    tables = Path(folder) / "tables"
    return {
        tables / f"{matrix.name}.md": page(matrix, records, tables)
        for matrix in matrices
    }


def page(matrix, records, folder):
    """All tables of a matrix.

    Arguments
    ---------
    matrix : Matrix
    records : Records
    folder : Path
        Which links are relative to.

    Returns
    -------
    str
        Markdown.
    """
    results = records.results(matrix.name)
    lines = []
    for part in (
        f"# {matrix.title}",
        matrix.about.strip(),
        _made_with(records, results),
        LEGEND,
    ):
        lines += [part, ""] if part else []
    for condition in matrix.conditions:
        systems = {
            system: results[condition, system]
            for system in matrix.systems
            if (condition, system) in results
        }
        lines += _condition(matrix, condition, systems, records, folder)
    rows = teacher_rows(records, matrix)
    if rows:
        lines += ["## What the teachers say beyond the labels", ""]
        lines += [TEACHERS, "", *_table(rows), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _made_with(records, results):
    """One sentence on the runs, commits and versions."""
    runs = {
        result.run: result
        for cell in results.values()
        for result in cell
        if result.scores
    }
    if not runs:
        return "No run is finished."
    commits = sorted({result.commit for result in runs.values()})
    versions = {
        f"{name} {version}"
        for commit in commits
        for versions in records.versions.get(commit, [])
        for name, version in versions.items()
    }
    hours = sum(result.train_seconds for result in runs.values()) / 3600
    return (
        f"Made with {len(runs)} runs, {hours:.1f} hours of training in all, "
        f"of commit {', '.join(commits)}; {', '.join(sorted(versions))}."
    )


def _condition(matrix, condition, systems, records, folder):
    """Tables of a condition, one a test set, in lines."""
    results = [result for runs in systems.values() for result in runs]
    tested = next((r.scores for r in results if r.scores), {})
    tests = [name for name in tested if name != "valid"]  # the main one first
    test_sets = [name for name in tested if name in (matrix.tests or tests)]
    if not test_sets:
        reason = "No run is finished." if results else "The corpus lacks it."
        if tested:
            reason = f"The corpus has no set {' or '.join(matrix.tests)}."
        return [f"## {condition}", "", reason, ""]
    sizes = sorted({result.n_train for result in results if result.scores})
    ends = sizes if len(sizes) < 3 else (sizes[0], sizes[-1])
    training = " to ".join(f"{size:,}" for size in ends)
    lines = []
    for test_set in test_sets:
        rows = results_rows(matrix, systems, test_set, records)
        for row in rows:
            facts = matrix.systems[row["system"]]
            row["system"] = _linked(row["system"], facts, folder)
            if test_set == tests[0]:
                row["paper"] = facts.get("paper", {}).get(condition, "")
        items = next(row["items"] for row in rows if "items" in row)
        lines += [
            f"## {condition}: `{test_set}`",
            "",
            f"{training} training utterances; {items:,} "
            f"utterances in `{test_set}`. Reference: {matrix.reference}.",
            "",
            *_table(rows, COLUMNS),
            "",
        ]
    if matrix.breakdown:
        lines += breakdown(systems, test_sets[0], records)
    return lines


def _linked(system, facts, folder):
    """A system as a link to its configuration."""
    # Sites that show Markdown do not follow links of the file system.
    recipe = (ROOT / "hparams").resolve().parent
    path = (recipe / facts["config"]).resolve()
    link = os.path.relpath(path, Path(folder).resolve())
    return f"[{system}]({link})" + "*" * bool(facts.get("overrides"))


def results_rows(matrix, systems, test_set, records):
    """One row a system, the reference first.

    Arguments
    ---------
    matrix : Matrix
    systems : dict
        Results of a condition, by system.
    test_set : str
    records : Records

    Returns
    -------
    list of dict
        Text by column.
    """
    reference = systems.get(matrix.reference, [])
    tests = {
        system: compare(records, results, reference, test_set)
        for system, results in systems.items()
        if system != matrix.reference
    }
    tests = {system: test for system, test in tests.items() if test}
    p_values = [test["p"] for test in tests.values()]
    adjusted = dict(zip(tests, correct_for_many(p_values)))
    rows = []
    for system in sorted(systems, key=lambda name: name != matrix.reference):
        row = {"system": system}
        rows.append(row)
        summary = summarise(systems[system], test_set)
        if summary is None:
            row["error %"] = "failed"
            continue
        spread = "" if summary["sd"] is None else f" ± {summary['sd']:.2f}"
        failed = f" ({summary['failed']} failed)" if summary["failed"] else ""
        row |= {
            "error %": f"{summary['mean']:.2f}{spread}",
            "runs": f"{len(summary['errors'])}{failed}",
            "best epoch": f"{summary['best']:.2f}",
            "errors": f"{summary['wrong']:.1f} ({summary['low']:.2f}–"
            f"{summary['high']:.2f} %)",
            "items": summary["items"],
            "NLL": f"{summary['nll']:.3g}",
            "ECE": f"{summary['ece']:.3f}",
        }
        if system in tests:
            row |= _test_cells(tests[system], adjusted[system])
    return rows


def _test_cells(test, adjusted):
    """Cells of a comparison."""
    difference = f"{test['difference']:+.2f}"
    if test["pairs"] > 1:
        difference += f" {_interval([test['low'], test['high']])}"
    return {
        "difference": difference,
        "p": _p(test["p"]),
        "p, adjusted": _p(adjusted),
        "over speakers": _interval(test["speakers"]),
        "over wordings": _interval(test["wordings"]),
        "McNemar": _p(test["mcnemar"]),
    }


def _interval(ends):
    return "[{:+.2f}, {:+.2f}]".format(*ends) if ends else "–"


def _p(value):
    if np.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _table(rows, columns=None):
    """Rows as Markdown, without columns that are empty."""
    names = columns or dict.fromkeys(key for row in rows for key in row)
    names = [n for n in names if any(row.get(n) for row in rows)]
    lines = ["| " + " | ".join(names) + " |"]
    lines.append("|---" + "|---:" * (len(names) - 1) + "|")
    for row in rows:
        cells = [str(row.get(n, "")).replace("|", r"\|") for n in names]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def breakdown(systems, test_set, records):
    """Errors by speaker, length and slot.

    Arguments
    ---------
    systems : dict
        Results of a condition, by system.
    test_set : str
    records : Records

    Returns
    -------
    list of str
        Lines of Markdown.
    """
    tested = {
        system: [r for r in results if test_set in r.scores]
        for system, results in systems.items()
    }
    tested = {system: results for system, results in tested.items() if results}
    views = {
        "speaker": lambda items: items["speaker"],
        "length": length_groups,
    }
    lines = []
    for title, groups in views.items():
        rows = {}
        for system, results in tested.items():
            parts = shares(records, results, test_set, groups)
            for name, (error, items) in parts.items():
                row = rows.setdefault(name, {title: name, "n": items})
                row[system] = f"{error:.2f}"
        lines += [f"Error on `{test_set}` by {title}, in percent:", ""]
        lines += [*_table(list(rows.values())), ""]
    rows = []
    for system, results in tested.items():
        scores = [result.scores[test_set] for result in results]
        row = {
            slot: np.mean([100 * s.slot_errors[slot] / s.n for s in scores])
            for slot in scores[0].slot_errors
        }
        rows.append({"system": system})
        rows[-1] |= {slot: f"{error:.2f}" for slot, error in row.items()}
    lines += [f"Error of each slot on `{test_set}`, in percent:", ""]
    return [*lines, *_table(rows), ""]


def teacher_rows(records, matrix):
    """One row a teacher of a condition: its errors, and what it knows.

    Arguments
    ---------
    records : Records
    matrix : Matrix

    Returns
    -------
    list of dict
        Text by column; runs that name no teacher have none.
    """
    columns = {
        "train_errors": "wrong, training transcripts %",
        "test_errors": "wrong, test transcripts %",
        "unexplained_by_two_numbers": "beyond two numbers %",
        "unexplained_by_intent": "beyond the intent %",
    }
    teachers = defaultdict(list)
    for row in records.teachers:
        if row["matrix"] == matrix.name:
            teachers[row["condition"], row["teacher"]].append(row)
    return [
        {
            "condition": condition,
            "teacher": name,
            "training sets": str(len(rows)),
            **{
                title: _mean_and_range([row[column] for row in rows])
                for column, title in columns.items()
            },
        }
        for (condition, name), rows in teachers.items()
        if condition in matrix.conditions
    ]


def _mean_and_range(texts):
    """A mean, and the range where there is one.

    Example
    -------
    >>> _mean_and_range(["1.0", "2.0"]), _mean_and_range(["0.5", "0.5"])
    ('1.50 (1.00–2.00)', '0.50')
    >>> _mean_and_range([""])
    ''
    """
    if "" in texts:
        return ""
    values = [float(text) for text in texts]
    mean = f"{np.mean(values):.2f}"
    if max(values) == min(values):
        return mean
    return f"{mean} ({min(values):.2f}–{max(values):.2f})"
