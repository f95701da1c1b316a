"""The recipe that aligns a speech model with a text model, on a tiny corpus."""

import csv
import json
from functools import partial

import numpy as np
import pytest
import soundfile
from running import ROOT, command, run, run_typed_commands, stopped

from slu_kd_lobes.students.encoders import TransformerEncoder
from slu_kd_lobes.utils.environment import packaged_minilm

RECIPE = ROOT / "recipes" / "LibriSpeech" / "PAD"


def wanted(speech, model, folder, **changes):
    """Keys of a run."""
    return {
        "data_folder": speech,
        "splits": "{train: [train], valid: [valid]}",
        "speech_model": model,
        "text_model": packaged_minilm(),
        "token_folder": speech / "tokens",
        "output_folder": folder,
        "feature_folder": speech / "features",
        "number_of_epochs": 2,
        "batch_size": 8,
        "lr": 0.003,
        **changes,
    }


def align(speech, model, folder, config, processes=1, fails=False, **changes):
    """Runs the recipe; returns its metrics, or what is printed."""
    options = wanted(speech, model, folder, **changes)
    printed = run(config, options, RECIPE, fails, processes=processes)
    if fails:
        return printed
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("config", ["glob", "tlocal", "slocal"])
def test_a_run_aligns_and_saves(config, speech, transformer_folders, tmp_path):
    """The loss falls, and the aligned model serves as its source did."""
    model = transformer_folders / "whisper"
    metrics = align(speech, model, tmp_path / "run", config)
    history = metrics["history"]
    assert [epoch["epoch"] for epoch in history] == [0, 1, 2]
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]
    assert metrics["projection"]  # 16 and 384 values
    assert (tmp_path / "run" / "alignment.png").stat().st_size > 10000
    aligned = tmp_path / "run" / "aligned"
    encoder = TransformerEncoder(str(aligned))
    assert encoder.feature_size == 16


def test_the_same_command_goes_on_to_the_same_result(
    speech, transformer_folders, tmp_path
):
    """Killed in the middle, and after its end; more epochs are another run."""
    model = transformer_folders / "wav2vec2"
    options = {"test_epoch": "last", "number_of_epochs": 20}
    whole = align(speech, model, tmp_path / "a", "tlocal", **options)
    words = command("tlocal", wanted(speech, model, tmp_path / "b", **options))
    saved = "b/save/CKPT*/CKPT.yaml"
    stopped(words, lambda: list(tmp_path.glob(saved)), RECIPE)
    assert not (tmp_path / "b" / "metrics.json").exists()
    for _ in range(2):
        again = align(speech, model, tmp_path / "b", "tlocal", **options)
        assert again["history"] == whole["history"]
        assert again["valid"] == whole["valid"]
    options["number_of_epochs"] = 21
    told = align(speech, model, tmp_path / "b", "tlocal", 1, True, **options)
    assert "holds a run of 20 epochs, and make_schedule would have" in told


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"alignments": "[slokal]"}, "choose of glob, sentence, tlocal, slo"),
        ({"alignments": "[]"}, "alignments is []: choose of glob"),
        ({"priors": "uniform"}, "give --anchors=strides, too"),
        ({"longest": "null"}, "longest"),
        ({"warm_up": "2"}, "warm_up"),
    ],
)
def test_what_cannot_be_aligned_is_told_before_any_work(
    changes, message, speech, tmp_path
):
    """In one sentence, before models and speech are looked at."""
    told = align(speech, "none", tmp_path, "slocal", 1, True, **changes)
    assert message in told and "Traceback" not in told


