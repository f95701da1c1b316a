"""A finished run becomes a folder that others load."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from running import environment, manifest_rows, seal_checkpoint
from speechbrain.inference.interfaces import foreign_class

from slu_kd_lobes import __version__
from slu_kd_lobes.data.audio import read_waveform, resample
from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.evaluation.metrics import rejection_threshold
from slu_kd_lobes.inference import package as package_module
from slu_kd_lobes.inference.classifier import SpokenIntentClassifier
from slu_kd_lobes.inference.package import package_run
from slu_kd_lobes.inference.templates import STUDENT
from slu_kd_lobes.utils import hub
from slu_kd_lobes.utils.blocks import load_blocks


@pytest.fixture(scope="module")
def model(package):
    """The same, loaded."""
    return SpokenIntentClassifier.from_hparams(source=package)


def test_the_folder_has_what_speechbrain_and_people_read(package):
    """And nothing else, such as a temporary file."""
    assert {path.name for path in package.iterdir()} == {
        "README.md",
        "encoder.ckpt",
        "hyperparams.yaml",
        "requirements.txt",
        f"slu_kd_lobes-{__version__}-py3-none-any.whl",
        "student.ckpt",
    }
    assert list(package.parent.iterdir()) == [package]


def test_answers_are_those_of_the_run(finished, model):
    """Value and probability of every slot of every test utterance."""
    with open(finished[0] / "predictions_test.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wavs = {r["ID"]: r["wav"] for r in manifest_rows(finished[0], "test")}
    for row in rows:
        answer = model.classify_file(wavs[row["ID"]])
        product = 1.0
        for name, slot in answer["slots"].items():
            assert slot["value"] == row[f"{name}_predicted"]
            expected = float(row[f"{name}_probability"])
            assert slot["probability"] == pytest.approx(expected, abs=2e-4)
            product *= slot["probability"]
        assert list(answer["slots"]) == ["action", "object", "location"]
        assert answer["probability"] == pytest.approx(product, abs=1e-5)
        assert answer["rejected"] == (answer["probability"] < model.threshold)


def test_a_batch_gives_what_its_items_give(model):
    """Padding changes nothing."""
    wavs = torch.randn(2, 32000) / 10
    both = model.classify_batch(wavs, torch.tensor([1.0, 0.5]))
    alone = model.classify_batch(wavs[1:, :16000])
    for name, slot in both[1]["slots"].items():
        other = alone[0]["slots"][name]
        assert slot["value"] == other["value"]
        assert slot["probability"] == pytest.approx(other["probability"], 1e-4)
        assert 0 < slot["seconds"] < 1.0


def test_the_deciding_second_is_that_of_the_largest_logit(model):
    """Two seconds are 13 frames of 160 ms; the last one is cut short."""
    wavs = torch.randn(1, 32000) / 10
    answer = model.classify_batch(wavs)[0]
    with torch.no_grad():
        features, lengths = model.mods.encoder(wavs, torch.ones(1))
        logits = model.mods.student.frame_logits(features, lengths)[0]
    frame, column = divmod(int(logits[:, :6].argmax()), 6)
    action = answer["slots"]["action"]
    assert action["value"] == model.schema.values["action"][column]
    assert action["seconds"] == pytest.approx((frame + 0.5) * 2 / 13, abs=1e-3)


def test_speechbrains_own_loader_takes_it(finished, tmp_path, monkeypatch):
    """From any folder, where its Python file was asked for."""
    package = package_run(finished[0], tmp_path / "p", foreign_class=True)
    assert "foreign_class(" in (package / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    model = foreign_class(
        source=str(package),
        pymodule_file="custom_interface.py",
        classname="SpokenIntentClassifier",
        overrides={"package_folder": str(package)},
    )
    assert isinstance(model, SpokenIntentClassifier)
    assert len(model.classify_batch(torch.randn(3, 16000) / 10)) == 3


def changed(package, folder, name, change):
    """A copy of the package with one file changed."""
    copy = folder / "copy"
    shutil.copytree(package, copy)
    change(copy / name)
    return copy


def edit(old, new):
    """Replaces a text in a file."""

    def change(path):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def other_weights(path):
    """Adds to one weight."""
    state = torch.load(path, weights_only=True)
    next(iter(state.values())).view(-1)[0] += 1e-3
    torch.save(state, path)


@pytest.mark.parametrize(
    "name, change",
    [
        ("student.ckpt", other_weights),
        ("encoder.ckpt", other_weights),
        ("hyperparams.yaml", edit("threshold: 0.", "threshold: 0.1")),
        (
            "hyperparams.yaml",
            edit('"activate", "bring"', '"bring", "activate"'),
        ),
        ("hyperparams.yaml", edit("sample_rate: 16000", "sample_rate: 8000")),
        # What shapes no number, too.
        ("hyperparams.yaml", edit("package_folder: .", "package_folder: /")),
        ("hyperparams.yaml", edit("sha256: ", "extra: 1\nsha256: ")),
        ("hyperparams.yaml", lambda p: p.write_text(p.read_text() + "a: 1\n")),
    ],
)
def test_a_changed_file_is_refused(package, tmp_path, name, change):
    """Label order above all: it is never guessed."""
    copy = changed(package, tmp_path, name, change)
    with pytest.raises(
        ValueError, match="not those that were packaged|changed"
    ):
        SpokenIntentClassifier.from_hparams(source=copy)


def test_a_package_of_another_version_is_refused(package, tmp_path):
    """In a sentence that says so, however it is loaded."""
    old = changed(
        package,
        tmp_path,
        "hyperparams.yaml",
        edit("package_format: ", "format: "),
    )
    message = "was packaged by another version of slu_kd_lobes"
    with pytest.raises(ValueError, match=message):
        SpokenIntentClassifier.from_hparams(source=old)


def test_two_models_of_the_hub_keep_apart(package, tmp_path, monkeypatch):
    """In one savedir, each in a folder of its own."""
    fetched = []

    def snapshot_download(source, local_dir):
        fetched.append(local_dir)
        shutil.copytree(package, local_dir, dirs_exist_ok=True)
        return str(local_dir)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    for source in ("me/lights", "you/lights"):
        SpokenIntentClassifier.from_hparams(source, savedir=tmp_path)
    assert fetched == [tmp_path / "me--lights", tmp_path / "you--lights"]


def test_a_local_model_is_used_where_it_is(package, tmp_path):
    """A savedir with another model in it changes nothing."""
    savedir = tmp_path / "kept"
    savedir.mkdir()
    (savedir / "hyperparams.yaml").write_text("modules: {}")
    (savedir / "student.ckpt").write_bytes(b"of another model")
    model = SpokenIntentClassifier.from_hparams(package, savedir=savedir)
    assert model.schema.names == ["action", "object", "location"]


def test_a_device_that_is_not_there_is_one_sentence(package):
    """Before anything is loaded."""
    with pytest.raises(ValueError, match="device 'cuda:7' cannot be used"):
        SpokenIntentClassifier.from_hparams(
            package, run_opts={"device": "cuda:7"}
        )


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    """Whatever else is in it."""
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FileNotFoundError, match="holds no packaged model"):
        SpokenIntentClassifier.from_hparams(tmp_path)


def test_labels_of_any_script_come_back():
    """Also those that JSON would write in two halves, or YAML refuses."""
    values = ["\U0001f4a1 on", "\u0950", "a\x7fb", "tab\there", 'quo"te', "no"]
    schema = SlotSchema({"\U0001f3e0": values})
    assert from_package(schema) == schema


def from_package(schema):
    """What is read from the lines of a package that hold a schema."""
    text = package_module._json_in_yaml(schema.to_dict())
    lines = STUDENT[STUDENT.index("schema:") : STUDENT.index("{encoder}")]
    return load_blocks(lines.format(schema=text))["schema"]


LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("mark", [*LINE_ENDS, *"?-:,[]{}#&*!|>'\"%@`~=<()\\"])
def test_labels_with_marks_of_yaml_come_back(mark):
    """And with all that ends a line somewhere; at any place, in names too."""
    texts = [f"{mark}b a", f"a{mark}b", f"a {mark} b", f"b{mark}", f"{mark}7"]
    schema = SlotSchema(dict.fromkeys(texts, texts))
    assert from_package(schema) == schema


def test_a_run_of_an_older_version_is_refused(finished, tmp_path):
    """Its configuration had no menu of encoders."""
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    (run / "hyperparams.yaml").write_text("encoder: sincnet\n")
    with pytest.raises(ValueError, match="of an older version"):
        package_run(run, tmp_path / "model")


@pytest.mark.parametrize("name", ["metrics.json", "predictions_valid.csv"])
@pytest.mark.parametrize("content", [b"", b"[1", b"ID,a\n1", b"\xff\xfe"])
def test_damaged_results_of_a_run_are_one_sentence(
    finished, tmp_path, name, content
):
    """And no folder is made."""
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    (run / name).write_bytes(content)
    with pytest.raises(ValueError, match="damaged|not finished|no answer"):
        package_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_and_an_unfinished_run_are_refused(
    finished, package, tmp_path
):
    """Before anything is written."""
    with pytest.raises(ValueError, match="exists"):
        package_run(finished[0], package)
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    (run / "metrics.json").unlink()
    with pytest.raises(ValueError, match="no metrics.json"):
        package_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_encoder_than_that_of_the_training_is_refused(
    finished, tmp_path
):
    """The checkpoint knows its fingerprint."""
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    for path in run.glob("save/*/made_from.ckpt"):
        made_from = json.loads(path.read_text())
        path.write_text(json.dumps({**made_from, "encoder": "0"}))
        seal_checkpoint(path.parent)
    with pytest.raises(ValueError, match="encoder .* has changed"):
        package_run(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_card_has_the_figures_of_the_run(finished, package):
    """Error, slots, threshold and versions."""
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    card = (package / "README.md").read_text()
    for text in (
        f"{metrics['test']['intent_error']:.2f} %",
        "utt_test",
        "| location | ",
        f"torch {metrics['versions']['torch']}",
        "302,616 trained",
        "taught it by knowledge distillation",
    ):
        assert text in card
    assert "None" not in card and "foreign_class" not in card


def test_threshold_worked_out_by_hand():
    """Of four right answers, three quarters are the upper three."""
    confidence = np.array([0.3, 0.51239, 0.8, 0.9, 0.95])
    right = np.array([True, True, True, True, False])
    assert rejection_threshold(confidence, right, 1.0) == 0.3
    assert rejection_threshold(confidence, right, 0.75) == 0.5123
    assert rejection_threshold(confidence, ~right, 0.5) == 0.95
    assert rejection_threshold(confidence, right & False, 0.5) == 0.0
    for keep in (0, -0.1, 1.01):
        with pytest.raises(ValueError, match="keep"):
            rejection_threshold(confidence, right, keep)


def test_the_card_says_what_share_of_accepted_answers_is_wrong(
    finished, tmp_path
):
    """On validation data; the threshold may be chosen by it."""
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    slots = ("action", "object", "location")
    header = ["ID"]
    for slot in slots:
        header += [f"{slot}_true", f"{slot}_predicted", f"{slot}_probability"]
    lines = [",".join(header)]
    for i in range(10):  # the three least sure are wrong
        said = "b" if i < 3 else "a"
        lines.append(f"{i},a,{said},0.{i}5,a,a,1.0,a,a,1.0")
    (run / "predictions_valid.csv").write_text("\n".join(lines) + "\n")
    metrics = json.loads((run / "metrics.json").read_text())
    history = [{"epoch": 7, "train_error": 38.56}]
    metrics.update(still_learning=True, history=history)
    (run / "metrics.json").write_text(json.dumps(metrics))

    def card(name, **options):
        text = (package_run(run, tmp_path / name, **options)).joinpath(
            "README.md"
        )
        return " ".join(text.read_text().split())

    usual = card("usual")
    assert "below 0.35." in usual
    assert "Of the 7 that it accepts, 0 are wrong (0.0 %)." in usual
    some = card("some", max_wrong=0.25)
    assert "below 0.15. On the 10 validation utterances" in some
    assert "Of the 9 that it accepts, 2 are wrong (22.2 %)." in some
    assert "ended after 7 epochs with 38.6 % of its own" in some
    with pytest.raises(ValueError, match="give keep or max_wrong"):
        package_run(run, tmp_path / "both", keep=0.9, max_wrong=0.1)
    assert not (tmp_path / "both").exists()


def test_make_names_the_command(package):
    """The console script is what the Makefile calls."""
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "slu_kd_lobes.inference.cli",
            "package",
            "none",
            "out",
        ],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: none is")


@pytest.fixture(scope="module")
def wave(finished):
    """A test utterance, [samples]."""
    return read_waveform(manifest_rows(finished[0], "test")[0]["wav"], 16000)


def test_an_array_of_any_usual_type_gives_the_same_answer(model, wave):
    """Tensors, arrays and lists, of whole numbers or not, with a batch or
    without."""
    (expected,) = model.classify_batch(wave.unsqueeze(0))
    shorts = (wave * 32767).round().short()
    for wavs in (
        wave,
        wave.double().numpy(),
        wave.tolist(),
        shorts,
        shorts.numpy()[None],
        shorts.int().numpy() * 65536,
    ):
        (answer,) = model(wavs)
        assert answer["rejected"] == expected["rejected"]
        for name, slot in answer["slots"].items():
            assert slot["value"] == expected["slots"][name]["value"]
            assert slot["probability"] == pytest.approx(
                expected["slots"][name]["probability"], abs=0.01
            )


def test_an_array_has_the_rate_that_is_said(model, wave, tmp_path):
    """As a file of that rate has."""
    fast = resample(wave, 16000, 44100)
    path = tmp_path / "a.wav"
    soundfile.write(path, fast.numpy(), 44100, subtype="FLOAT")
    batch = torch.stack([fast, fast.flip(0)]).numpy()
    answer = model.classify_batch(batch, [1.0, 0.7], sample_rate=44100)[0]
    assert answer == model.classify_file(path)
    assert answer != model.classify_batch(fast)[0]
    with pytest.raises(ValueError, match="there is no audio of 44 Hz"):
        model.classify_batch(fast, sample_rate=44)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 20000.0])
def test_what_is_no_audio_is_never_accepted(model, wave, value):
    """The item of the batch is named."""
    wavs = torch.stack([wave, wave, wave])
    wavs[1, -1] = value
    with pytest.raises(ValueError, match="^item 1 of the batch has samples"):
        model.classify_batch(wavs)


@pytest.mark.parametrize(
    "lengths, fault",
    [
        ([1, 0], "item 1 of the batch is 0"),
        (np.array([-0.5, 1]), "item 0 of the batch is -0.5"),
        (torch.tensor([1.0, 1.5]), "item 1 of the batch is 1.5"),
        ([1, float("nan")], "item 1 of the batch is nan"),
        ([1e-7, 1], "item 0 of the batch is 1e-07"),
        ([1.0], r"the shape \[1\]: give one number for each of the 2 items"),
    ],
)
def test_lengths_that_cannot_be_are_refused(model, wave, lengths, fault):
    """Such as that of an item without audio."""
    with pytest.raises(ValueError, match=fault):
        model.classify_batch(torch.stack([wave, wave]), lengths)
