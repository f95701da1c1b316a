"""Two-stage distillation, stage by stage, as a user runs it."""

import json
import shutil
import signal
import sys

import pytest
from running import (
    CORPUS,
    ROOT,
    command,
    metrics_of,
    processes,
    run,
    run_command,
    stopped,
)

from slu_kd_lobes.utils.environment import packaged_minilm
from slu_kd_lobes.utils.files import read_csv, write_json
from slu_kd_lobes.utils.sealed import load_sealed

RECIPE = ROOT / "recipes" / "fluent-speech-commands" / "two_stage"
TINY = {
    "token_pretraining": "{number_of_epochs: 1, encoder: {hidden_size: 16, "
    "num_layers: 1, num_heads: 2, feed_forward: 16}}",
    "acoustic_pretraining": "{number_of_epochs: 1}",
    "acoustic": "{hidden_size: 8, num_layers: 1, channels: 2}",
    "fine_tuning": "{number_of_epochs: 1, max_train_error: 100}",
    "speech_hours": 0.02,
    "speech_valid_hours": 0.01,
    "train_fraction": 0.05,
    "number_of_epochs": 1,
}

#: A little speech, for a stage alone.
PAIRS = {
    "data_folder": CORPUS,
    "splits": "{train: [data/train_data], valid: [data/valid_data]}",
    "hours": 0.02,
    "valid_hours": 0.01,
    "tokeniser": "kmeans",
}


