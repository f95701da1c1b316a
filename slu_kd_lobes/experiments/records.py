"""Tidy files of what runs left: all that tables are made from.

In a folder lie

- ``runs.csv``: one row a run, test set and epoch (``last`` or ``best``), for
  each matrix that the run is part of. NLL, ECE and the errors of each slot are
  those of the tested epoch alone. A run that left nothing has one row without a
  test set.
- ``items.csv.gz``: one row a run and test set; ``wrong`` has a 0 or 1 for each
  utterance, in the order of the IDs.
- ``utterances.csv.gz``: speaker, wording and seconds of these utterances by
  ``set``, the first digits of the fingerprint of a split. A wording is a
  number, the same in all sets: real corpora may not be given on.
- ``teachers.csv``: what text models say; ``versions.json``: packages by commit.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slu_kd_lobes.utils.files import whole, write_json

#: Columns by file.
COLUMNS = {
    "runs.csv": (
        "matrix system condition draw seed run commit n_train train_seconds "
        "test_set epoch n errors nll ece slot_errors"
    ).split(),
    "items.csv.gz": "run test_set set wrong".split(),
    "utterances.csv.gz": "set number speaker wording seconds".split(),
    "teachers.csv": (
        "matrix condition draw teacher train_errors test_errors "
        "unexplained_by_intent unexplained_by_two_numbers"
    ).split(),
}
VERSIONS = "versions.json"


@dataclass
class Score:
    """How a run did on a test set, at its tested epoch.

    Arguments
    ---------
    n : int
        Utterances.
    errors, best_errors : int
        Utterances with a wrong slot; the same at the epoch with the lowest
        validation error.
    nll, ece : float
        See `slu_kd_lobes.evaluation.metrics.slot_metrics`.
    slot_errors : dict
        Errors by slot.
    """

    n: int = 0
    errors: int = 0
    best_errors: int = 0
    nll: float = float("nan")
    ece: float = float("nan")
    slot_errors: dict = field(default_factory=dict)

    @property
    def percent(self):
        """Error rate in percent."""
        return 100 * self.errors / self.n

    @property
    def best_percent(self):
        """The same at the best epoch."""
        return 100 * self.best_errors / self.n


@dataclass
class Result:
    """A run in its place of a matrix.

    Arguments
    ---------
    run : str
        Name of its folder.
    draw, seed : int
    commit : str
    n_train : int
        Utterances that it trained on.
    train_seconds : float
    scores : dict
        `Score` by test set, validation first, then the main test set; empty
        if the run left nothing.
    """

    run: str
    draw: int
    seed: int
    commit: str
    n_train: int
    train_seconds: float
    scores: dict = field(default_factory=dict)


@dataclass
class Records:
    """The tidy files of a folder.

    Arguments
    ---------
    runs, teachers : list of dict
        Rows of the CSV files, as text.
    items : dict
        Set and errors, [utterances], by run and test set.
    utterances : dict
        Rows of ``utterances.csv.gz`` by set, as text.
    versions : dict
        Lists of versions by commit.
    """

    runs: list = field(default_factory=list)
    teachers: list = field(default_factory=list)
    items: dict = field(default_factory=dict)
    utterances: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    _columns: dict = field(default_factory=dict)

    def results(self, matrix):
        """What the runs of a matrix left.

        Arguments
        ---------
        matrix : str
            Its name.

        Returns
        -------
        dict
            Lists of `Result` by condition and system, in the order of the rows.
        """
        results = defaultdict(dict)
        for row in self.runs:
            if row["matrix"] == matrix:
                key = int(row["draw"]), int(row["seed"])
                cell = results[row["condition"], row["system"]]
                if key not in cell:
                    cell[key] = Result(
                        row["run"],
                        *key,
                        commit=row["commit"],
                        n_train=int(row["n_train"] or 0),
                        train_seconds=float(row["train_seconds"] or 0),
                    )
                if row["test_set"]:
                    _add(row, cell[key].scores)
        return {cell: list(runs.values()) for cell, runs in results.items()}

    def of_items(self, run, test_set):
        """What happened to each utterance of a test set.

        Arguments
        ---------
        run, test_set : str

        Returns
        -------
        dict
            ``wrong``, [utterances]; ``speaker``, ``wording``, lists;
            ``seconds``, [utterances].
        """
        name, wrong = self.items[run, test_set]
        if name not in self._columns:
            rows = self.utterances[name]
            self._columns[name] = {
                "speaker": [row["speaker"] for row in rows],
                "wording": [int(row["wording"]) for row in rows],
                "seconds": np.array([float(row["seconds"]) for row in rows]),
            }
        return {"wrong": wrong, **self._columns[name]}


def _add(row, scores):
    """Puts a row of a test set and an epoch into the score of the set."""
    score = scores.setdefault(row["test_set"], Score())
    score.n = int(row["n"])
    if row["epoch"] == "best":
        score.best_errors = int(row["errors"])
    if row["nll"]:
        score.errors = int(row["errors"])
        score.nll, score.ece = float(row["nll"]), float(row["ece"])
        score.slot_errors = parse_counts(row["slot_errors"])


def join_counts(counts):
    """Numbers by name, in one cell of a CSV file.

    Arguments
    ---------
    counts : dict

    Returns
    -------
    str

    Example
    -------
    >>> join_counts({"action": 3, "object": 12})
    'action=3; object=12'
    >>> parse_counts("action=3; object=12")
    {'action': 3, 'object': 12}
    """
    return "; ".join(f"{name}={count}" for name, count in counts.items())


def parse_counts(text):
    """Numbers by name; see `join_counts`."""
    pairs = re.findall(r"(.+?)=(\d+)(?:; |$)", text)
    return {name: int(count) for name, count in pairs}


def merged(old, new, matrices):
    """New records, and the old ones of other matrices.

    Arguments
    ---------
    old, new : Records
    matrices : list of str
        Names of the matrices that the new ones are of.

    Returns
    -------
    Records
        What no row of ``runs.csv`` needs is left out.
    """

    def both(name):
        kept = [r for r in getattr(old, name) if r["matrix"] not in matrices]
        return sorted(kept + getattr(new, name), key=lambda row: row["matrix"])

    runs = both("runs")
    names = {row["run"] for row in runs}
    commits = {row["commit"] for row in runs}
    items = {
        key: value
        for key, value in {**old.items, **new.items}.items()
        if key[0] in names
    }
    sets = {name for name, _ in items.values()}
    utterances = {**old.utterances, **new.utterances}
    versions = {
        commit: list(old.versions.get(commit, []))
        for commit in sorted(commits - {""})
    }
    for commit, more in new.versions.items():
        versions[commit] += [v for v in more if v not in versions[commit]]
    return Records(
        runs=runs,
        teachers=both("teachers"),
        items=dict(sorted(items.items())),
        utterances={name: utterances[name] for name in sorted(sets)},
        versions=versions,
    )


def write_records(folder, records):
    """Writes the tidy files, each whole or not at all.

    The same records give the same bytes.

    Arguments
    ---------
    folder : str or Path
    records : Records

    Returns
    -------
    list of Path
        What was written.
    """
    items = [
        {
            "run": run,
            "test_set": test_set,
            "set": name,
            "wrong": (wrong.astype("u1") + ord("0")).tobytes().decode(),
        }
        for (run, test_set), (name, wrong) in records.items.items()
    ]
    rows = {
        "runs.csv": records.runs,
        "items.csv.gz": items,
        "utterances.csv.gz": sum(records.utterances.values(), []),
        "teachers.csv": records.teachers,
    }
    paths = [Path(folder) / name for name in [*rows, VERSIONS]]
    for path, table in zip(paths, rows.values()):
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS[path.name], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        content = out.getvalue().encode()
        if path.suffix == ".gz":
            content = _zipped(content)
        with whole(path) as part:
            part.write_bytes(content)
    write_json(paths[-1], records.versions)
    return paths


def _zipped(content):
    """Zipped bytes without a date or a name, so that they stay the same."""
    out = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=out, mtime=0) as file:
        file.write(content)
    return out.getvalue()


def read_records(folder):
    """Reads the tidy files.

    Arguments
    ---------
    folder : str or Path

    Returns
    -------
    Records

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If one is damaged, or they are not of the same runs.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = write_records(folder, Records())
    >>> read_records(folder).runs
    []
    """
    folder = Path(folder)
    remedy = (
        f"restore it, or delete {folder / 'runs.csv'} and run the experiments, "
        "which write all of these files"
    )
    try:
        rows = {name: _read_rows(folder / name) for name in COLUMNS}
        records = Records(
            runs=rows["runs.csv"],
            teachers=rows["teachers.csv"],
            items={
                (row["run"], row["test_set"]): (
                    row["set"],
                    np.frombuffer(row["wrong"].encode(), "u1") == ord("1"),
                )
                for row in rows["items.csv.gz"]
            },
            utterances=defaultdict(list),
            versions=json.loads((folder / VERSIONS).read_bytes()),
        )
        for row in rows["utterances.csv.gz"]:
            records.utterances[row["set"]].append(row)
        _check(records)
    except FileNotFoundError as error:
        if error.filename == str(folder / "runs.csv"):
            remedy = "run the experiments first, which write it"
        raise FileNotFoundError(
            f"there is no {error.filename}: {remedy}"
        ) from error
    except (
        *(ValueError, KeyError, TypeError, OSError, EOFError),
        *(zlib.error, csv.Error),
    ) as error:
        raise ValueError(
            f"the files in {folder} are damaged, or not of the same runs "
            f"({type(error).__name__}: {error}): {remedy}"
        ) from error
    return records


def _read_rows(path):
    """Rows of a CSV file, zipped or not."""
    content = path.read_bytes()
    csv.field_size_limit(2**31 - 1)  # a test set may have many utterances
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    text = io.StringIO(content.decode(), newline="")
    reader = csv.DictReader(text, strict=True)
    rows = list(reader)
    if reader.fieldnames != COLUMNS[path.name]:
        raise ValueError(f"{path.name} has the columns {reader.fieldnames}")
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"a row of {path.name} has too many cells, or too few")
    return rows


def _check(records):
    """Refuses errors that the utterances do not bear out."""
    for row in records.runs:
        if not row["nll"]:
            continue
        name, wrong = records.items[row["run"], row["test_set"]]
        counts = len(records.utterances[name]), len(wrong), int(wrong.sum())
        if counts != (int(row["n"]), int(row["n"]), int(row["errors"])):
            raise ValueError(
                f"run {row['run']} has {row['errors']} errors on "
                f"{row['test_set']} in runs.csv and {counts[2]} in items.csv.gz"
            )
