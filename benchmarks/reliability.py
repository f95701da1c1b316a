#!/usr/bin/env python3
"""Counts what kills and damaged files do to a run.

Kills: a run (preparation, teacher, features, training, test, packaging) is
killed (SIGKILL) at random times and started again with the same command until
it ends; its predictions and its packaged weights must be those of a run that
nobody killed. Damage: one file that a run reads is cut, overwritten, removed
or made nonsense; the answer must be one sentence, or the result of the
undamaged file. All is drawn from a seed, on a part of the bundled corpus.

> python benchmarks/reliability.py --kills=100 --damage=300
> python benchmarks/reliability.py --damage=20 --kinds audio csv --seed=7
"""

import argparse
import collections
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import soundfile
import torch

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "fluent-speech-commands" / "logit_distillation"
sys.path[:0] = [str(ROOT), str(RECIPE), str(RECIPE.parent)]

import train  # noqa: E402
from slu_kd_lobes.inference import classifier, cli, package  # noqa: E402, F401

SIZES = {"train": 40, "valid": 12, "test": 12}
FORMATS = ("wav", "flac", "ogg", "mp3")
STARTUP = 0.05  # seconds before the first kill


def small_corpus(folder, seed):
    """Copies a part of the bundled corpus, in all formats in turn."""
    source, rng = ROOT / "data" / "synthetic-commands", random.Random(seed)
    (folder / "data").mkdir(parents=True)
    for split, size in SIZES.items():
        name = f"data/{split}_data.csv"
        with open(source / name, encoding="utf-8", newline="") as file:
            rows = rng.sample(list(csv.DictReader(file)), size)
        for number, row in enumerate(rows):
            audio, rate = soundfile.read(source / row["path"])
            kind = FORMATS[number % len(FORMATS)]
            row["path"] = f"wavs/{split}{number}.{kind}"
            (folder / "wavs").mkdir(exist_ok=True)
            soundfile.write(folder / row["path"], audio, rate)
        with open(folder / name, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def options(folder, config="distill_teacher_mae_exp"):
    """The command line of a run whose files all lie in one folder."""
    values = {
        "data_folder": folder / "corpus",
        "output_folder": folder / "run",
        "manifest_folder": folder / "manifests",
        "feature_folder": folder / "features",
        "teacher_folder": folder / "teachers",
        "fine_tuning": "{number_of_epochs: 3, max_train_error: 100}",
        "number_of_epochs": 4,
        "batch_size": 8,
        "ckpt_interval_steps": 2,
        "device": "cpu",
    }
    file = config if "/" in config else str(ROOT / f"hparams/{config}.yaml")
    return [file, *(f"--{key}={value}" for key, value in values.items())]


def whole_run(folder, config="distill_teacher_mae_exp"):
    """Trains, tests and packages."""
    train.main(options(folder, config))
    if not (folder / "model").exists():
        sys.exit(cli.main(["package", f"{folder}/run", f"{folder}/model"]))


def classify(folder):
    """Answers for one recording, as JSON."""
    audio = str(folder / "corpus" / "wavs" / "test0.wav")
    model = str(folder / "model")
    sys.exit(cli.main(["classify", audio, "--json", "--model", model]))


def start(log, function, *arguments):
    """Starts a process that calls a function; returns its number.

    It is forked with everything imported, so that a kill hits the work and
    not the start of Python.
    """
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(target, 1)
        os.dup2(target, 2)
        function(*arguments)
        code = 0
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def ends_within(process, seconds):
    """Whether a process ends by itself; kills it otherwise."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(process, os.WNOHANG)[0]:
            return True
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


def outcome(log, function, *arguments, limit=600):
    """Runs to the end; returns the exit code and what was printed."""
    process = start(log, function, *arguments)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), Path(log).read_text("utf-8")


def results(folder):
    """What must not change: predictions, figures and packaged weights."""
    found = {
        path.name: path.read_bytes()
        for path in sorted((folder / "run").glob("predictions_*.csv"))
    }
    for path in sorted((folder / "model").rglob("*.ckpt")):
        found[path.name] = path.read_bytes()
    metrics = json.loads((folder / "run" / "metrics.json").read_text("utf-8"))
    for name in ("test", "tests", "valid", "history"):
        found[name] = metrics[name]
    return {
        name: _without_paths(value, folder) for name, value in found.items()
    }


def _without_paths(value, folder):
    if isinstance(value, bytes):
        return value.replace(str(folder).encode(), b"")
    return value


def phase(folder):
    """What a run was at when it was killed, by the files that are there."""
    for name, pattern in {
        "packaging": "run/learning_curves.png",
        "results": "run/predictions_valid.csv",
        "training": "run/save/CKPT+*/CKPT.yaml",
        "features": "features/*/*",
        "teacher": "teachers/*",
        "after preparation": "manifests/*/*",
    }.items():
        if any(folder.glob(pattern)):
            return name
    return "preparation"


def leftovers(folder):
    """Names of unfinished files."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.part"))


