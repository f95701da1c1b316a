"""Slots that a student writes: text, metrics, student and recipe."""

import numpy as np
import pytest
import soundfile
import torch
from running import ROOT, metrics_of, run

from slu_kd_lobes.data.tagged_text import TaggedText
from slu_kd_lobes.evaluation.slot_filling import (
    slot_filling_metrics,
    slot_type_f1,
    slot_value_cer,
)
from slu_kd_lobes.students.ctc import CTCWriter
from slu_kd_lobes.utils.files import read_csv

RECIPE = ROOT / "recipes" / "fluent-speech-commands" / "ctc_slot_filling"
SLOTS = ["drink", "milk", "size"]


def row(transcription, **slots):
    """An utterance; slots that are not named are not in it."""
    values = dict.fromkeys(SLOTS, "none") | slots
    return {"transcription": transcription, **values}


@pytest.mark.parametrize(
    "utterance, shown",
    [
        (row("Tea!", drink="tea"), "<drink>tea</drink>"),
        (
            row("a soy tea, soy milk", drink="soy tea", milk="soy milk"),
            "a <drink>soy tea</drink> <milk>soy milk</milk>",
        ),
        # "milk" is not taken out of "milk tea"; the second one is marked.
        (
            row("milk tea with milk", drink="milk tea", milk="milk"),
            "<drink>milk tea</drink> with <milk>milk</milk>",
        ),
        # Two slots have the same words; each is marked once.
        (
            row("small small tea", size="small", milk="small"),
            "<milk>small</milk> <size>small</size> tea",
        ),
        # What is not said word for word stands at the end, in slot order.
        (
            row("a teapot", drink="tea", size="large"),
            "a teapot <drink>tea</drink> <size>large</size>",
        ),
        (row("nothing for me"), "nothing for me"),
    ],
)
def test_slots_are_marked_in_the_text(utterance, shown):
    text = TaggedText.of([utterance], SLOTS)
    labels = text.encode(utterance["transcription"], utterance)
    assert text.show(labels) == shown
    assert text.decode(labels) == text.values(utterance)
    assert min(labels) > 0  # none is the blank


def test_marks_without_a_partner_mark_nothing():
    text = TaggedText(SLOTS, "aemt ")
    label = text.labels

    def decode(*symbols):
        return text.decode([label[s] for s in symbols])

    tea = ["t", "e", "a"]
    assert decode("<drink>", *tea) == {}
    assert decode(*tea, "</drink>") == {}
    assert decode("<drink>", *tea, "</milk>", "</drink>") == {}
    assert decode("<size>", "<drink>", *tea, "</drink>") == {"drink": ["tea"]}
    twice = ["<drink>", *tea, "</drink>"] * 2
    assert decode(*twice) == {"drink": ["tea", "tea"]}
    assert decode("<drink>", "</drink>") == {"drink": [""]}


def test_letters_that_training_lacks_are_left_out():
    text = TaggedText.of([row("tea")], SLOTS)
    assert text.show(text.encode("thé, tea", row(""))) == "t tea"


def test_metrics_by_hand():
    true = [{"drink": ["tea"], "size": ["small"]}, {}, {"milk": ["soy milk"]}]
    found = [{"drink": ["tee"]}, {"milk": ["milk"]}, {"milk": ["soy milk"]}]
    # 2 * 1 / (1 + 2); a slot where there is none; right
    assert slot_type_f1(found, true) == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)
    # 1 of "tea" and 5 of "small", of 3 + 5 + 8 letters
    assert slot_value_cer(found, true) == pytest.approx(100 * 6 / 16)
    assert slot_filling_metrics(found, true)["intent_error"] == 200 / 3
    assert slot_type_f1([{}], [{}]) == 100
    assert slot_value_cer([{"milk": ["milk"]}], [{}]) == 0
    # More letters than there are: above 100 percent, as error rates do.
    assert slot_value_cer([{"milk": ["oat"]}], [{"milk": ["x"]}]) == 300


def test_the_most_alike_of_several_values_counts():
    found = [{"milk": ["cream", "oat milk", "milky"]}]
    assert slot_value_cer(found, [{"milk": ["milk"]}]) == 25


