"""What is committed of the results holds together."""

import re
from pathlib import Path

import pytest

from slu_kd_lobes.experiments.engine import read_matrices
from slu_kd_lobes.experiments.tables import make_tables

ROOT = Path(__file__).parents[1]
TABLES = sorted((ROOT / "results" / "tables").glob("*.md"))


@pytest.mark.skipif(not TABLES, reason="no tables are committed")
def test_every_table_follows_from_the_tidy_files():
    """Each figure and interval, computed again from the bits alone."""
    matrices = [ROOT / "experiments" / f"{path.stem}.yaml" for path in TABLES]
    pages = make_tables(read_matrices(matrices), ROOT / "results")
    for path in TABLES:
        assert pages[path] == path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_links_of_tables_lead_to_configurations(path):
    """Those of other recipes, too."""
    links = re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    assert links and all((path.parent / link).is_file() for link in links)


def test_results_are_told_by_hand_in_two_pages():
    """The summary is short enough to be read."""
    lines = (ROOT / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150


def test_no_report_is_tracked():
    """HTML is made by `make report`."""
    assert not list(ROOT.glob("docs/*.html")) + list(ROOT.glob("*.html"))