def count_kills(folder, kills, rng):
    """Kills runs at random times; returns the counts."""
    reference, log = folder / "reference", folder / "log"
    seconds = -time.monotonic()
    code, printed = outcome(log, whole_run, reference)
    seconds += time.monotonic()
    if code:
        sys.exit(printed)
    expected = results(reference)
    phases, faults, runs, done = collections.Counter(), [], 0, 0
    while done < kills:
        trial = folder / f"trial{runs}"
        shutil.copytree(reference / "corpus", trial / "corpus")
        runs += 1
        while True:
            delay = rng.uniform(STARTUP, seconds)
            process = start(log, whole_run, trial)
            if done >= kills or ends_within(process, delay):
                break
            done += 1
            phases[phase(trial)] += 1
        if done >= kills:  # the last one may take its time
            try:
                os.waitpid(process, 0)
            except ChildProcessError:
                pass
        code, printed = outcome(log, whole_run, trial)
        if code or "Traceback" in printed:
            faults.append([phase(trial), printed[-500:]])
        elif results(trial) != expected:
            found = results(trial)
            other = [n for n in expected if found.get(n) != expected[n]]
            faults.append(["other results", other])
        elif leftovers(trial):
            faults.append(["leftovers", leftovers(trial)])
        shutil.rmtree(trial)
        print(f"kills {done}, runs {runs}, faults {len(faults)}", flush=True)
    return {
        "kills": done,
        "runs": runs,
        "seconds_of_a_run": round(seconds, 1),
        "phases": dict(phases.most_common()),
        "runs_with_a_fault": len(faults),
        "faults": faults,
    }


# Damage. Each takes a folder with a finished run, harms one file, and returns
# what it did and whether a result is allowed beside a sentence.


def _harm(path, rng, ways):
    """Harms a file in one of the ways; returns which."""
    way, data = rng.choice(ways), path.read_bytes()
    if way == "cut":
        path.write_bytes(data[: rng.randrange(1, max(2, len(data) - 1))])
    elif way == "empty":
        path.write_bytes(b"")
    elif way == "removed":
        path.unlink()
    elif way == "noise":
        path.write_bytes(rng.randbytes(len(data)))
    elif way == "flipped":
        place = rng.randrange(len(data))
        flipped = bytes([data[place] ^ (1 << rng.randrange(8))])
        path.write_bytes(data[:place] + flipped + data[place + 1 :])
    elif way == "zeros":  # what a full disk or a crash leaves
        place = rng.randrange(len(data))
        path.write_bytes(data[:place] + bytes(len(data) - place))
    elif way == "folder":
        path.unlink()
        path.mkdir()
    return way


