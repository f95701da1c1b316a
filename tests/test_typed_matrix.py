"""A matrix whose systems need something that is trained first."""

import json
import sys

import pytest
from running import CORPUS, ROOT, run_command

from slu_kd_lobes.experiments.matrix import read_matrix
from slu_kd_lobes.experiments.runs import runs_of
from slu_kd_lobes.training.hparams import parse_yaml
from slu_kd_lobes.utils.environment import packaged_minilm
from slu_kd_lobes.utils.files import read_csv

PAD = "../../LibriSpeech/PAD/hparams"
MATRIX = f"""
title: Typed
reference: all wordings
seeds: [1]
variables: {{speech_model: nowhere/speech, text_model: nowhere/text}}
conditions:
  loud: {{}}
  louder: {{first: {{number_of_epochs: 2}}, test_splits: [utt_test]}}
systems:
  all wordings:
    script: typed_commands.py
    config: {PAD}/typed_commands.yaml
    overrides: {{alignment: <first>, typed: all}}
    first: &first
      script: align.py
      config: {PAD}/glob.yaml
      overrides:
        data_folder: <data_folder>
        splits:
          train: [<csv_folder>/train_data]
          valid: [<csv_folder>/valid_data]
        hours: null
        valid_hours: null
        speech_model: <speech_model>
        text_model: <text_model>
        number_of_epochs: 1
  heard wordings:
    script: typed_commands.py
    config: {PAD}/typed_commands.yaml
    overrides: {{alignment: <first>, typed: train}}
    first: *first
    conditions: [loud]
"""


@pytest.fixture
def matrix(tmp_path):
    """The matrix in a file."""
    path = tmp_path / "typed.yaml"
    path.write_text(MATRIX, encoding="utf-8")
    return path


def test_what_comes_first_has_overrides_of_its_own(matrix, tmp_path):
    """Of the system and of the condition; the corpus has whole paths."""
    corpus = tmp_path / "my corpus, #2"
    variables = {"speech_model": "a/b"}
    runs = runs_of(read_matrix(matrix), corpus, overrides=variables)
    known = {(run.condition, run.system): run for run in runs}
    run = known["loud", "all wordings"]
    assert run.overrides["alignment"] == "<first>"
    assert run.script == "typed_commands.py" and run.first.script == "align.py"
    first = run.first.overrides
    assert first["data_folder"] == str(corpus)
    splits = parse_yaml(first["splits"], "splits")
    assert splits["train"] == [f"{corpus}/data/train_data"]
    assert first["speech_model"] == "a/b" and first["hours"] == "null"
    assert first["seed"] == "1" and first["number_of_epochs"] == "1"
    other = known["louder", "all wordings"]
    assert other.first.overrides["number_of_epochs"] == "2"
    assert "first" not in other.overrides
    assert known["loud", "heard wordings"].first.overrides == first
    assert ("louder", "heard wordings") not in known


@pytest.mark.parametrize(
    "old, new, message",
    [
        (f"config: {PAD}/glob.yaml", "script: align.py", "first has no config"),
        ("overrides:\n        data", "override:\n        data", "no key 'over"),
        (
            "first: {number_of_epochs: 2}",
            "first: 3",
            "'first' is 3: give keys and values",
        ),
    ],
)
def test_a_wrong_definition_is_one_sentence(old, new, message, matrix):
    text = MATRIX.replace("      script: align.py\n", "")
    matrix.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        read_matrix(matrix)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def run_matrix(matrix, small, fails=False, **variables):
    """Runs all of it."""
    return run_command(
        [
            *(sys.executable, "experiments.py", matrix),
            f"--data_folder={CORPUS}",
            f"--csv_folder={small['csv_folder']}",
            f"--results={matrix.parent / 'made'}",
            f"--report={matrix.parent / 'report'}",
            f"--text_model={packaged_minilm()}",
            *(f"--{key}={value}" for key, value in variables.items()),
        ],
        fails,
        ROOT,
    )


def test_systems_share_what_is_trained_first(
    matrix, small, transformer_folders
):
    """One alignment a condition; again, nothing is trained."""
    model = transformer_folders / "whisper"
    run_matrix(matrix, small, speech_model=model)
    made = matrix.parent / "made" / "runs"
    found = {
        path: json.loads(path.read_text())
        for path in made.glob("*/metrics.json")
    }
    names = sorted(path.parent.name.rsplit("-", 1)[0] for path in found)
    assert names == 2 * ["glob"] + 3 * ["typed_commands"]
    epochs = [len(m["history"]) for m in found.values() if "before" in m]
    assert sorted(epochs) == [2, 3]  # with the one before training
    rows = read_csv(matrix.parent / "report" / "results" / "runs.csv")
    assert {row["system"] for row in rows} == {"all wordings", "heard wordings"}
    sets = {r["test_set"] for r in rows if r["condition"] == "louder"}
    assert sets == {"valid", "utt_test"}
    times = {path: path.stat().st_mtime_ns for path in found}
    run_matrix(matrix, small, speech_model=model)
    assert times == {p: p.stat().st_mtime_ns for p in times}
    assert len(list(made.glob("*/metrics.json"))) == len(times)


def test_a_failure_of_what_comes_first_is_told(
    matrix, small, transformer_folders
):
    """With its own sentence; what needs it is not tried."""
    text = MATRIX.replace("[<csv_folder>/valid", "[<csv_folder>/invalid")
    matrix.write_text(text, encoding="utf-8")
    model = transformer_folders / "whisper"
    output = run_matrix(matrix, small, fails=True, speech_model=model)
    assert "runs that others need failed; the first:" in output
    assert "invalid_data" in output and "Traceback" not in output
    made = matrix.parent / "made" / "runs"
    assert not list(made.glob("*/metrics.json"))