@pytest.mark.parametrize("layers", [1, 3])
def test_padding_and_order_do_not_matter(layers):
    student = CTCWriter(9, 6, hidden_size=5, layers=layers).eval()
    x, lengths = torch.randn(3, 23, layers * 6), torch.tensor([7, 23, 21])
    scores = student(x, lengths)
    order = torch.tensor([2, 0, 1])
    moved = student(x[order], lengths[order])
    assert torch.allclose(moved, scores[order], atol=1e-6)
    for i, length in enumerate(lengths.tolist()):
        alone = student(x[i : i + 1, :length], lengths[i : i + 1])
        assert torch.allclose(alone[0], scores[i, :length], atol=1e-6)
        assert torch.allclose(alone.exp().sum(-1), torch.ones(1, length))


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    """A corpus whose words are tones: a drink and, at times, a milk."""
    folder = tmp_path_factory.mktemp("orders")
    (folder / "data").mkdir()
    rng, words = np.random.default_rng(0), "tea coffee with oat soy".split()
    times = np.arange(6400) / 16000
    for split, size in (("train", 30), ("valid", 6), ("test", 6)):
        lines = ["path,speakerId,transcription,drink,milk"]
        for number in range(size):
            drink = rng.choice(["tea", "coffee"])
            milk = rng.choice(["none", "oat", "soy"])
            said = [drink] + (["with", milk] if milk != "none" else [])
            tones = [
                np.sin(2 * np.pi * 220 * (1 + words.index(w)) * times)
                for w in said
            ]
            name = f"{split}{number}.wav"
            soundfile.write(folder / name, np.concatenate(tones) / 3, 16000)
            lines.append(f"{name},{split},{' '.join(said)},{drink},{milk}")
        path = folder / "data" / f"{split}_data.csv"
        path.write_text("\n".join(lines) + "\n")
    return folder


def write(orders, model, folder, **changes):
    """Runs the recipe."""
    options = {
        "data_folder": orders,
        "slots": "[drink, milk]",
        "encoder_source": model,
        "encoder_pool": 1,
        "feature_folder": orders / "features",
        "manifest_folder": orders / "manifests",
        "output_folder": folder,
        "number_of_epochs": 4,
        "batch_size": 8,
        **changes,
    }
    return run("base", options, RECIPE)


def test_a_run_writes_what_it_heard(orders, transformer_folders, tmp_path):
    """The loss falls; two halves are as one; files and metrics agree."""
    model = transformer_folders / "whisper"
    write(orders, model, tmp_path / "a", test_epoch="last")
    write(orders, model, tmp_path / "b", test_epoch="last", number_of_epochs=2)
    write(orders, model, tmp_path / "b", test_epoch="last")
    metrics = metrics_of(tmp_path / "a")
    assert metrics == metrics_of(tmp_path / "b")
    losses = [epoch["train_loss"] for epoch in metrics["history"]]
    assert losses[-1] < losses[0] / 2
    rows = read_csv(tmp_path / "a" / "written_test.csv")
    assert len(rows) == metrics["test"]["n"] == 6
    assert all("<drink>" in row["true"] for row in rows)
    wrong = sum(marked(row["true"]) != marked(row["written"]) for row in rows)
    assert metrics["test"]["intent_error"] == pytest.approx(100 * wrong / 6)


def marked(text):
    """Slots of text with marks, by another way than the code's."""
    found = {}
    for slot in ("drink", "milk"):
        parts = text.split(f"<{slot}>")[1:]
        values = [p.split("<")[0] for p in parts if f"</{slot}>" in p]
        if values:
            found[slot] = values
    return found


def test_features_may_be_made_on_the_fly(orders, transformer_folders, tmp_path):
    """The same numbers; how many frames there are is not known ahead."""
    model, options = transformer_folders / "whisper", {"number_of_epochs": 1}
    for name in ("stored", "on_the_fly"):
        write(orders, model, tmp_path / name, features=name, **options)
    losses = [
        metrics_of(tmp_path / name)["history"][0]["valid_loss"]
        for name in ("stored", "on_the_fly")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_too_few_frames_are_told(orders, transformer_folders, tmp_path):
    """Before training; of some utterances, or of most: an error."""
    model = transformer_folders / "whisper"
    options = {"encoder_pool": 40}
    output = write(orders, model, tmp_path / "a", number_of_epochs=1)
    assert "too few frames" not in output
    with pytest.raises(AssertionError) as fault:
        write(orders, model, tmp_path / "b", **options)
    assert "have too few frames for CTC to write them" in str(fault.value)
    assert "Traceback" not in str(fault.value)
    write(orders, model, tmp_path / "b", number_of_epochs=1)  # as corrected
