#!/usr/bin/env python3
"""Puts the logit distillation recipe into a checkout of SpeechBrain.

It copies what a contribution would hold: the recipe with its one complete
YAML, and the lobes that it imports; adds a row to tests/recipes and a few rows
of sample data; and runs SpeechBrain's own checks on it.

> python tools/graft.py /path/to/speechbrain
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

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "slu_kd_lobes"
LOBES = "speechbrain.lobes.slu_kd"  # where the package's modules go
DATASET = "fluent-speech-commands"
RECIPE = f"recipes/{DATASET}/logit_distillation"
SAMPLES = "tests/samples/annotation/slots"

#: In place of what comes with this project; a hub serves SpeechBrain's users.
REPLACED = {
    "data_folder": "!PLACEHOLDER  # /path/to/fluent_speech_commands_dataset",
    "encoder_source": "null  # a folder or hub name with encoder.ckpt",
    "text_encoder": "bert-base-uncased",
}
#: A run on the samples of SpeechBrain, two speakers, without a hub.
FLAGS = (
    f"--data_folder=tests/samples/ASR --csv_folder={SAMPLES} "
    "--slots=[action] --shared_speakers=True --encoder_source=null "
    "--features=unfreeze_all --teachers=[] --manifest_folder=tests/tmp/slots"
)
CHECKS = "[train_log.txt,log.txt,metrics.json,predictions_test.csv,env.log]"


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


def graft(checkout):
    """Copies everything.

    Arguments
    ---------
    checkout : Path
        Of SpeechBrain.

    Returns
    -------
    list of Path
        The new files.
    """
    recipe = ROOT / RECIPE
    base = recipe / "hparams" / "base.yaml"
    scripts = [recipe / "train.py", ROOT / f"recipes/{DATASET}/prepare.py"]
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
    home = checkout / RECIPE
    files |= {home / path.name: path for path in scripts}
    files[home / "README.md"] = recipe / "README.md"
    files[home / "extra_requirements.txt"] = recipe / "extra_requirements.txt"
    files[home / "hparams" / "train.yaml"] = base
    for new, old in files.items():
        text = old.read_text(encoding="utf-8").replace(PACKAGE, LOBES)
        # There, one complete file stands for all.
        text = re.sub(r"hparams/\w+\.yaml", "hparams/train.yaml", text)
        if new.suffix == ".yaml":
            text = without_bundled(text)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")
    add_row(checkout)
    add_samples(checkout)
    return sorted(files)


def without_bundled(text):
    """The complete YAML without this project's data, weights and packages."""
    for key, value in REPLACED.items():
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


def add_row(checkout):
    """Adds the recipe to the table of SpeechBrain's recipes, once."""
    path = checkout / "tests" / "recipes" / f"{DATASET}.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    row = dict.fromkeys(rows[0], "")
    row |= {
        "Task": "SLU",
        "Dataset": DATASET,
        "Script_file": f"{RECIPE}/train.py",
        "Hparam_file": f"{RECIPE}/hparams/train.yaml",
        "Data_prep_file": f"{RECIPE}/prepare.py",
        "Readme_file": f"{RECIPE}/README.md",
        "test_debug_flags": FLAGS,
        "test_debug_checks": f"file_exists={CHECKS}",
    }
    rows = [r for r in rows if r["Script_file"] != row["Script_file"]]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])


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


def check(checkout, files):
    """Runs SpeechBrain's checks.

    Arguments
    ---------
    checkout : Path
    files : list of Path
        The new files.

    Returns
    -------
    dict
        What a check printed, by its name; None if it passed.
    """
    names = [str(path.relative_to(checkout)) for path in files]
    code = [name for name in names if name.endswith(".py")]
    yaml = [name for name in names if name.endswith(".yaml")]
    filters = f"filters_fields=['Script_file'], filters=['{RECIPE}/train.py']"
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
        for name, command in commands.items():
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
            found[name] = said if done.returncode else None
            print(f"{name}: {'passed' if not done.returncode else 'FAILED'}")
    large = [n for n in names if (checkout / n).stat().st_size > 2**20]
    found["files of at most 1 MB"] = ", ".join(large) or None
    return found


def main():
    """Grafts, checks and says how large the contribution is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--only-copy", action="store_true")
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    if not (checkout / "speechbrain" / "core.py").is_file():
        sys.exit(f"error: {checkout} is no checkout of SpeechBrain")
    files = graft(checkout)
    # Imports change their order with the package's name.
    code = [str(path) for path in files if path.suffix == ".py"]
    for command in (["check", "--select=I", "--fix", "-q"], ["format", "-q"]):
        subprocess.run(["ruff", *command, *code], cwd=checkout, check=True)
    lines = sum(len(path.read_text().splitlines()) for path in files)
    print(f"{len(files)} files, {lines:,} lines, in {checkout}")
    if options.only_copy:
        return
    failed = {k: v for k, v in check(checkout, files).items() if v}
    for name, said in failed.items():
        print(f"\n{name}:\n{said[-3000:]}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