def options_for(folder, name, **changes):
    """Everything below one folder, a run in a folder of its own."""
    places = ("pretraining", "feature", "teacher", "manifest")
    return {
        **TINY,
        **{f"{place}_folder": folder / place for place in places},
        "output_folder": folder / name,
        **changes,
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All stages, each on a little of the bundled corpus."""
    folder = tmp_path_factory.mktemp("two_stage")
    printed = run("bundled", options_for(folder, "all"), RECIPE)
    return folder, printed


def stages(folder):
    """Names of the pre-trained models that are there."""
    found = (folder / "pretraining").glob("*/metrics.json")
    return sorted(path.parent.name.split("-")[0] for path in found)


def test_all_stages_end_in_metrics(trained):
    """Joint intents, a teacher of them, and models that others can load."""
    folder, printed = trained
    metrics = metrics_of(folder / "all")
    assert 0 <= metrics["test"]["intent_error"] <= 100
    assert metrics["n_train"] == 68  # 5 % of 1,350
    assert stages(folder) == ["am_pt", "pt_kd"]
    pt_kd = next((folder / "pretraining").glob("pt_kd-*"))
    valid = json.loads((pt_kd / "metrics.json").read_text())["valid"]
    assert {"masked", "matching", "top1"} <= set(valid)
    assert (pt_kd / "encoder" / "model.safetensors").is_file()
    assert "own transcript nearest" in printed
    assert list(metrics["teachers"]) == ["teacher"]
    assert list(metrics["test"]["slot_error"]) == ["intent"]


def test_a_stage_is_trained_once(trained):
    """Fewer stages use what is there; masked tokens alone are another one."""
    folder, _ = trained
    before = {
        path: path.stat().st_mtime_ns
        for path in (folder / "pretraining").glob("*/encoder/*")
    }
    changes = {"stages": "pt_kd,ft", "augment": False}
    run("bundled", options_for(folder, "few", **changes), RECIPE)
    assert stages(folder) == ["am_pt", "pt_kd"]
    assert all(path.stat().st_mtime_ns == t for path, t in before.items())
    assert metrics_of(folder / "few")["teachers"] == {}
    run("bundled", options_for(folder, "none", stages="pt"), RECIPE)
    assert stages(folder) == ["am_pt", "pt", "pt_kd"]
    pt = next((folder / "pretraining").glob("pt-*"))
    valid = json.loads((pt / "metrics.json").read_text())["valid"]
    assert "masked" in valid and "matching" not in valid


@pytest.mark.parametrize(
    "text", ["ft_kd,pt_kd", "pt,pt_kd", "am_pt,ft", "pt_kd,teaching", ""]
)
def test_stages_have_an_order(text, tmp_path):
    """What cannot be run is told before any work."""
    options = options_for(tmp_path, "all", stages=text)
    printed = run("bundled", options, RECIPE, fails=True)
    assert "in this order, pt or pt_kd" in printed
    assert not (tmp_path / "pretraining").exists()


def test_a_wrong_folder_of_speech_is_one_sentence(tmp_path):
    """The stage says it, and nothing after it is run."""
    options = options_for(tmp_path, "all", speech_folder=CORPUS / "nowhere")
    printed = run("bundled", options, RECIPE, fails=True)
    assert "nowhere does not exist" in printed
    assert "Traceback" not in printed
    options["speech_folder"] = "null"
    printed = run("bundled", options, RECIPE, fails=True)
    assert "speech_folder: give a folder of transcribed speech" in printed
    assert not (tmp_path / "all" / "metrics.json").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data_folder": CORPUS / "nowhere"}, "nowhere does not exist"),
        ({"acoustic_pretraining": "{epochs: 3}"}, "there is no key 'epochs'"),
        ({"matching_weight": 2.0}, "that of a pre-training is in utterance_"),
        ({"kd_weight": -1.0}, "kd_weight"),
    ],
)
def test_what_a_later_stage_refuses_is_told_at_once(changes, message, tmp_path):
    """And not after hours of pre-training."""
    options = options_for(tmp_path, "all", **changes)
    printed = run("bundled", options, RECIPE, fails=True)
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "pretraining").exists()


def test_the_epoch_that_is_kept_is_part_of_a_name(trained, tmp_path):
    """What comes after would be made from another encoder."""
    folder, _ = trained
    for epoch in ("best", "last"):
        keys = f"{TINY['token_pretraining'][:-1]}, test_epoch: {epoch}}}"
        changes = {"stages": "pt", "pretraining_folder": tmp_path}
        options = options_for(folder, "no", token_pretraining=keys, **changes)
        run("bundled", options, RECIPE)
    assert len(list(tmp_path.glob("pt-*/metrics.json"))) == 2


def test_what_is_deleted_is_made_again(trained, tmp_path):
    """From the checkpoints; an encoder, of which metrics say that it is done."""
    folder, _ = trained
    shutil.copytree(folder / "pretraining", tmp_path / "pretraining")
    (encoder,) = tmp_path.glob("pretraining/pt_kd-*/encoder")
    before = (encoder / "model.safetensors").read_bytes()
    shutil.rmtree(encoder)
    changes = {"pretraining_folder": tmp_path / "pretraining"}
    run("bundled", options_for(folder, "c", stages="pt_kd", **changes), RECIPE)
    assert (encoder / "model.safetensors").read_bytes() == before


def test_a_stage_ends_with_its_command(tmp_path):
    """Else it and the next command would train in one folder."""
    words = command("bundled", options_for(tmp_path, "all"))
    log = "pretraining/pt_kd-*/log.txt"
    stopped(words, lambda: list(tmp_path.glob(log)), RECIPE, signal.SIGTERM)
    assert not processes(tmp_path)


def test_typed_wordings_are_found_by_stage_one(trained):
    """The vectors of that stage are those of the text encoder."""
    folder, _ = trained
    recipe = ROOT / "recipes" / "LibriSpeech" / "two_stage_pretraining"
    pt_kd = next((folder / "pretraining").glob("pt_kd-*"))
    options = {
        "pretrained": pt_kd,
        "feature_folder": folder / "feature",
        "manifest_folder": folder / "manifest",
        "output_folder": folder / "typed",
        "test_splits": "[utt_test]",
        "typed": "all",
    }
    script = "typed_commands.py"
    run("typed_commands", options, recipe, script=script)
    metrics = metrics_of(folder / "typed")
    assert 0 <= metrics["test"]["intent_error"] <= 100
    assert metrics["cost"]["milliseconds"] > 0
    assert metrics["wordings"] > 50
    pt = next((folder / "pretraining").glob("pt-*"), None)
    if pt is not None:  # it has no vectors of text
        options |= {"pretrained": pt, "output_folder": folder / "no"}
        printed = run("typed_commands", options, recipe, True, script)
        assert "learnt no vectors of text" in printed


def test_too_few_frames_for_letters_are_told(trained):
    """Before any training: CTC would learn nothing."""
    folder, _ = trained
    recipe = ROOT / "recipes" / "LibriSpeech" / "two_stage_pretraining"
    pt_kd = next((folder / "pretraining").glob("pt_kd-*"))
    options = {
        **PAIRS,
        "token_encoder": pt_kd / "encoder",
        "acoustic": "{hidden_size: 8, num_layers: 1, channels: 2, stride: 4}",
        "feature_folder": folder / "feature",
        "output_folder": folder / "few_frames",
    }
    told = {"fails": True, "script": "train_ctc.py"}
    printed = run("am_pt", options, recipe, **told)
    assert "too few frames for CTC to write them: lower the stride" in printed
    assert "Traceback" not in printed
    options["token_encoder"] = "null"
    printed = run("am_pt", options, recipe, **told)
    assert "token_encoder: give the encoder folder" in printed


def test_another_kmeans_is_fitted_before_anything_was_trained(tmp_path):
    """An old one would be used in silence, whatever was typed."""
    recipe = ROOT / "recipes" / "LibriSpeech" / "two_stage_pretraining"
    options = {
        **PAIRS,
        "encoder": "{hidden_size: 16, num_layers: 1, num_heads: 2, "
        "feed_forward: 16}",
        "number_of_epochs": 1,
        "feature_folder": tmp_path / "features",
        "output_folder": tmp_path / "run",
    }
    for clusters in (3, 5):
        run("pt", {**options, "kmeans_clusters": clusters}, recipe)
        (tmp_path / "run" / "metrics.json").unlink()
        for checkpoint in tmp_path.glob("run/save/CKPT*"):
            shutil.rmtree(checkpoint)
        path = tmp_path / "run" / "encoder" / "tokeniser.safetensors"
        tensors, _ = load_sealed(path, "")
        assert tensors["centroids"].shape[:2] == (2, clusters)


STAGE_ONE = "../../LibriSpeech/two_stage_pretraining/hparams"
MATRIX = {
    "title": "Two stages",
    "reference": "no KD",
    "seeds": [1],
    "variables": {"speech": "nowhere"},
    "conditions": {"all": {}},
    "overrides": {"test_splits": ["utt_test"]},
    "systems": {
        "no KD": {
            "script": "two_stage.py",
            "config": "../two_stage/hparams/bundled.yaml",
            "overrides": {
                **TINY,
                "stages": "pt,ft",
                "speech_folder": "<speech>",
            },
        },
        "typed": {
            "script": "typed_by_tokens.py",
            "config": f"{STAGE_ONE}/typed_commands.yaml",
            "overrides": {"pretrained": "<first>"},
            "first": {
                "script": "pretrain.py",
                "config": f"{STAGE_ONE}/pt_kd.yaml",
                "overrides": {
                    "data_folder": "<data_folder>",
                    "splits": {
                        "train": ["data/train_data"],
                        "valid": ["data/valid_data"],
                    },
                    "hours": 0.02,
                    "valid_hours": 0.01,
                    "tokeniser": "kmeans",
                    "text_encoder": "<text_encoder>",
                    "encoder": {
                        "hidden_size": 16,
                        "num_layers": 1,
                        "num_heads": 2,
                        "feed_forward": 16,
                    },
                    "number_of_epochs": 1,
                },
            },
        },
    },
}


def run_matrix(folder, fails=False, **variables):
    """Runs all of it; JSON is YAML, too."""
    text_encoder = str(packaged_minilm())
    matrix = folder / "two_stage.yaml"
    variables = {"speech": CORPUS, "text_encoder": text_encoder, **variables}
    write_json(matrix, {**MATRIX, "variables": dict.fromkeys(variables, "?")})
    places = {"results": folder / "made", "report": folder / "report"}
    options = {"data_folder": CORPUS, **places, **variables}
    words = [f"--{key}={value}" for key, value in options.items()]
    command = [sys.executable, "experiments.py", matrix, *words]
    return run_command(command, fails)


def test_a_matrix_has_stages_and_typed_wordings(tmp_path):
    """Pre-trained models lie beside the runs; again, nothing is trained."""
    run_matrix(tmp_path)
    made = tmp_path / "made"
    found = sorted(made.glob("*/*/metrics.json"))
    names = [path.parent.name.split("-")[0] for path in found]
    assert names == ["pt", "bundled", "pt_kd", "typed_commands"]
    rows = read_csv(tmp_path / "report" / "results" / "runs.csv")
    assert {row["system"] for row in rows} == {"no KD", "typed"}
    assert {row["test_set"] for row in rows} == {"valid", "utt_test"}
    said = next((made / "runs").glob("bundled-*/output.txt")).read_text()
    assert "masked tokens named" in said  # of the stage as well
    times = {path: path.stat().st_mtime_ns for path in found}
    run_matrix(tmp_path)
    assert times == {p: p.stat().st_mtime_ns for p in times}
    assert sorted(made.glob("*/*/metrics.json")) == found


def test_a_stage_that_fails_in_a_matrix_is_told(tmp_path):
    """The sentence names the stage; its output says why."""
    printed = run_matrix(tmp_path, fails=True, speech=tmp_path / "nowhere")
    assert "1 runs failed; the first: pt-" in printed
    said = next(tmp_path.glob("made/runs/bundled-*/output.txt")).read_text()
    assert "nowhere does not exist" in said
