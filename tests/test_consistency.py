"""Every configuration is listed, used and short, as upstream asks."""

import ast
import csv
import re
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.run_opts import RunOptions

from slu_kd_lobes.training.hparams import settings
from slu_kd_lobes.training.run_folder import SHAPES_NO_NUMBER

ROOT = Path(__file__).parents[1]
HPARAMS = sorted((ROOT / "hparams").glob("*.yaml"))
RECIPES = {
    "fluent-speech-commands/logit_distillation": {
        "base.yaml": "train.py",
        "cascade.yaml": "cascade.py",
    },
    "fluent-speech-commands/ctc_slot_filling": {"base.yaml": "train.py"},
    "fluent-speech-commands/two_stage": {"base.yaml": "train.py"},
    "IEMOCAP/emotion_recognition": {},
    "LibriSpeech/SincNet-ASR": {"frames.yaml": "train.py"},
    "LibriSpeech/CIF-HKD": {
        "base.yaml": "train.py",
        "typed_commands.yaml": "typed_commands.py",
    },
    "AISHELL-1/CIF-HKD": {},
    "LibriSpeech/CTC-head": {
        "rejection.yaml": "rejection.py",
        "typed_commands.yaml": "typed_commands.py",
    },
    "LibriSpeech/PAD": {
        "base.yaml": "train.py",
        "typed_commands.yaml": "typed_commands.py",
    },
    "LibriSpeech/two_stage_pretraining": {
        "base.yaml": "train.py",
        "am_pt.yaml": "train_ctc.py",
        "typed_commands.yaml": "typed_commands.py",
    },
}
#: What a script calls, that reads keys of the same YAML.
CALLED = {"fluent-speech-commands/two_stage": "finetune.py"}
COMPLETE = [
    (ROOT / "recipes" / recipe, name, script)
    for recipe, files in RECIPES.items()
    for name, script in files.items()
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_yaml_has_a_row(recipe):
    """tests/recipes lists each file, and each file it names exists."""
    table = ROOT / "tests" / "recipes" / f"{recipe.split('/')[0]}.csv"
    with open(table, encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    folder = Path("recipes") / recipe / "hparams"
    rows = [row for row in rows if Path(row["Hparam_file"]).parent == folder]
    listed = {Path(row["Hparam_file"]).name for row in rows}
    hparams = (ROOT / folder).glob("*.yaml")
    assert listed == {path.name for path in hparams}
    for row in rows:
        for key in ("Script_file", "Hparam_file", "Data_prep_file"):
            assert (ROOT / row[key]).is_file(), row[key]
        assert row["test_debug_flags"]


@pytest.mark.parametrize("folder, name, script", COMPLETE)
def test_what_shapes_no_number_is_a_place(folder, name, script):
    """An object of that name would be left out of what tells runs apart."""
    keys = settings((folder / "hparams" / name).read_text(encoding="utf-8"))
    for key in SHAPES_NO_NUMBER & keys.keys():
        value = keys[key]
        assert not isinstance(value, dict), key
        tag = value[0] if isinstance(value, list) else ""
        assert not tag.startswith(("!new", "!name")), key


@pytest.mark.parametrize("folder, name, script", COMPLETE)
def test_every_key_is_used(folder, name, script):
    """Each top-level key is referred to in the YAML or in its script."""
    text = (folder / "hparams" / name).read_text()
    code = (folder / script).read_text()
    called = CALLED.get(f"{folder.parent.name}/{folder.name}")
    if called is not None:
        code += (folder / called).read_text()
    brain = (ROOT / "slu_kd_lobes" / "training" / "brain.py").read_text()
    report = "".join(
        (ROOT / "slu_kd_lobes" / path).read_text()
        for path in ("evaluation/report.py", "training/run_folder.py")
    )
    keys = re.findall(r"^(\w+):", text, re.MULTILINE)
    options = RunOptions().as_dict()  # which SpeechBrain's Brain looks for
    unused = [
        key
        for key in keys
        if key not in ("__set_seed", *options)
        and f"<{key}>" not in text
        and not re.search(rf"[\"'.]{key}\b", code + brain + report)
    ]
    assert not unused


@pytest.mark.parametrize("folder, name, script", COMPLETE)
def test_a_complete_yaml_needs_nothing_of_ours_to_load(folder, name, script):
    """SpeechBrain's own loader takes it as it is."""
    text = (folder / "hparams" / name).read_text(encoding="utf-8")
    needed = re.findall(r"^(\w+): !PLACEHOLDER", text, re.MULTILINE)
    assert load_hyperpyyaml(text, dict.fromkeys(needed, "x"))


def test_train_scripts_are_short():
    """At most 300 lines, so that each is read in one sitting."""
    for script in (ROOT / "recipes").glob("*/*/train.py"):
        assert len(script.read_text().splitlines()) <= 300, script


def modules_of_the_package():
    """Path by name of each module."""
    paths = (ROOT / "slu_kd_lobes").rglob("*.py")
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in paths
    }


def imports_of(path):
    """Names that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_file_of_the_package_is_long():
    """At most 450 lines."""
    for path in modules_of_the_package().values():
        assert len(path.read_text().splitlines()) <= 450, path


def test_every_link_leads_to_a_file():
    """In all pages; what lies in results is made by runs."""
    for page in ROOT.rglob("*.md"):
        if {".venv", "results"} & set(page.relative_to(ROOT).parts):
            continue
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", text):
            target = (page.parent / link).resolve()
            made = target.is_relative_to(ROOT / "results")
            assert made or target.exists(), f"{page}: {link}"


def test_no_circle_of_imports():
    """Modules can be sorted so that each imports only those before it."""
    modules = modules_of_the_package()
    left = {
        name: {m for m in imports_of(path) if m in modules}
        for name, path in modules.items()
    }
    while free := [name for name, needs in left.items() if not needs]:
        for name in free:
            del left[name]
        for needs in left.values():
            needs.difference_update(free)
    assert not left


def test_the_package_knows_no_recipe():
    """It imports none, and names no file of one by a string."""
    scripts = {p.stem for p in (ROOT / "recipes").rglob("*.py")}
    for name, path in modules_of_the_package().items():
        assert not scripts & set(imports_of(path)), name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and any(
                isinstance(argument, ast.Constant)
                and isinstance(argument.value, str)
                and (
                    "recipes/" in argument.value
                    or argument.value.endswith(
                        tuple(f"{s}.py" for s in scripts)
                    )
                )
                for argument in node.args
            ):
                raise AssertionError(f"{name}, line {node.lineno}")


def test_the_19_configurations_of_the_paper():
    """The baseline, and three teachings with six weightings each."""
    names = {path.stem for path in HPARAMS}
    expected = {
        f"distill_{who}_{how}"
        for who in ("teacher", "professor", "hybrid")
        for how in "mse_b01 mse_b05 mse_err mae_err mae_exp mae_tri".split()
    }
    others = {"baseline", "base", "cascade", "own_commands"}
    assert names == expected | others
    for path in HPARAMS:
        first = path.read_text().splitlines()[0]
        if path.stem in expected | {"baseline"}:
            assert first == f"# python train.py hparams/{path.name}"