def test_two_processes_align_as_one_does(speech, transformer_folders, tmp_path):
    """With twice the utterances a step, and the same validation set."""
    model = transformer_folders / "whisper"
    options = {"number_of_epochs": 3}
    one = align(speech, model, tmp_path / "one", "tlocal", **options)
    two = align(
        speech, model, tmp_path / "two", "tlocal", 2, batch_size=4, **options
    )
    assert two["n_valid"] == one["n_valid"]
    assert two["before"] == one["before"]
    losses = [x["history"][-1]["valid_loss"] for x in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_mixed_precision_and_accumulation(
    speech, transformer_folders, tmp_path
):
    """In half precision, four steps of two utterances for one of eight."""
    model = transformer_folders / "wav2vec2"
    options = {"precision": "bf16", "grad_accumulation_factor": 4}
    one = align(speech, model, tmp_path / "one", "slocal")
    four = align(
        speech, model, tmp_path / "four", "slocal", batch_size=2, **options
    )
    losses = [x["history"][-1]["valid_loss"] for x in (one, four)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] < one["before"]["valid_loss"]


typed = partial(run_typed_commands, RECIPE, "alignment")


def test_typed_commands_are_found_by_an_aligned_model(
    speech, commands, transformer_folders, tmp_path
):
    """None of the test set's wordings is in training; all are typed."""
    model, options = transformer_folders / "wav2vec2", {"number_of_epochs": 60}
    align(speech, model, tmp_path / "a", "glob", **options)
    after = typed(tmp_path / "a", commands, tmp_path / "after")
    before = typed(tmp_path / "a", commands, tmp_path / "before", aligned=False)
    listed = typed(tmp_path / "a", commands, tmp_path / "k1", typed="train")
    assert after["wordings"] > listed["wordings"] == 6
    errors = [x["test"]["intent_error"] for x in (after, before, listed)]
    assert errors[0] < min(errors[1:])
    encoder = TransformerEncoder(str(model))  # the same in another class
    size = sum(p.numel() for p in encoder.parameters())
    used = after["cost"]["parameters"] - (16 + 1) * 384  # but the projection
    assert abs(used - size) < 0.05 * size
    assert after["cost"]["milliseconds"] > 0


def test_an_alignment_that_is_not_there_is_one_sentence(commands, tmp_path):
    """Before anything is computed."""
    options = {"fails": True}
    printed = typed(tmp_path / "none", commands, tmp_path, **options)
    assert "error: alignment: there is no" in printed
    assert "that has ended" in printed and "Traceback" not in printed


def test_pairs_from_a_csv_file(speech, transformer_folders, tmp_path):
    """Any CSV file with paths and transcriptions, such as one of commands."""
    for split in ("train", "valid"):
        lines = (speech / f"{split}.jsonl").read_text().splitlines()
        with open(tmp_path / f"{split}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "transcription", "duration"])
            for row in map(json.loads, lines):
                path = str(speech / row["path"])
                writer.writerow([path, row["transcription"], ""])
    model = transformer_folders / "whisper"
    metrics = align(
        speech, model, tmp_path / "run", "glob", data_folder=tmp_path
    )
    assert metrics["n_train"] == 24 and metrics["n_valid"] == 8


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second corpus: some names are those of the first; parts elsewhere."""
    folder = tmp_path_factory.mktemp("other")
    names = ["train0.wav", "train1.wav", "valid0.wav", "take3.wav", "take4.wav"]
    for number, name in enumerate(names, 1):
        tone = np.sin(2 * np.pi * 300 * number * np.arange(4800) / 16000)
        soundfile.write(folder / name, tone / 3, 16000)
    rows = [{"path": name, "transcription": "stop"} for name in names]
    (folder / "parts").mkdir()
    lines = "\n".join(map(json.dumps, rows))
    (folder / "parts" / "train_data.jsonl").write_text(lines)
    return folder


def test_a_second_corpus_joins_whole(
    speech, other, transformer_folders, tmp_path
):
    """Hours are drawn from the first alone, and another part is another run."""
    part = other / "parts" / "train_data"
    options = {
        "hours": 7.5 * 0.6 / 3600,  # the eighth utterance exceeds it
        "other_folder": other,
        "other_splits": f"{{train: [{part}], valid: []}}",
        "number_of_epochs": 1,
    }
    model = transformer_folders / "whisper"
    metrics = align(speech, model, tmp_path / "run", "glob", **options)
    assert metrics["n_train"] == 8 + 5 and metrics["n_valid"] == 8
    options["other_splits"] = f"{{valid: [{part}]}}"
    printed = align(speech, model, tmp_path / "run", "glob", 1, True, **options)
    assert "(different: other_splits)" in printed


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"other_splits": "{train: [a]}"}, "other_folder is null and other"),
        ({"other_folder": "OTHER"}, "other_folder is OTHER and other_splits"),
        (
            {"other_folder": "OTHER", "other_splits": "{valid: [7]}"},
            "OTHER holds neither the folder 7 of a corpus nor",
        ),
        (
            {"splits": "{train: [train], valid: []}"},
            "valid has no utterance: name parts of it",
        ),
    ],
)
def test_a_part_that_is_not_there_is_one_sentence(
    changes, message, speech, other, transformer_folders, tmp_path
):
    """A part without its folder, a folder without a part, no part at all."""
    changes = {k: v.replace("OTHER", str(other)) for k, v in changes.items()}
    model = transformer_folders / "whisper"
    printed = align(speech, model, tmp_path, "glob", 1, True, **changes)
    assert f"error: {message.replace('OTHER', str(other))}" in printed
    assert "Traceback" not in printed
