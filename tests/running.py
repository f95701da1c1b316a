"""Runs the recipe as a user does."""

import csv
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "fluent-speech-commands"))

from prepare import prepare_fsc  # noqa: E402

from slu_kd_lobes.training.checkpoints import CHECKSUMS, checksums  # noqa: E402

CORPUS = ROOT / "data" / "synthetic-commands"
UNSTEADY = ("seconds", "peak_memory_mb", "commit")


def command(config, options, script="train.py", processes=1):
    """The command line, as the README gives it."""
    yaml = f"hparams/{config}.yaml" if "/" not in config else config
    overrides = [f"--{key}={value}" for key, value in options.items()]
    python = [sys.executable]
    if processes > 1:
        python += ["-m", "torch.distributed.run", "--standalone"]
        python += [f"--nproc_per_node={processes}"]
    return [*python, script, yaml, *overrides, "--device=cpu"]


def environment():
    """No hub, and the same thread count everywhere."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(config, options, cwd=ROOT, fails=False, script="train.py", processes=1):
    """Runs the recipe; returns what it printed."""
    words = command(config, options, script, processes)
    return run_command(words, fails, cwd, fresh=processes > 1)


def run_typed_commands(recipe, key, trained, commands, folder, **changes):
    """Tests typed commands, `conftest.commands`, on a run that `key` names."""
    fails = changes.pop("fails", False)
    options = {
        key: trained,
        "data_folder": commands.parents[1],
        "csv_folder": commands,
        "slots": "[first]",
        "manifest_folder": folder / "manifests",
        "feature_folder": folder / "features",
        "output_folder": folder / "run",
        **changes,
    }
    printed = run("typed_commands", options, recipe, fails, "typed_commands.py")
    if fails:
        return printed
    return json.loads((folder / "run" / "metrics.json").read_text())


def run_command(words, fails=False, cwd=ROOT, fresh=False):
    """Runs a command; returns what it printed.

    That of a script is forked from a process that has imported much of what it
    needs; `fresh`: from none.
    """
    if fresh or words[:1] != [sys.executable] or words[1].startswith("-"):
        done = subprocess.run(
            words, cwd=cwd, env=environment(), text=True, capture_output=True
        )
        status, output = done.returncode, done.stdout + done.stderr
    else:
        status, output = forked(words[1:], cwd)
    assert (status != 0) == fails, output
    return output


def forked(arguments, cwd):
    """Exit status and output of a script with arguments."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as output:
        request = {"arguments": [str(word) for word in arguments]}
        request |= {"cwd": str(cwd), "output": output.name}
        server = fork_server()
        print(json.dumps(request), file=server.stdin, flush=True)
        return int(server.stdout.readline()), output.read()


@functools.cache
def fork_server():
    """One for all tests of this process; it ends with its standard input."""
    return subprocess.Popen(
        [sys.executable, ROOT / "tests" / "fork_server.py"],
        cwd=ROOT,
        env=environment(),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def stopped(words, reached, cwd=ROOT, number=signal.SIGKILL):
    """Starts a command, and sends it a signal when it has reached a place."""
    running = subprocess.Popen(
        words,
        cwd=cwd,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not reached():
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    running.send_signal(number)
    running.wait()


def processes(word):
    """Command lines of this machine that a word stands in."""
    listed = subprocess.check_output(["ps", "-wweo", "args"], text=True)
    return [line for line in listed.splitlines() if str(word) in line]


def metrics_of(folder):
    """The metrics that the same command must repeat."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return {k: v for k, v in metrics.items() if k not in UNSTEADY}


def manifest_rows(folder, split):
    """Rows of a split as a run read them; `wav` can be opened."""
    text = (folder / "hyperparams.yaml").read_text()
    corpus = load_hyperpyyaml(text)["corpus"]
    manifests = prepare_fsc(**{**corpus, "skip_prep": True})
    return manifests.read(split)


def seal_checkpoint(folder):
    """Makes a checkpoint whole again that a test has changed."""
    sums = json.dumps(checksums(folder))
    (folder / CHECKSUMS).write_text(sums)


def error_of_predictions(path):
    """Percent of the rows with a wrong slot, from the file alone."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    slots = [name[:-5] for name in rows[0] if name.endswith("_true")]
    wrong = sum(
        any(row[f"{slot}_true"] != row[f"{slot}_predicted"] for slot in slots)
        for row in rows
    )
    return 100 * wrong / len(rows)
