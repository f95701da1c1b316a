"""The whole recipe on a few dozen real utterances, as a user runs it."""

import csv
import json
import shutil

import pytest
import torch
from running import (
    CORPUS,
    ROOT,
    command,
    error_of_predictions,
    manifest_rows,
    metrics_of,
    run,
    stopped,
)

from slu_kd_lobes.inference.classifier import SpokenIntentClassifier
from slu_kd_lobes.inference.package import package_run
from slu_kd_lobes.utils.environment import packaged_minilm

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
    assert "cannot save figures" not in printed
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
    recipe = ROOT / "recipes/fluent-speech-commands/logit_distillation"
    again = {"output_folder": tmp_path / "again"}
    run(str(folder / "hyperparams.yaml"), again, cwd=recipe)
    assert metrics_of(tmp_path / "again") == metrics_of(folder)


def test_killed_run_goes_on_to_the_same_result(finished, small, tmp_path):
    """After kill -9 the same command ends with the same metrics."""
    options = {**small, "output_folder": tmp_path / "killed"}
    words = command("distill_teacher_mae_exp", options)
    saved = "killed/save/CKPT*/CKPT.yaml"
    stopped(words, lambda: list(tmp_path.glob(saved)))
    assert not (tmp_path / "killed" / "metrics.json").exists()
    printed = run("distill_teacher_mae_exp", options)
    assert "Loading a checkpoint" in printed
    assert metrics_of(tmp_path / "killed") == metrics_of(finished[0])


def test_more_epochs_go_on_wherever_corpus_and_models_are(
    finished, small, tmp_path
):
    """To what a run of so many epochs gives, to the digit."""
    moved = tmp_path / "My data #2"
    sources = {
        "data_folder": CORPUS,
        "encoder_source": ENCODER.parent,
        "text_encoder": packaged_minilm(),
    }
    for key, source in sources.items():
        shutil.copytree(source, moved / key)
    options = {**small, "output_folder": tmp_path / "run"}
    run("distill_teacher_mae_exp", {**options, "number_of_epochs": 2})
    assert metrics_of(tmp_path / "run") != metrics_of(finished[0])
    options |= {key: moved / key for key in sources}
    printed = run("distill_teacher_mae_exp", options)
    assert "training it now" not in printed and "Encoding" not in printed
    assert metrics_of(tmp_path / "run") == metrics_of(finished[0])


def test_other_data_are_told_before_they_cost_time(finished, small, tmp_path):
    """And another label set; what to type is said, the run stays."""
    folder, _, options = finished
    before = (folder / "hyperparams.yaml").read_text()
    for path in small["csv_folder"].glob("*.csv"):
        shutil.copy(path, tmp_path)
    train = tmp_path / "train_data.csv"
    lines = train.read_text().splitlines()
    wrong = {**options, "csv_folder": tmp_path}
    for rows, words in (
        (lines[:-1], "was made from another tables, train data: give --output"),
        ([*lines[:-1], f"{lines[-1].rpartition(',')[0]},attic"], "['attic']"),
    ):
        train.write_text("\n".join(rows) + "\n")
        printed = run("distill_teacher_mae_exp", wrong, fails=True)
        assert words in printed.strip().splitlines()[-1]
        assert "training it now" not in printed and "Encoding" not in printed
    assert (folder / "hyperparams.yaml").read_text() == before


def test_checkpoint_carries_its_slots(finished):
    """The label map stands beside the weights."""
    (folder, *_) = (finished[0] / "save").glob("CKPT*")
    names = {path.stem for path in folder.iterdir()}
    assert {"student", "slots", "made_from", "history"} <= names
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
        ({"encoder_source": "null"}, ["encoder_source", "hears nothing"]),
        ({"features": "dropped"}, ["features", "on_the_fly", "unfreeze_all"]),
        ({"sample_rate": 8000}, ["sample_rate", "16000"]),
        ({"teacher_weights": "batch_error"}, ["professor", "teacher"]),
        ({"teachers": "[sentence]"}, ["sentence", "professor"]),
        ({"data_folder": "My Corpus #2"}, ["My Corpus #2"]),
        ({"slots": "[action, colour]"}, ["colour"]),
        ({"slots": "[null]"}, ["slots, 1", "null"]),
        ({"test_epoch": "bst"}, ["test_epoch", "last or best", "'bst'"]),
        ({"student": "{num_layers: 0}"}, ["num_layers"]),
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
    places["features"] = "on_the_fly"
    printed = run("baseline", {**small, **places}, fails=True)
    assert "error: the loss is nan at epoch 1, step 1" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("features", ["unfreeze_word", "unfreeze_all"])