def damage_audio(folder, rng):
    """Half-copied, empty or nonsense audio, or samples that are no numbers."""
    path = rng.choice(sorted((folder / "corpus" / "wavs").iterdir()))
    if path.suffix == ".wav" and rng.random() < 0.3:
        audio, rate = soundfile.read(path, dtype="float32")
        audio[rng.randrange(len(audio))] = rng.choice(
            [float("nan"), float("inf"), -float("inf")]
        )
        soundfile.write(path, audio, rate, subtype="FLOAT")
        return f"{path.name} not a number", False
    ways = ("cut", "empty", "removed", "noise", "folder")
    return f"{path.name} {_harm(path, rng, ways)}", False


def damage_csv(folder, rng):
    """A row, a column, a quote or the encoding of a CSV file is wrong."""
    path = folder / "corpus" / "data" / f"{rng.choice(list(SIZES))}_data.csv"
    lines = path.read_text("utf-8").splitlines()
    row = rng.randrange(1, len(lines))
    cells = lines[row].split(",")
    way = rng.choice(
        "cell less|cell more|quote|twice|no column|encoding|no path|"
        "empty slot|other audio|header alone|noise|removed|nul".split("|")
    )
    if way == "cell less":
        lines[row] = ",".join(cells[:-1])
    elif way == "cell more":
        lines[row] += ",more"
    elif way == "quote":
        lines[row] = ",".join([*cells[:-1], '"' + cells[-1]])
    elif way == "twice":
        lines.insert(row, lines[row])
    elif way == "no column":
        # Who needs no text may leave the transcripts out.
        needed = ("path", "speakerId", "action", "object", "location")
        lines[0] = lines[0].replace(rng.choice(needed), "x", 1)
    elif way == "no path":
        lines[row] = lines[row].replace("wavs/", "nowhere/")
    elif way == "empty slot":
        lines[row] = ",".join([*cells[:-1], " "])
    elif way == "other audio":
        lines[row] = lines[row].replace("wavs/", "../wavs/")
    elif way == "header alone":
        lines = lines[:1]
    elif way == "nul":
        lines[row] = lines[row][:5] + "\0" + lines[row][5:]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    if way == "encoding":
        path.write_bytes(path.read_bytes() + b"\xff\xfe\xe9\n")
    elif way in ("noise", "removed"):
        _harm(path, rng, [way])
    return f"{path.name} {way}", False


#: Of keys that the command line of a trial does not give.
YAML_FAULTS = (
    "learning_rate: 0.1",
    "lr: fast",
    "lr: -1",
    "lr: .nan",
    "batch_size: [8]",
    "seed: -1",
    "test_epoch: beast",
    "kd_schedule: linear",
    "kd_distance: [mse]",
    "teachers: teachr",
    "teachers: [professr]",
    "slots: []",
    "slots: [action, action]",
    "slots: [colour]",
    "train_fraction: 1.5",
    "train_fraction: 0",
    "features: on_fly",
    "encoder: conformer",
    "text_encoder: no/such/model",
    "encoder_source: /no/such/folder",
    "fine_tuning: {lr: slow}",
    "fine_tuning: {epochs: 3}",
    "fine_tuning: 3",
    "teacher_weights: {teacher: 1}",
    "fixed_weights: {nobody: 1}",
    "kd_weight: 2",
    "matching_weight: -1",
    "valid_every: 0",
    "max_tokens: 1",
    "sample_rate: 8000",
    "batch_size: 8\n\tlr: 1",
    "lr: [1",
    "lr: *nobody",
    "lr: !ref <nobody>",
    "student: !new:no.such.Class",
    "opt_class: !name:torch.optim.Adm",
    "- lr",
    "\x00",
    "lr 0.1",
    "base: other.yaml",
)


def damage_yaml(folder, rng):
    """A configuration with one wrong line."""
    line = rng.choice(YAML_FAULTS)
    base = RECIPE / "hparams" / "base.yaml"
    text = f"base: {base}\nconfig: odd\n{line}\n"
    (folder / "odd.yaml").write_text(text, "utf-8")
    return repr(line), False


