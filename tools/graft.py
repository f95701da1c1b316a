#!/usr/bin/env python3
"""Puts a recipe into a checkout of SpeechBrain.

It copies what a contribution would hold: the recipe with its one complete
YAML, and the lobes that it imports; adds a row to tests/recipes and a few rows
of sample data; and runs SpeechBrain's own checks on it.

> python tools/graft.py /path/to/speechbrain
> python tools/graft.py /path/to/speechbrain --recipe=LibriSpeech/PAD
> python tools/graft.py /path/to/speechbrain --only-copy

The checkout is changed, and nothing is committed there.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import NamedTuple

from slu_kd_lobes.utils.environment import packaged_minilm
from slu_kd_lobes.utils.packaged_whisper import packaged_whisper

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "slu_kd_lobes"
LOBES = "speechbrain.lobes.slu_kd"  # where the package's modules go
SAMPLES = "tests/samples/annotation/slots"
MODELS = "tests/tmp/models"


class Recipe(NamedTuple):
    """What is particular to a recipe.

    Arguments
    ---------
    task : str
        As SpeechBrain's table of recipes calls it.
    replaced : dict
        In place of what comes with this project: hubs serve SpeechBrain's
        users.
    flags : str
        A run on the samples of SpeechBrain, two speakers, without a hub.
    checks : str
        Files that it leaves.
    """

    task: str
    replaced: dict
    flags: str
    checks: str


RECIPES = {
    "fluent-speech-commands/logit_distillation": Recipe(
        "SLU",
        {
            "data_folder": "!PLACEHOLDER  # /path/to/"
            "fluent_speech_commands_dataset",
            "encoder_source": "null  # a folder or hub name with encoder.ckpt",
            "text_encoder": "bert-base-uncased",
        },
        f"--data_folder=tests/samples/ASR --csv_folder={SAMPLES} "
        "--slots=[action] --shared_speakers=True --encoder_source=null "
        "--features=unfreeze_all --teachers=[] "
        "--manifest_folder=tests/tmp/slots",
        "[train_log.txt,log.txt,metrics.json,predictions_test.csv,env.log]",
    ),
    "LibriSpeech/PAD": Recipe(
        "Alignment",
        {},
        "--data_folder=tests/samples/ASR '--splits={train: "
        "[../annotation/slots/train_data], "
        "valid: [../annotation/slots/valid_data]}' "
        f"--speech_model={MODELS}/speech --text_model={MODELS}/text "
        "--features=on_the_fly --token_folder=tests/tmp/tokens "
        "--number_of_epochs=2",
        "[train_log.txt,log.txt,metrics.json,aligned,env.log]",
    ),
}


def needed_modules(starts):
    """Modules of the package that some files need, directly or not.

    Arguments
    ---------
    starts : list of Path
        Scripts, and YAML files whose class paths count.

    Returns
    -------
    dict
        Path by name.
    """
    found, left = {}, list(starts)
    while left:
        text = left.pop().read_text(encoding="utf-8")
        for name in re.findall(rf"\b{PACKAGE}((?:\.\w+)+)", text):
            parts = name.strip(".").split(".")
            while parts:
                path = ROOT.joinpath(PACKAGE, *parts).with_suffix(".py")
                if path.is_file() and ".".join(parts) not in found:
                    found[".".join(parts)] = path
                    left.append(path)
                parts.pop()
    return found


def graft(checkout, name):
    """Copies everything.

    Arguments
    ---------
    checkout : Path
        Of SpeechBrain.
    name : str
        Of `RECIPES`.

    Returns
    -------
    list of Path
        The new files.
    """
    recipe = ROOT / "recipes" / name
    base = recipe / "hparams" / "base.yaml"
    scripts = [recipe / "train.py", recipe.parent / "prepare.py"]
    modules = needed_modules([*scripts, base])
    target = checkout / LOBES.replace(".", "/")
    files = {
        target.joinpath(*name.split(".")).with_suffix(".py"): path
        for name, path in modules.items()
    }
    for folder in {path.parent for path in files}:
        inside = ROOT / PACKAGE / folder.relative_to(target) / "__init__.py"
        files[folder / "__init__.py"] = inside
    files[target / "__init__.py"] = ROOT / PACKAGE / "__init__.py"
    home = checkout / "recipes" / name
    files |= {home / path.name: path for path in scripts}
    others = [recipe / "README.md", recipe / "extra_requirements.txt"]
    files |= {home / path.name: path for path in others}
    files[home / "hparams" / "train.yaml"] = base
    for new, old in files.items():
        text = old.read_text(encoding="utf-8").replace(PACKAGE, LOBES)
        # There, one complete file stands for all.
        text = re.sub(r"hparams/\w+\.yaml", "hparams/train.yaml", text)
        if new.suffix == ".yaml":
            text = without_bundled(text, RECIPES[name].replaced)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")
    add_row(checkout, name)
    add_samples(checkout)
    return sorted(files)


def without_bundled(text, replaced):
    """The complete YAML without this project's data, weights and packages."""
    for key, value in replaced.items():
        pattern = rf"^{key}: !apply:.*\n(?:    - .*\n)?"
        text, count = re.subn(pattern, f"{key}: {value}\n", text, flags=re.M)
        assert count == 1, key
    lines = [
        line
        for line in text.splitlines()
        if line != "# The other files here state only what differs from this "
        "one."
    ]
    return "\n".join(lines) + "\n"


