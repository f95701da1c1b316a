"""From the folders of finished runs to tidy records of them."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slu_kd_lobes.data.manifests import Manifests
from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.experiments.execution import METRICS
from slu_kd_lobes.experiments.records import COLUMNS, Records, join_counts
from slu_kd_lobes.experiments.runs import Run
from slu_kd_lobes.utils.files import read_csv
from slu_kd_lobes.utils.fingerprints import fingerprint


@dataclass
class Outcome:
    """A run of a matrix and what it left.

    Arguments
    ---------
    run : Run
    folder : Path
    manifests : Manifests
    metrics : dict or None
        Its metrics.json; None if it failed.
    """

    run: Run
    folder: Path
    manifests: Manifests
    metrics: dict = None

    @classmethod
    def read(cls, run, job):
        """What a run left in the folder of its job."""
        path = job.folder / METRICS
        metrics = None
        if path.is_file():
            metrics = json.loads(path.read_text(encoding="utf-8"))
        return cls(run, job.folder, job.manifests, metrics)

    def block(self, test_set):
        """Metrics of a test set, or of ``valid``, at the tested epoch."""
        sets = {"valid": self.metrics["valid"], **self.metrics["tests"]}
        return sets[test_set]

    def predictions(self, test_set):
        """Answers on a test set, in the order of the IDs.

        Arguments
        ---------
        test_set : str

        Returns
        -------
        wrong : numpy.ndarray
            Whether a slot is wrong, [utterances].
        confidence : numpy.ndarray
            Probability of each answer, [utterances].
        """
        rows = read_csv(self.folder / f"predictions_{test_set}.csv")
        rows.sort(key=lambda row: row["ID"])
        slots = [n[: -len("_true")] for n in rows[0] if n.endswith("_true")]
        wrong = [
            any(row[f"{s}_true"] != row[f"{s}_predicted"] for s in slots)
            for row in rows
        ]
        probabilities = [
            [float(row[f"{slot}_probability"]) for slot in slots]
            for row in rows
        ]
        return np.array(wrong), np.prod(probabilities, axis=1)


def records_of(outcomes):
    """Tidy records of what runs left.

    Arguments
    ---------
    outcomes : dict
        Lists of `Outcome` by name of the matrix.

    Returns
    -------
    Records
    """
    records = Records(versions=defaultdict(list))
    for matrix, runs in outcomes.items():
        taught = {}
        for outcome in runs:
            records.runs += _rows(matrix, outcome)
            if outcome.metrics is None:
                continue
            # Systems and seeds share teachers: each counts once.
            for row in _teachers(matrix, outcome):
                taught[str(row)] = row
            versions = records.versions[_commit(outcome)]
            if outcome.metrics["versions"] not in versions:
                versions.append(outcome.metrics["versions"])
            _add_items(records, outcome)
        records.teachers += taught.values()
    return records


def _commit(outcome):
    """The first digits of the commit; + where files differed from it."""
    commit = outcome.metrics["commit"] or "unknown"
    return commit.removesuffix("+")[:12] + "+" * commit.endswith("+")


def _rows(matrix, outcome):
    """Rows of runs.csv."""
    run, metrics = outcome.run, outcome.metrics
    row = {
        **dict.fromkeys(COLUMNS["runs.csv"], ""),
        "matrix": matrix,
        "system": run.system,
        "condition": run.condition,
        "draw": run.draw,
        "seed": run.seed,
        "run": outcome.folder.name,
    }
    if metrics is None:
        return [row]
    row |= {
        "commit": _commit(outcome),
        "n_train": metrics["n_train"],
        "train_seconds": metrics["seconds"]["train"],
    }
    by_epoch, rows = metrics["intent_error_by_epoch"], []
    for test_set in by_epoch["last"]:
        block = outcome.block(test_set)
        for epoch in ("last", "best"):
            percent, n = by_epoch[epoch][test_set], block["n"]
            score = {
                "test_set": test_set,
                "epoch": epoch,
                "n": n,
                "errors": round(percent * n / 100),
            }
            if epoch == metrics.get("tested_epoch", "last"):
                score |= {
                    "nll": block["nll"],
                    "ece": block["ece"],
                    "slot_errors": join_counts(
                        {
                            slot: round(share * n / 100)
                            for slot, share in block["slot_error"].items()
                        }
                    ),
                }
            rows.append({**row, **score})
    return rows


def _teachers(matrix, outcome):
    """Rows of teachers.csv."""
    metrics = outcome.metrics
    for name, said in metrics.get("teachers", {}).items():
        # Sentence vectors name no values, and so make no errors.
        yield {
            "matrix": matrix,
            "condition": outcome.run.condition,
            "draw": outcome.run.draw,
            "teacher": name,
            "train_errors": said["errors"].get("train", ""),
            "test_errors": said["errors"].get(metrics["main_test"], ""),
            "unexplained_by_intent": said["unexplained_by_intent"],
            "unexplained_by_two_numbers": said.get(
                "unexplained_by_two_numbers", ""
            ),
        }


def _add_items(records, outcome):
    """Adds the errors of every utterance, and who said what."""
    for test_set in outcome.metrics["intent_error_by_epoch"]["last"]:
        key = outcome.folder.name, test_set
        if key in records.items:
            continue
        name = outcome.manifests.fingerprint(test_set)[:12]
        wrong, _ = outcome.predictions(test_set)
        records.items[key] = name, wrong
        if name not in records.utterances:
            rows = outcome.manifests.read(test_set)
            rows.sort(key=lambda row: row["ID"])
            texts = [normalise_transcript(r["transcription"]) for r in rows]
            records.utterances[name] = [
                {
                    "set": name,
                    "number": number,
                    "speaker": row["spk_id"],
                    "wording": int(fingerprint(text.encode())[:8], 16),
                    "seconds": row["duration"],
                }
                for number, (row, text) in enumerate(zip(rows, texts))
            ]
