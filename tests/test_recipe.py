"""The whole recipe on a few dozen real utterances, as a user runs it."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "data" / "synthetic-commands"
ENCODER = ROOT / "pretrained" / "sincnet-read-speech" / "encoder.ckpt"
UNSTEADY = ("seconds", "peak_memory_mb", "commit")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Options for a small part of the bundled corpus, and shared stores."""
    folder = tmp_path_factory.mktemp("small")
    sizes = {"train": 48, "valid": 16, "test": 16, "utt_test": 8}
    for split, size in sizes.items():
        name = f"{split}_data.csv"
        with open(CORPUS / "data" / name, encoding="utf-8") as f:
            lines = f.read().splitlines()
        step = (len(lines) - 1) // size
        lines = [lines[0], *lines[1::step][:size]]
        (folder / name).write_text("\n".join(lines) + "\n")
    return {
        "csv_folder": folder,
        "feature_folder": folder / "features",
        "teacher_folder": folder / "teachers",
        "teacher_overrides": "{number_of_epochs: 8, max_train_error: 100}",
        "number_of_epochs": 3,
        "batch_size": 16,
    }


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
    result = subprocess.run(
        command(config, options, script, processes),
        cwd=cwd,
        env=environment(),
        text=True,
        capture_output=True,
    )
    output = result.stdout + result.stderr
    assert (result.returncode != 0) == fails, output
    return output


def metrics_of(folder):
    """The metrics that the same command must repeat."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return {k: v for k, v in metrics.items() if k not in UNSTEADY}


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """A run of the main configuration from the root, and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    options = {**small, "output_folder": folder}
    return folder, run("distill_teacher_mae_exp", options), options