def test_unfreezing_moves_the_top_layers(small, tmp_path, features):
    """The encoder runs in the loop; in three epochs two layers have moved."""
    folder = tmp_path / "run"
    options = {**small, "output_folder": folder, "features": features}
    run("distill_hybrid_mae_err", options)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["parameters"] == {"trained": 1380160, "frozen": 0}
    (checkpoint, *_) = (folder / "save").glob("CKPT*")
    after = torch.load(checkpoint / "encoder.ckpt", weights_only=True)
    before = torch.load(ENCODER, weights_only=True)
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert moved and all(key.startswith("word_layers") for key in moved)
    log = (folder / "train_log.txt").read_text()
    assert "gamma" in log


def test_features_on_the_fly_are_those_of_the_store(finished, tmp_path):
    """Without dropout, where they are made changes nothing but rounding."""
    folder, _, options = finished
    fly = {**options, "output_folder": tmp_path, "features": "on_the_fly"}
    run("distill_teacher_mae_exp", fly)
    for one, two in zip(history_of(folder), history_of(tmp_path)):
        assert one == pytest.approx(two, rel=1e-3)


def test_dropout_of_the_frozen_encoder_is_on_only_in_training(small, tmp_path):
    """It changes the training loss, and nothing of the encoder."""
    histories = []
    for features in ("on_the_fly", "dropout"):
        folder = tmp_path / features
        run(
            "baseline",
            {**small, "output_folder": folder, "features": features},
        )
        histories.append(history_of(folder))
        assert not list(folder.glob("save/*/encoder.ckpt"))
    first, second = (history[0] for history in histories)
    assert first["train_loss"] != pytest.approx(second["train_loss"], rel=1e-3)


TELLING = """
import sys
sys.path.insert(0, {recipe!r})
import train
from slu_kd_lobes.utils.fingerprints import weights_fingerprint

fit = train.SLUBrain.fit

def fit_and_tell(brain, *args, **kwargs):
    fit(brain, *args, **kwargs)
    found = weights_fingerprint(brain.modules)
    with open({folder!r} + "/weights-" + str(brain.rank), "w") as file:
        file.write(found)

train.SLUBrain.fit = fit_and_tell
train.main(sys.argv[1:])
"""


