#!/usr/bin/env python3
"""Puts a recipe into a checkout of SpeechBrain.

It copies what a contribution would hold: the recipe with one complete YAML a
script, and the lobes that it imports; adds a row to tests/recipes and a few rows
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
    scripts : dict
        By name: the complete YAML, the arguments of a run on the samples of
        SpeechBrain, two speakers, without a hub, and the files that it leaves.
    replaced : dict
        In place of what comes with this project: hubs serve SpeechBrain's
        users.
    needs : str or None
        A recipe that makes what it starts from.
    left_out : str or None
        A section of its YAML and of its README, about what stays here.
    """

    task: str
    scripts: dict
    replaced: dict
    needs: str = None
    left_out: str = None


PAIRS = (
    "--data_folder=tests/samples/ASR '--splits={train: "
    "[../annotation/slots/train_data], "
    "valid: [../annotation/slots/valid_data]}' "
)
TOKENS = (
    "--tokeniser=kmeans --kmeans_encoder=transformer "
    f"--kmeans_source={MODELS}/speech "
)
ENCODER = (
    "encoder: {hidden_size: 16, num_layers: 1, num_heads: 2, feed_forward: 16}"
)
CONFORMER = (
    "encoders: {conformer: {ffn_size: 16, num_heads: 2, num_layers: 2, "
    "pool_after: [1], channels: 2}}"
)
ACOUSTIC = "acoustic: {hidden_size: 8, num_layers: 1, channels: 2}"
LOGS = "train_log.txt,log.txt,env.log"
RECIPES = {
    "fluent-speech-commands/logit_distillation": Recipe(
        "SLU",
        {
            "train.py": (
                "base.yaml",
                f"--data_folder=tests/samples/ASR --csv_folder={SAMPLES} "
                "--slots=[action] --shared_speakers=True "
                "--encoder_source=null --features=unfreeze_all --teachers=[] "
                "--manifest_folder=tests/tmp/slots",
                f"[{LOGS},metrics.json,predictions_test.csv]",
            )
        },
        {
            "data_folder": "!PLACEHOLDER  # /path/to/"
            "fluent_speech_commands_dataset",
            "encoder_source": "null  # a folder or hub name with encoder.ckpt",
            "text_encoder": "bert-base-uncased",
        },
    ),
    "LibriSpeech/PAD": Recipe(
        "Alignment",
        {
            "train.py": (
                "base.yaml",
                PAIRS
                + f"--speech_model={MODELS}/speech --text_model={MODELS}/text "
                "--features=on_the_fly --token_folder=tests/tmp/tokens "
                "--number_of_epochs=2",
                f"[{LOGS},metrics.json,aligned]",
            )
        },
        {},
    ),
    "LibriSpeech/CIF-HKD": Recipe(
        "ASR",
        {
            "train.py": (
                "base.yaml",
                PAIRS + "--tests=[../annotation/slots/test_data] --size=16 "
                f"'--{CONFORMER.replace(': ', '=', 1)}' "
                "'--make_decoder={ffn_size: 16, num_heads: 2, num_layers: 1}' "
                f"--text_model={MODELS}/text '--distillation=[acoustic, "
                "linguistic]' --token_folder=tests/tmp/pieces "
                "--feature_folder=tests/tmp/filters --number_of_epochs=2",
                f"[{LOGS},metrics.json,wer_test.txt]",
            )
        },
        {},
    ),
    "LibriSpeech/two_stage_pretraining": Recipe(
        "Pre-training",
        {
            "train.py": (
                "base.yaml",
                PAIRS
                + TOKENS
                + f"--kmeans_clusters=4 '--{ENCODER.replace(': ', '=', 1)}' "
                f"--matching_weight=1 --text_encoder={MODELS}/text "
                "--teacher_folder=tests/tmp/teachers "
                "--feature_folder=tests/tmp/codes "
                "--encoder_folder=tests/tmp/token_encoder",
                f"[{LOGS},metrics.json]",
            ),
            "train_ctc.py": (
                "am_pt.yaml",
                PAIRS
                + TOKENS
                + f"--number_of_epochs=2 '--{ACOUSTIC.replace(': ', '=', 1)}' "
                "--token_encoder=tests/tmp/token_encoder "
                "--feature_folder=tests/tmp/codes",
                f"[{LOGS},metrics.json,acoustic.safetensors]",
            ),
        },
        {"kmeans_source": "null  # a folder or hub name with encoder.ckpt"},
    ),
    "fluent-speech-commands/two_stage": Recipe(
        "SLU",
        {
            "finetune.py": (
                "base.yaml",
                f"{TOKENS}--token_encoder=tests/tmp/token_encoder "
                f"'--{ACOUSTIC.replace(': ', '=', 1)}' "
                f"--data_folder=tests/samples/ASR --csv_folder={SAMPLES} "
                "--slots=[action] --shared_speakers=True --teachers=[] "
                "--number_of_epochs=2 --feature_folder=tests/tmp/codes "
                "--manifest_folder=tests/tmp/intents",
                f"[{LOGS},metrics.json,predictions_test.csv]",
            )
        },
        {
            "data_folder": "!PLACEHOLDER  # /path/to/"
            "fluent_speech_commands_dataset",
            "kmeans_source": "null  # a folder or hub name with encoder.ckpt",
            "text_encoder": "bert-base-uncased",
        },
        "LibriSpeech/two_stage_pretraining",
        "Stages",
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
    recipe, facts = ROOT / "recipes" / name, RECIPES[name]
    yamls = [recipe / "hparams" / yaml for yaml, *_ in facts.scripts.values()]
    scripts = [*(recipe / script for script in facts.scripts)]
    scripts.append(recipe.parent / "prepare.py")
    modules = needed_modules([*scripts, *yamls])
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
    others = [recipe / "README.md", recipe / "extra_requirements.txt"]
    files |= {home / path.name: path for path in [*scripts, *others]}
    names = yaml_names(name)
    for path in yamls:
        files[home / "hparams" / f"{names[path.name]}.yaml"] = path
    for new, old in files.items():
        text = old.read_text(encoding="utf-8").replace(PACKAGE, LOBES)
        text = re.sub(
            r"hparams/(\w+\.yaml)",
            lambda found: f"hparams/{names.get(found[1], names['base.yaml'])}"
            ".yaml",
            text,
        )
        if new.parent == home and new.suffix == ".py":
            text = text.replace("python train.py", f"python {new.name}")
        if facts.left_out and recipe in old.parents:
            text = without_section(text, facts.left_out)
        if new.suffix == ".yaml":
            text = without_bundled(text, facts.replaced)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")
    add_rows(checkout, name)
    add_samples(checkout)
    if facts.needs:
        return sorted({*files, *graft(checkout, facts.needs)})
    return sorted(files)


def yaml_names(name):
    """What a complete YAML is called there, by its name here: as its script."""
    scripts = RECIPES[name].scripts.items()
    return {yaml: Path(script).stem for script, (yaml, *_) in scripts}


def without_section(text, title):
    """A README or a YAML file without one of its sections, if it has it."""
    return re.sub(rf"^##+ {title}\b.*?^(?=##+ )", "", text, flags=re.M | re.S)


def without_bundled(text, replaced):
    """The complete YAML without this project's data, weights and packages."""
    for key, value in replaced.items():
        pattern = rf"^{key}: !apply:.*\n(?:    - .*\n)?"
        text, count = re.subn(pattern, f"{key}: {value}\n", text, flags=re.M)
        assert count == 1, key
    lines = [
        line
        for line in text.splitlines()
        if not line.startswith("# The other files here state only what differs")
    ]
    return "\n".join(lines) + "\n"


def add_rows(checkout, name):
    """Adds the recipe to the table of SpeechBrain's recipes, once."""
    dataset, recipe = name.split("/")[0], RECIPES[name]
    names = yaml_names(name)
    path = checkout / "tests" / "recipes" / f"{dataset}.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    new = [
        dict.fromkeys(rows[0], "")
        | {
            "Task": recipe.task,
            "Dataset": dataset,
            "Script_file": f"recipes/{name}/{script}",
            "Hparam_file": f"recipes/{name}/hparams/{names[yaml]}.yaml",
            "Data_prep_file": f"recipes/{name}/prepare.py",
            "Readme_file": f"recipes/{name}/README.md",
            "test_debug_flags": flags,
            "test_debug_checks": f"file_exists={checks}",
        }
        for script, (yaml, flags, checks) in recipe.scripts.items()
    ]
    own = {row["Script_file"] for row in new}
    rows = [row for row in rows if row["Script_file"] not in own]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, *new])


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


def recipe_test(name, test="run_recipe_tests"):
    """The command of a test of SpeechBrain's on all scripts of a recipe."""
    scripts = [f"recipes/{name}/{script}" for script in RECIPES[name].scripts]
    code = (
        f"from tests.utils.recipe_tests import {test}; import sys; "
        f"sys.exit(not {test}(filters_fields=['Script_file'], "
        f"filters=[{scripts}]))"
    )
    return ["python", "-c", code]


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
    recipe = RECIPES[name]
    if any(MODELS in flags for _, flags, _ in recipe.scripts.values()):
        link_models(checkout)
    names = [str(path.relative_to(checkout)) for path in files]
    code = [name for name in names if name.endswith(".py")]
    yaml = [name for name in names if name.endswith(".yaml")]
    commands = {
        "tests/consistency": "python -m pytest -q tests/consistency",
        "recipe test": recipe_test(name),
        "load_yaml_test": recipe_test(name, "load_yaml_test"),
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
    if recipe.needs:
        first = {f"recipe test of {recipe.needs}": recipe_test(recipe.needs)}
        commands = first | commands
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
