"""The tables of PAD's README are those of its results.csv."""

import csv
import re
import statistics
from pathlib import Path

import pytest

from slu_kd_lobes.evaluation.statistics import wilson_interval

PAD = Path(__file__).parents[1] / "recipes" / "LibriSpeech" / "PAD"
SPOKEN = "read + spoken commands"
#: By the first words of a table's last heading: the test and the set of each
#: column, and the speech of the alignment.
TABLES = {
    "coffee orders": (
        ["read + real", ""],
        [
            ("student, commands", "test"),
            ("student, 10 % of commands", "test"),
            ("student, unseen_splits", "utt_test"),
            ("student, unseen_splits", "both_test"),
            ("student, coffee-orders", "test"),
        ],
    ),
    "K2, heard wordings": (
        [SPOKEN],
        [
            ("K1", "utt_test"),
            ("K1", "both_test"),
            ("K2", "utt_test"),
            ("K2", "both_test"),
            ("K2", "spk_test"),
        ],
    ),
    "K4": (["read + real"], [("K4", "test")]),
}


def cell(rows):
    """Mean, range over seeds, and the interval of the mean."""
    errors = [100 * int(row["errors"]) / int(row["n"]) for row in rows]
    mean = round(sum(int(row["errors"]) for row in rows) / len(rows))
    low, high = wilson_interval(mean, int(rows[0]["n"]))
    spread = f" ({min(errors):.1f}–{max(errors):.1f})" if len(rows) > 1 else ""
    return f"{statistics.mean(errors):.1f}{spread} [{low:.1f}, {high:.1f}]"


@pytest.mark.parametrize("heading", TABLES)
def test_a_table_is_that_of_the_file(heading):
    """Every cell with an interval, and the number of seeds."""
    with open(PAD / "results.csv", encoding="utf-8", newline="") as file:
        results = list(csv.DictReader(file))
    text = (PAD / "README.md").read_text(encoding="utf-8")
    table = re.search(rf"\| {heading} \|\n\|-.*\n((?:\|.*\n)+)", text)[1]
    speech, columns = TABLES[heading]
    for line in table.splitlines():
        system, seeds, *cells = [part.strip() for part in line.split("|")[1:-1]]
        for (test, test_set), found in zip(columns, cells[-len(columns) :]):
            wanted = {"test": test, "test_set": test_set, "system": system}
            rows = [
                row
                for row in results
                if row["speech"] in speech and wanted.items() <= row.items()
            ]
            assert found == cell(rows), (system, test, test_set)
            assert int(seeds) == len(rows)