def test_two_processes_train_one_student(small, tmp_path):
    """It ends with equal weights on both, and a loss like that of one."""
    script = tmp_path / "telling.py"
    recipe = ROOT / "recipes/fluent-speech-commands/logit_distillation"
    names = {"recipe": str(recipe), "folder": str(tmp_path)}
    script.write_text(TELLING.format(**names))
    single = {**small, "output_folder": tmp_path / "one"}
    single |= {"feature_folder": tmp_path / "features", "batch_size": 8}
    single |= {"number_of_epochs": 12}
    several = {**single, "output_folder": tmp_path / "two", "batch_size": 4}
    run("baseline", several, script=str(script), processes=2)
    store = list((tmp_path / "features").glob("*/*"))
    assert sorted(path.suffix for path in store) == [".bin", ".json"]
    run("baseline", single)
    one, two = (history_of(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 12
    for history in (one, two):
        assert history[-1]["train_loss"] < history[0]["train_loss"] / 2
    for name in ("train_loss", "valid_loss"):
        assert one[-1][name] == pytest.approx(two[-1][name], rel=0.25)
    first, second = (
        (tmp_path / f"weights-{rank}").read_text() for rank in (0, 1)
    )
    assert first == second


def test_validates_every_so_many_epochs_and_at_the_end(small, tmp_path):
    """What is trained is the same; a kill between two is made good."""
    each, every = tmp_path / "each", tmp_path / "every"
    options = {**small, "number_of_epochs": 5}
    run("baseline", {**options, "output_folder": each})
    options = {**options, "output_folder": every, "valid_every": 3}
    log = every / "train_log.txt"
    stopped(
        command("baseline", options),
        lambda: log.is_file() and log.read_text().count("\n") >= 4,
    )
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
    told = "error: command line: 'valid_every' must be a whole number from 1 to"
    assert told in run("baseline", options, fails=True)


def history_of(folder):
    """Statistics of all epochs."""
    return json.loads((folder / "metrics.json").read_text())["history"]


def test_unfreezing_needs_one_process(small, tmp_path):
    """Nothing would bring the encoders of the processes together."""
    options = {
        **small,
        "output_folder": tmp_path / "run",
        "features": "unfreeze_word",
    }
    printed = run("baseline", options, fails=True, processes=2)
    assert "error: an encoder that unfreezes cannot train" in printed


def test_a_run_killed_inside_an_epoch_goes_on_to_the_same(small, tmp_path):
    """After a checkpoint inside an epoch: the numbers of a run without."""
    options = {**small, "batch_size": 4, "number_of_epochs": 2}
    run("distill_hybrid_mae_err", {**options, "output_folder": tmp_path / "a"})
    options |= {"output_folder": tmp_path / "b", "ckpt_interval_steps": 5}
    # 12 steps an epoch: after the first epoch, in the middle of the second.
    stopped(
        command("distill_hybrid_mae_err", options),
        lambda: is_inside(tmp_path / "b", 2),
    )
    assert not (tmp_path / "b" / "metrics.json").exists()
    run("distill_hybrid_mae_err", options)
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    for name in ("test", "utt_test", "valid"):
        one, two = (
            (tmp_path / f / f"predictions_{name}.csv").read_text() for f in "ab"
        )
        assert one == two


def is_inside(folder, epoch):
    """Whether the newest checkpoint was taken inside an epoch."""
    for path in folder.glob("save/CKPT*/CKPT.yaml"):
        try:
            counter = (path.parent / "counter.ckpt").read_text()
            if "end-of-epoch: false" in path.read_text() and (
                int(counter) == epoch
            ):
                return True
        except OSError:  # deleted meanwhile
            continue
    return False


def test_another_encoder_needs_no_other_recipe(
    small, tmp_path, transformer_folders
):
    """All layers of a WavLM are stored, their sum learnt, a package made."""
    source = tmp_path / "wavlm"
    shutil.copytree(transformer_folders / "wavlm", source)
    folder = tmp_path / "run"
    options = {
        **small,
        "encoder": "transformer",
        "encoder_source": source,
        "encoder_layers": "all",
        "output_folder": folder,
        "feature_folder": tmp_path / "features",
    }
    first = run("baseline", options)
    assert "Encoding" in first
    again = {**options, "output_folder": tmp_path / "again"}
    assert "Encoding" not in run("baseline", again)
    assert metrics_of(folder) == metrics_of(tmp_path / "again")
    wrong = {**again, "features": "dropout"}
    wrong["output_folder"] = tmp_path / "wrong"
    said = run("baseline", wrong, fails=True)
    assert "error: TransformerEncoder stays as it is" in said
    package = package_run(folder, tmp_path / "model")
    shutil.rmtree(source)
    model = SpokenIntentClassifier.from_hparams(package)
    assert model.mods.student.layer_sum.weights.abs().max() > 0
    with open(folder / "predictions_test.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wavs = {row["ID"]: row["wav"] for row in manifest_rows(folder, "test")}
    for row in rows:
        answer = model.classify_file(wavs[row["ID"]])["slots"]
        assert {name: slot["value"] for name, slot in answer.items()} == {
            name: row[f"{name}_predicted"] for name in answer
        }