def add_row(checkout, name):
    """Adds the recipe to the table of SpeechBrain's recipes, once."""
    dataset, recipe = name.split("/")[0], RECIPES[name]
    path = checkout / "tests" / "recipes" / f"{dataset}.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    row = dict.fromkeys(rows[0], "")
    row |= {
        "Task": recipe.task,
        "Dataset": dataset,
        "Script_file": f"recipes/{name}/train.py",
        "Hparam_file": f"recipes/{name}/hparams/train.yaml",
        "Data_prep_file": f"recipes/{name}/prepare.py",
        "Readme_file": f"recipes/{name}/README.md",
        "test_debug_flags": recipe.flags,
        "test_debug_checks": f"file_exists={recipe.checks}",
    }
    rows = [r for r in rows if r["Script_file"] != row["Script_file"]]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])


def link_models(checkout):
    """Small models of packages, where a recipe's test run looks for them."""
    folder = checkout / MODELS
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (
        ("speech", packaged_whisper(checkout / "tests" / "tmp")),
        ("text", packaged_minilm()),
    ):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(source)


def add_samples(checkout):
    """Writes CSV files of SpeechBrain's own sample audio."""
    folder = checkout / SAMPLES
    folder.mkdir(parents=True, exist_ok=True)
    for split, numbers in {
        "train": range(1, 4),
        "valid": range(4, 6),
        "test": range(6, 7),
    }.items():
        lines = [",path,speakerId,transcription,action"]
        for i in numbers:
            for voice, action in (("spk1", "tell"), ("spk2", "ask")):
                name = f"{voice}_snt{i}"
                if (checkout / "tests/samples/ASR" / f"{name}.wav").is_file():
                    lines.append(
                        f"{len(lines)},{name}.wav,{voice},sentence {i},{action}"
                    )
        text = "\n".join(lines) + "\n"
        (folder / f"{split}_data.csv").write_text(text, encoding="utf-8")


def environment(checkout, folder):
    """Variables for commands that find SpeechBrain in the checkout.

    Arguments
    ---------
    checkout : Path
    folder : str
        Takes an environment of Python: what runs this tool, and before it the
        checkout.

    Returns
    -------
    dict
    """
    venv.create(folder, symlinks=True)
    (site,) = Path(folder).glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "graft.pth").write_text("\n".join([str(checkout), *here]) + "\n")
    path = f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}


def check(checkout, name, files):
    """Runs SpeechBrain's checks.

    Arguments
    ---------
    checkout : Path
    name : str
        Of `RECIPES`.
    files : list of Path
        The new files.

    Returns
    -------
    dict
        What a check printed, by its name; None if it passed.
    """
    if MODELS in RECIPES[name].flags:
        link_models(checkout)
    names = [str(path.relative_to(checkout)) for path in files]
    code = [name for name in names if name.endswith(".py")]
    yaml = [name for name in names if name.endswith(".yaml")]
    filters = (
        f"filters_fields=['Script_file'], filters=['recipes/{name}/train.py']"
    )
    runner = "from tests.utils.recipe_tests import {0}; import sys; " + (
        f"sys.exit(not {{0}}({filters}))"
    )
    commands = {
        "tests/consistency": "python -m pytest -q tests/consistency",
        "recipe test": ["python", "-c", runner.format("run_recipe_tests")],
        "load_yaml_test": ["python", "-c", runner.format("load_yaml_test")],
        "ruff format": ["ruff", "format", "--check", *code],
        "ruff check": ["ruff", "check", *code],
        "yamllint": ["yamllint", "--no-warnings", *yaml],
        "codespell": [
            "codespell",
            "--ignore-words=.dict-speechbrain.txt",
            *names,
        ],
        "docstring examples": ["python", "-m", "pytest", "-q"]
        + ["--doctest-modules", LOBES.replace(".", "/")],
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        variables = environment(checkout, folder)
        for title, command in commands.items():
            if isinstance(command, str):
                command = command.split()
            done = subprocess.run(
                command,
                cwd=checkout,
                env=variables,
                text=True,
                capture_output=True,
            )
            said = (done.stdout + done.stderr).strip()
            found[title] = said if done.returncode else None
            print(f"{title}: {'passed' if not done.returncode else 'FAILED'}")
    large = [n for n in names if (checkout / n).stat().st_size > 2**20]
    found["files of at most 1 MB"] = ", ".join(large) or None
    return found


def main():
    """Grafts, checks and says how large the contribution is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--recipe", choices=RECIPES, default=[*RECIPES][0])
    parser.add_argument("--only-copy", action="store_true")
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    if not (checkout / "speechbrain" / "core.py").is_file():
        sys.exit(f"error: {checkout} is no checkout of SpeechBrain")
    files = graft(checkout, options.recipe)
    # Imports change their order with the package's name.
    code = [str(path) for path in files if path.suffix == ".py"]
    for command in (["check", "--select=I", "--fix", "-q"], ["format", "-q"]):
        subprocess.run(["ruff", *command, *code], cwd=checkout, check=True)
    lines = sum(len(path.read_text().splitlines()) for path in files)
    print(f"{len(files)} files, {lines:,} lines, in {checkout}")
    if options.only_copy:
        return
    failed = {
        k: v for k, v in check(checkout, options.recipe, files).items() if v
    }
    for name, said in failed.items():
        print(f"\n{name}:\n{said[-3000:]}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
