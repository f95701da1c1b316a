"""Every configuration is listed, used and short, as upstream asks."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HPARAMS = sorted((ROOT / "hparams").glob("*.yaml"))
SCRIPTS = {
    "base.yaml": "train.py",
    "cascade.yaml": "cascade.py",
    "teacher.yaml": "train_teacher.py",
}


def test_every_yaml_has_a_row():
    """tests/recipes lists each file, and each file it names exists."""
    table = ROOT / "tests" / "recipes" / "fluent-speech-commands.csv"
    with open(table, encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    listed = {Path(row["Hparam_file"]).name for row in rows}
    assert listed == {path.name for path in HPARAMS}
    for row in rows:
        for key in ("Script_file", "Hparam_file", "Data_prep_file"):
            assert (ROOT / row[key]).is_file(), row[key]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_key_is_used(name):
    """Each top-level key is referred to in the YAML or in its script."""
    folder = ROOT / "recipes" / "fluent-speech-commands" / "distillation"
    text = (ROOT / "hparams" / name).read_text()
    script = (folder / SCRIPTS[name]).read_text()
    keys = re.findall(r"^(\w+):", text, re.MULTILINE)
    unused = [
        key
        for key in keys
        if key != "__set_seed"
        and f"<{key}>" not in text
        and not re.search(rf"[\"'.]{key}\b", script)
    ]
    assert not unused


def test_the_19_configurations_of_the_paper():
    """The baseline, and three teachings with six weightings each."""
    names = {path.stem for path in HPARAMS}
    expected = {
        f"distill_{who}_{how}"
        for who in ("teacher", "professor", "hybrid")
        for how in "mse_b01 mse_b05 mse_err mae_err mae_exp mae_tri".split()
    }
    others = {"baseline", "base", "cascade"}
    others |= {"teacher", "professor", "sentence"}
    assert names == expected | others
    for path in HPARAMS:
        first = path.read_text().splitlines()[0]
        if path.stem in expected | {"baseline"}:
            assert first == f"# python train.py hparams/{path.name}"