def test_leaves_what_a_person_wants(finished):
    """Metrics, predictions, plots, logs and the YAML are there."""
    folder, printed, _ = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    for key in (
        "config seed train_fraction subset_seed n_train valid test utt_test "
        "seconds peak_memory_mb parameters versions commit"
    ).split():
        assert key in metrics
    assert metrics["config"] == "distill_teacher_mae_exp"
    assert metrics["n_train"] == 48
    assert metrics["test"]["n"] == 16 and metrics["utt_test"]["n"] == 8
    assert set(metrics["test"]["slot_error"]) == {
        "action",
        "object",
        "location",
    }
    assert metrics["parameters"] == {"trained": 302616, "frozen": 1077544}
    assert set(metrics["seconds"]) == {
        "prepare",
        "teacher",
        "features",
        "train",
        "train_epoch",
        "valid_epoch",
        "test",
    }
    with open(folder / "predictions_test.csv", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    wrong = sum(
        any(
            row[f"{slot}_true"] != row[f"{slot}_predicted"]
            for slot in metrics["test"]["slot_error"]
        )
        for row in rows
    )
    assert 100 * wrong / 16 == pytest.approx(metrics["test"]["intent_error"])
    for plot in folder.glob("*.png"):
        assert plot.read_bytes().startswith(b"\x89PNG")
        assert str(plot) in printed
    assert len(list(folder.glob("*.png"))) == 4
    assert list((folder / "tensorboard").iterdir())
    assert f"{metrics['test']['intent_error']:.2f} %" in printed


def test_logs_each_term_apart(finished):
    """CE, KD, beta and gamma stand in the log; beta decays as exp(1 - t)."""
    lines = (finished[0] / "train_log.txt").read_text().splitlines()
    assert len(lines) == 3
    for name in ("train ce", "train kd", "train beta", "train gamma"):
        assert name in lines[0]
    assert "beta: 1.00e+00" in lines[0] and "beta: 3.68e-01" in lines[1]


def test_same_command_again_gives_the_same(finished):
    """A finished run is tested again, not trained again."""
    folder, _, options = finished
    before = metrics_of(folder)
    printed = run("distill_teacher_mae_exp", options)
    assert metrics_of(folder) == before
    assert "training it now" not in printed


def test_saved_yaml_runs_from_the_recipes_folder(finished, tmp_path):
    """The complete YAML repeats the run, from another folder."""
    folder, _, _ = finished
    recipe = ROOT / "recipes" / "fluent-speech-commands" / "distillation"
    places = {
        "output_folder": tmp_path / "again",
        "save_folder": tmp_path / "again" / "save",
        "manifest_folder": tmp_path / "again" / "manifests",
        "train_log": tmp_path / "again" / "log.txt",
        "tensorboard_folder": tmp_path / "again" / "tensorboard",
        "train_logger": f"{{save_file: {tmp_path}/again/log.txt}}",
        "checkpointer": f"{{checkpoints_dir: {tmp_path}/again/save}}",
    }
    run(str(folder / "hyperparams.yaml"), places, cwd=recipe)
    assert metrics_of(tmp_path / "again") == metrics_of(folder)


def test_teacher_of_its_own_script_is_used(finished):
    """train_teacher.py finds the teacher that train.py has trained."""
    _, _, options = finished
    keys = ("csv_folder", "teacher_folder")
    teacher = {
        **{key: options[key] for key in keys},
        "number_of_epochs": 8,
        "max_train_error": 100,
    }
    printed = run("teacher", teacher, script="train_teacher.py")
    assert "table of logits is" in printed
    assert "training it now" not in printed


def test_killed_run_goes_on_to_the_same_result(finished, small, tmp_path):
    """After kill -9 the same command ends with the same metrics."""
    options = {**small, "output_folder": tmp_path / "killed"}
    save = tmp_path / "killed" / "save"
    process = subprocess.Popen(
        command("distill_teacher_mae_exp", options),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not list(save.glob("CKPT*/CKPT.yaml")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    printed = run("distill_teacher_mae_exp", options)
    assert "Loading a checkpoint" in printed
    assert metrics_of(tmp_path / "killed") == metrics_of(finished[0])


def test_checkpoint_carries_its_slots(finished):
    """The label map stands beside the weights."""
    (folder, *_) = (finished[0] / "save").glob("CKPT*")
    names = {path.stem for path in folder.iterdir()}
    assert {"student", "slots", "provenance", "history"} <= names
    weights = torch.load(folder / "student.ckpt", weights_only=True)
    assert weights["classifier.weight"].shape == (24, 256)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"bach_size": 3}, ["bach_size", "batch_size"]),
        ({"lr": "fast"}, ["lr", "number"]),
        ({"data_folder": "/no/such/place"}, ["/no/such/place"]),
        ({"encoder_source": "/no/such/encoder"}, ["/no/such/encoder"]),
        ({"text_encoder": "no/such-model"}, ["no/such-model"]),
        ({"encoder_dropout": "True"}, ["store_features", "encoder_dropout"]),
        ({"slots": "[action, colour]"}, ["colour"]),
    ],
)
def test_bad_input_gets_one_sentence(small, tmp_path, options, words):
    """What is wrong is named, without a traceback, before training."""
    places = {**small, "output_folder": tmp_path / "run", **options}
    printed = run("distill_teacher_mae_exp", places, fails=True)
    last = printed.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert all(word in last for word in words)
    assert "Traceback" not in printed
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_other_settings_do_not_go_on_with_a_run(finished):
    """A run of another configuration is refused, and stays as it is."""
    folder, _, options = finished
    before = (folder / "hyperparams.yaml").read_text()
    printed = run("distill_teacher_mae_exp", {**options, "lr": 0.5}, fails=True)
    last = printed.strip().splitlines()[-1]
    assert "lr" in last and str(folder) in last
    assert (folder / "hyperparams.yaml").read_text() == before


def test_stops_when_the_loss_is_not_finite(small, tmp_path):
    """An encoder that is broken ends with a message, not with NaN results."""
    weights = torch.load(ENCODER, weights_only=True)
    broken = {key: value * float("nan") for key, value in weights.items()}
    torch.save(broken, tmp_path / "encoder.ckpt")
    places = {"output_folder": tmp_path / "run", "encoder_source": tmp_path}
    printed = run("baseline", {**small, **places}, fails=True)
    assert "the loss is nan at epoch 1, step 1" in printed
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_trains_without_stored_features(small, tmp_path):
    """Unfreezing runs the encoder in the loop and moves its top layers."""
    options = {
        **small,
        "output_folder": tmp_path / "run",
        "store_features": "False",
        "unfreezing": "!new:slu_kd_lobes.unfreezing.GradualUnfreezing "
        "{modules: word}",
    }
    run("distill_hybrid_mae_err", options)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["parameters"] == {"trained": 1380160, "frozen": 0}
    (checkpoint, *_) = (tmp_path / "run" / "save").glob("CKPT*")
    after = torch.load(checkpoint / "encoder.ckpt", weights_only=True)
    before = torch.load(ENCODER, weights_only=True)
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert moved and all(key.startswith("word_layers") for key in moved)
    log = (tmp_path / "run" / "train_log.txt").read_text()
    assert "gamma" in log


