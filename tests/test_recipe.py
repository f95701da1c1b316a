"""The whole recipe on a few dozen real utterances, as a user runs it."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from running import (
    CORPUS,
    ROOT,
    command,
    environment,
    error_of_predictions,
    metrics_of,
    run,
)

from slu_kd_lobes.interface import SpokenIntentClassifier
from slu_kd_lobes.package import package_run

ENCODER = ROOT / "pretrained" / "sincnet-read-speech" / "encoder.ckpt"


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
    error = error_of_predictions(folder / "predictions_test.csv")
    assert error == pytest.approx(metrics["test"]["intent_error"])
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
    assert len(one) == len(two) == 3
    for epoch, other in zip(one, two):
        assert epoch == pytest.approx(other, rel=1e-4)


def test_validates_every_so_many_epochs_and_at_the_end(small, tmp_path):
    """What is trained is the same; a kill between two is made good."""
    each, every = tmp_path / "each", tmp_path / "every"
    options = {**small, "number_of_epochs": 5}
    run("baseline", {**options, "output_folder": each})
    options = {**options, "output_folder": every, "valid_every": 3}
    start = command("baseline", options)
    process = subprocess.Popen(
        start, cwd=ROOT, env=environment(), stdout=-3, stderr=-3
    )
    log, deadline = every / "train_log.txt", time.monotonic() + 240
    while not log.is_file() or log.read_text().count("\n") < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run("baseline", options)
    one, two = (
        json.loads((folder / "metrics.json").read_text())
        for folder in (each, every)
    )
    assert [row["epoch"] for row in two["history"]] == [1, 2, 3, 4, 5]
    for row, other in zip(one["history"], two["history"]):
        if row["epoch"] in (3, 5):
            assert row == other
        else:
            assert "valid_error" not in other
            assert row["train_loss"] == other["train_loss"]
    assert one["test"] == two["test"]


def test_an_interval_below_one_epoch_is_refused(small, tmp_path):
    options = {**small, "output_folder": tmp_path / "r", "valid_every": 0}
    assert "error: valid_every is 0" in run("baseline", options, fails=True)


def history_of(folder):
    """Statistics of all epochs, as the last checkpoint has them."""
    paths = (folder / "save").glob("CKPT*/history.ckpt")
    return max((json.loads(path.read_text()) for path in paths), key=len)


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


def test_students_that_cannot_share_the_data_are_refused(small, tmp_path):
    """One sentence that names the key; nothing is left."""
    other = tmp_path / "other.yaml"
    base = ROOT / "hparams" / "base.yaml"
    other.write_text(f"base: {base}\nteachers: []\ntrain_fraction: 0.5\n")
    many = [sys.executable, "train_many.py", "hparams/baseline.yaml"]
    many += [str(other), f"--results={tmp_path / 'many'}"]
    many += [f"--{key}={value}" for key, value in small.items()]
    options = dict(cwd=ROOT, env=environment(), text=True)
    result = subprocess.run(many, capture_output=True, **options)
    assert result.returncode != 0
    assert "must share (train_fraction): train them apart" in result.stderr
    assert not [path for path in tmp_path.rglob("many/**") if path.is_file()]


def test_another_encoder_needs_no_other_recipe(
    small, tmp_path, transformer_folders
):
    """All layers of a WavLM are stored, their sum learnt, a package made."""
    source = tmp_path / "wavlm"
    shutil.copytree(transformer_folders / "wavlm", source)
    kind = "!new:slu_kd_lobes.encoders.TransformerEncoder"
    folder = tmp_path / "run"
    options = {
        **small,
        "encoder": f"{kind} {{source: {source}, layers: all}}",
        "output_folder": folder,
        "feature_folder": tmp_path / "features",
    }
    first = run("baseline", options)
    assert "Encoding" in first
    again = {**options, "output_folder": tmp_path / "again"}
    assert "Encoding" not in run("baseline", again)
    assert metrics_of(folder) == metrics_of(tmp_path / "again")
    wrong = {**again, "encoder_dropout": True}
    wrong["output_folder"] = tmp_path / "wrong"
    said = run("baseline", wrong, fails=True)
    assert "error: TransformerEncoder stays as it is" in said
    package = package_run(folder, tmp_path / "model")
    shutil.rmtree(source)
    model = SpokenIntentClassifier.from_hparams(package)
    assert model.mods.student.layer_sum.weights.abs().max() > 0
    with open(folder / "predictions_test.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "manifests" / "test.csv", encoding="utf-8") as file:
        wavs = {row["ID"]: row["wav"] for row in csv.DictReader(file)}
    for row in rows:
        path = wavs[row["ID"]].replace("$data_root", str(CORPUS))
        answer = model.classify_file(path)["slots"]
        assert {name: slot["value"] for name, slot in answer.items()} == {
            name: row[f"{name}_predicted"] for name in answer
        }
