"""Two-stage distillation, stage by stage, as a user runs it."""

import json

import pytest
from running import CORPUS, ROOT, metrics_of, run

RECIPE = ROOT / "recipes" / "fluent-speech-commands" / "two_stage"
TINY = {
    "token_pretraining": "{number_of_epochs: 1, encoder: {hidden_size: 16, "
    "num_layers: 1, num_heads: 2, feed_forward: 16}}",
    "acoustic_pretraining": "{number_of_epochs: 1, acoustic_model: "
    "{hidden_size: 8, num_layers: 1, channels: 2}}",
    "student": "{hidden_size: 8, num_layers: 1, channels: 2}",
    "fine_tuning": "{number_of_epochs: 1, max_train_error: 100}",
    "speech_hours": 0.02,
    "speech_valid_hours": 0.01,
    "train_fraction": 0.05,
    "number_of_epochs": 1,
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
    assert not (tmp_path / "all" / "metrics.json").exists()


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