def test_processes_of_torchrun_give_the_losses_of_one(small, tmp_path):
    """Two processes, dropout on, one batch of 16, one store read by both."""
    single = {**small, "output_folder": tmp_path / "one"}
    single["feature_folder"] = tmp_path / "features"
    several = {**single, "output_folder": tmp_path / "two"}
    run("distill_hybrid_mae_err", several, processes=2)
    store = list((tmp_path / "features").glob("*/*"))
    assert sorted(path.suffix for path in store) == [".bin", ".json"]
    run("distill_hybrid_mae_err", single)
    losses = [
        [
            float(value)
            for value in re.findall(
                r"[\d.]+(?:e[-+]\d+)?",
                (tmp_path / name / "train_log.txt").read_text(),
            )
        ]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 3 * 9
    assert losses[0] == pytest.approx(losses[1], rel=0.011)
    one, two = (history_of(tmp_path / name) for name in ("one", "two"))
    for epoch, other in zip(one, two):
        assert epoch == pytest.approx(other, rel=1e-4)


def history_of(folder):
    """Statistics of all epochs, as the last checkpoint has them."""
    (path,) = (folder / "save").glob("CKPT*3*/history.ckpt")
    return json.loads(path.read_text())


def test_students_trained_together_are_those_trained_alone(small, tmp_path):
    """Configurations and seeds in one process; also after a kill -9."""
    arguments = {**small, "results": tmp_path / "many"}
    configs = ["baseline", "distill_hybrid_mae_err"]
    many = [sys.executable, "train_many.py"]
    many += [f"hparams/{config}.yaml" for config in configs]
    many += ["--seeds", "1234", "7", "--workers=2", "--device=cpu"]
    many += [f"--{key}={value}" for key, value in arguments.items()]
    options = dict(cwd=ROOT, env=environment(), text=True)
    process = subprocess.Popen(many, stdout=-3, stderr=-3, **options)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("many/*/7/save/CKPT*/CKPT.yaml")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("many/*/*/metrics.json"))
    again = subprocess.run(many, capture_output=True, **options)
    assert again.returncode == 0, again.stderr
    for config, seed in ((configs[0], 7), (configs[1], 1234)):
        folder = tmp_path / "alone" / config
        run(config, {**small, "seed": seed, "output_folder": folder})
        together = tmp_path / "many" / config / str(seed)
        assert metrics_of(together) == metrics_of(folder)
        predictions = [
            (path / "predictions_test.csv").read_text()
            for path in (folder, together)
        ]
        assert predictions[0] == predictions[1]


def test_students_share_the_noise_of_an_encoder_in_training(small, tmp_path):
    """One pass of the encoder with dropout serves all with the same order."""
    options = {
        **small,
        "number_of_epochs": 1,
        "store_features": "False",
        "encoder_dropout": "True",
        "shuffle_seed": 0,
    }
    many = {**options, "results": tmp_path / "many", "seeds": 7}
    run("baseline", many, script="train_many.py")
    alone = {**options, "seed": 7, "output_folder": tmp_path / "alone"}
    run("baseline", alone)
    together = tmp_path / "many" / "baseline" / "7"
    assert metrics_of(together) == metrics_of(tmp_path / "alone")


@pytest.mark.parametrize(
    "options, words",
    [
        (
            {
                "store_features": "False",
                "unfreezing": "!new:slu_kd_lobes.unfreezing.GradualUnfreezing "
                "{modules: word}",
            },
            ["unfreezes", "train.py"],
        ),
        ({"seeds": "one"}, ["--seeds", "one"]),
        ({"workers": 0}, ["--workers", "at least 1"]),
        ({"results": "/proc/no"}, ["/proc/no"]),
    ],
)
def test_students_that_cannot_share_are_refused(
    small, tmp_path, options, words
):
    """In a sentence, before anything is written."""
    places = {**small, "results": tmp_path / "many", **options}
    printed = run("baseline", places, script="train_many.py", fails=True)
    last = printed.strip().splitlines()[-1]
    assert all(word in last for word in words)
    assert "Traceback" not in printed
    assert not list(tmp_path.glob("many/**/hyperparams.yaml"))


def test_unfreezing_needs_one_process(small, tmp_path):
    """Nothing would bring the encoders of the processes together."""
    options = {
        **small,
        "output_folder": tmp_path / "run",
        "store_features": "False",
        "unfreezing": "!new:slu_kd_lobes.unfreezing.GradualUnfreezing "
        "{modules: word}",
    }
    printed = run("baseline", options, fails=True, processes=2)
    assert "error: an encoder that unfreezes cannot train" in printed