def _damage_below(*places):
    def damage(folder, rng):
        paths = [p for place in places for p in sorted(folder.glob(place))]
        paths = [p for p in paths if p.is_file() and p.stat().st_size]
        path = rng.choice(paths)
        ways = ("cut", "empty", "removed", "noise", "flipped", "zeros")
        way = _harm(path, rng, ways)
        return f"{path.relative_to(folder)} {way}", True

    damage.__doc__ = f"A file in {' or '.join(places)}."
    return damage


KINDS = {
    "audio": damage_audio,
    "csv": damage_csv,
    "yaml": damage_yaml,
    "checkpoint": _damage_below("run/save/*/*"),
    "features": _damage_below("features/**/*"),
    "teacher": _damage_below("teachers/**/*"),
    "manifest": _damage_below("manifests/**/*"),
    "run": _damage_below("run/*.yaml", "run/*.json", "run/*.csv"),
    "package": _damage_below("model/**/*"),
}


def answer_to_damage(kind, trial, log):
    """Runs what meets the damage; returns exit code and text."""
    if kind == "package":
        return outcome(log, classify, trial)
    if kind == "run":
        shutil.rmtree(trial / "model")
        return outcome(log, whole_run, trial)
    if kind in ("audio", "csv", "yaml"):
        for name in ("run", "model", "features", "manifests"):
            shutil.rmtree(trial / name)
    else:
        shutil.rmtree(trial / "model")
        if kind != "checkpoint":
            shutil.rmtree(trial / "run")
    config = str(trial / "odd.yaml") if kind == "yaml" else "baseline"
    if kind in ("checkpoint", "features", "teacher", "manifest"):
        config = "distill_teacher_mae_exp"
    return outcome(log, whole_run, trial, config)


def count_damage(folder, cases, kinds, rng):
    """Damages one file at a time; returns the counts."""
    reference, log = folder / "reference", folder / "log"
    if not (reference / "model").exists():
        code, printed = outcome(log, whole_run, reference)
        if code:
            sys.exit(printed)
    expected = results(reference)
    expected_answer = _answer(outcome(log, classify, reference)[1])
    counts, faults = collections.Counter(), []
    for case in range(cases):
        kind = kinds[case % len(kinds)]
        trial = folder / "trial"
        shutil.copytree(reference, trial)
        did, may_be_right = KINDS[kind](trial, rng)
        code, printed = answer_to_damage(kind, trial, log)
        sentence = [
            line for line in printed.splitlines() if line.startswith("error: ")
        ]
        if "Traceback" in printed or (code and not sentence) or code < 0:
            result = "traceback"
        elif code:
            result = "sentence"
        elif not may_be_right:
            result = "not seen"
        elif kind == "package":
            right = _answer(printed) == expected_answer
            result = "right" if right else "wrong"
        else:
            right = results(trial) == expected
            result = "right" if right else "wrong"
        counts[f"{kind}: {result}"] += 1
        if result in ("traceback", "not seen", "wrong"):
            faults.append([kind, did, result, printed[-600:]])
        shutil.rmtree(trial)
        print(f"{case + 1}: {kind}, {did}: {result}", flush=True)
    return {
        "cases": cases,
        "counts": dict(sorted(counts.items())),
        "faults": len(faults),
        "details": faults,
    }


def _answer(printed):
    lines = [json.loads(x) for x in printed.splitlines() if x.startswith("{")]
    return [[line["slots"], line["rejected"]] for line in lines]


def main():
    """Counts and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--damage", type=int, default=0, help="files")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="JSON file for the counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    report = {"seed": arguments.seed}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_corpus(folder / "reference" / "corpus", arguments.seed)
        if arguments.kills:
            report["kills"] = count_kills(
                folder, arguments.kills, random.Random(arguments.seed)
            )
        if arguments.damage:
            report["damage"] = count_damage(
                folder,
                arguments.damage,
                arguments.kinds,
                random.Random(arguments.seed),
            )
    text = json.dumps(report, indent=2, ensure_ascii=False)
    if arguments.out:
        Path(arguments.out).write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
