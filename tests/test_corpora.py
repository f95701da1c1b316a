"""Corpora made from another: noisy test sets, held-out wordings and intents."""

import csv
import json
import os
import random
from pathlib import Path

import pytest
import running  # so that the recipe can be imported
import torch
from prepare import _find_tests, prepare_fsc
from speechbrain.dataio import audio_io

from slu_kd_lobes.experiments.corpora import (
    choose_wordings,
    condition_name,
    corrupt,
    csv_files,
    hold_out_intents,
    hold_out_wordings,
    noisy_corpus,
    room_response,
)
from slu_kd_lobes.experiments.matrix import read_matrix
from slu_kd_lobes.experiments.runs import runs_of
from slu_kd_lobes.utils.files import read_csv, write_csv

# Noise


@pytest.mark.parametrize("level", [20, 0, -5])
def test_noise_has_the_level_that_it_says(level):
    torch.manual_seed(0)
    wav = 0.05 * torch.randn(160000)
    noisy = corrupt(wav, level, "a")
    # What is left when the speech is taken out is the noise.
    gain = float(wav @ noisy / (wav @ wav))
    noise = noisy - gain * wav
    ratio = (gain * wav).square().mean() / noise.square().mean()
    assert 10 * torch.log10(ratio).item() == pytest.approx(level, abs=0.1)


def test_noise_of_an_utterance_is_its_own_and_always_the_same():
    wav = torch.sin(torch.arange(1600.0))
    torch.manual_seed(1)
    first = corrupt(wav, 10, "a")
    torch.manual_seed(2)
    assert torch.equal(first, corrupt(wav, 10, "a"))
    assert not torch.equal(first, corrupt(wav, 10, "b"))
    assert not torch.equal(first, corrupt(wav, 5, "a"))


def test_room_decays_by_60_db_in_its_time():
    """Schroeder's backward integration, from -5 to -35 dB."""
    response = room_response(seconds=0.5)[1:]
    energy = response.square().flip(0).cumsum(0).flip(0)
    decibel = 10 * torch.log10(energy / energy[0])
    fast = int((decibel > -5).sum())
    slow = int((decibel > -35).sum())
    assert 2 * (slow - fast) / 16000 == pytest.approx(0.5, rel=0.05)


def test_noisy_corpus_leaves_the_other_audio_as_it_is(tmp_path):
    corpus = tmp_path / "corpus"
    (corpus / "data").mkdir(parents=True)
    (corpus / "wavs").mkdir()
    for split in ("train", "test"):
        wav = 0.1 * torch.randn(1, 1600)
        audio_io.save(str(corpus / "wavs" / f"{split}.wav"), wav, 16000)
        (corpus / "data" / f"{split}_data.csv").write_text(
            ",path,speakerId,transcription,action\n"
            f"0,wavs/{split}.wav,{split} voice,Lights on,activate\n"
        )
    made = noisy_corpus(corpus, None, [0, "room"], "test", tmp_path / "noisy")
    again = noisy_corpus(corpus, None, [0, "room"], "test", tmp_path / "noisy")
    assert made == again
    tables = sorted(os.listdir(made[1]))
    assert tables == [
        "noise_0_test_data.csv",
        "room_test_data.csv",
        "test_data.csv",
        "train_data.csv",
    ]
    path = os.path.join(made[0], "wavs", "train.wav")
    assert os.path.samefile(path, corpus / "wavs" / "train.wav")
    (row,) = csv.DictReader(open(os.path.join(made[1], tables[0])))
    assert row["path"] == "noise_0_test/wavs/test.flac"
    assert row["speakerId"] == "test voice"
    noisy, _ = audio_io.load(os.path.join(made[0], row["path"]))
    assert noisy.shape == (1, 1600)
    with pytest.raises(ValueError, match="noise 'loud' is unknown"):
        noisy_corpus(corpus, None, ["loud"], "test", tmp_path / "noisy")
    assert os.listdir(tmp_path / "noisy") == [os.path.basename(made[0])]


def test_names_of_conditions_can_be_test_sets():
    assert condition_name(-5) == "noise_minus_5_test"


# Held-out wordings

TEXTS = {
    "up": ["Louder", "volume up", "turn it up"],
    "down": ["quieter", "volume down", "turn it down"],
    "on": ["lights on"],
}


@pytest.fixture
def corpus(tmp_path):
    """Each wording once in training, validation and test."""
    folder = tmp_path / "corpus" / "data"
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        with open(folder / f"{split}_data.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "transcription", "action", "object"])
            for action, texts in TEXTS.items():
                for text in texts:
                    path = f"{split}/{text}.wav"
                    writer.writerow([path, text, action, "it"])
    return folder.parent


def hold_out(corpus, share=0.4, seed=0):
    return hold_out_wordings(
        corpus, None, ["action", "object"], share, seed, corpus.parent / "made"
    )


def texts_of(folder, split):
    return {r["transcription"] for r in read_csv(f"{folder}/{split}_data.csv")}


def test_training_and_validation_share_no_wording(corpus):
    """Two of seven are 0.28, rounded from 0.3; the test set is whole."""
    made = hold_out(corpus, 0.3)
    train, valid = texts_of(made, "train"), texts_of(made, "valid")
    assert len(valid) == 2 and len(train) == 5 and not train & valid
    everything = {text for texts in TEXTS.values() for text in texts}
    assert train | valid == everything == texts_of(made, "test")
    assert texts_of(made, "held_out_test") == valid
    paths = [row["path"] for row in read_csv(f"{made}/held_out_test_data.csv")]
    assert all(path.startswith("train/") for path in paths)
    # The recipe takes it for what it is.
    assert _find_tests(Path(made)) == ["test", "held_out_test"]
    assert hold_out(corpus, 0.3) == made
    assert len({hold_out(corpus, 0.3, seed) for seed in range(9)}) > 1


def test_files_of_held_out_wordings_are_written_once(corpus):
    """What is there is taken as it is."""
    made = Path(hold_out(corpus))
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert Path(hold_out(corpus)) == made
    assert {p: p.stat().st_mtime_ns for p in made.iterdir()} == before
    assert os.listdir(made.parent) == [made.name]


def test_other_csv_files_give_other_folders(corpus):
    """A corpus may have several; all of them count."""
    made = hold_out(corpus, 0.3)
    with open(corpus / "data" / "test_data.csv", "a") as file:
        file.write("a.wav,lights on,on,it\n")
    assert hold_out(corpus, 0.3) != made
    folder, paths = csv_files(corpus, corpus / "data")
    assert folder == corpus / "data" and list(paths) == [
        "test",
        "train",
        "valid",
    ]


def test_every_intent_keeps_a_wording():
    """However much is asked for."""
    intents = {t: action for action, texts in TEXTS.items() for t in texts}
    for seed in range(20):
        held = choose_wordings(intents, 0.99, seed)
        assert len(held) == 4
        left = {intents[text] for text in intents.keys() - held}
        assert left == set(TEXTS)


def test_other_writing_of_a_wording_goes_with_it(corpus):
    """Louder, LOUDER! and "louder" are one."""
    path = corpus / "data" / "train_data.csv"
    path.write_text(path.read_text() + "a.wav,LOUDER!,up,it\n")
    for seed in range(9):
        made = hold_out(corpus, 0.3, seed)
        assert len({"Louder", "LOUDER!"} & texts_of(made, "train")) != 1


def test_bad_input_is_refused(corpus):
    with pytest.raises(ValueError, match="held_out is 1.5"):
        hold_out(corpus, 1.5)
    with pytest.raises(ValueError, match="has no column 'drink'"):
        hold_out_wordings(corpus, None, ["drink"], 0.5, 0, corpus)
    with pytest.raises(ValueError, match="none of the 0 wordings"):
        hold_out(corpus, 0.01)
    (corpus / "data" / "valid_data.csv").unlink()
    with pytest.raises(FileNotFoundError, match="there is no .*valid_data.csv"):
        hold_out(corpus)


def test_each_draw_of_a_matrix_holds_out_others(corpus, tmp_path):
    """And all systems of a draw the same."""
    path = tmp_path / "held.yaml"
    path.write_text(
        "title: Held out\nreference: a\nseeds: [1]\ntests: [valid]\n"
        "overrides: {slots: [action, object]}\n"
        "conditions: {new: {held_out: 0.4, draws: 3}}\n"
        "systems: {a: {config: hparams/baseline.yaml},\n"
        "          b: {config: hparams/distill_teacher_mae_exp.yaml}}\n"
    )
    runs = runs_of(read_matrix(path), str(corpus), made=tmp_path)
    folders = {}
    for run in runs:
        assert "held_out" not in run.overrides
        csv_folder = run.overrides["csv_folder"]
        folders.setdefault(run.draw, set()).add(csv_folder)
    assert [len(found) for found in folders.values()] == [1, 1, 1]
    assert len(set.union(*folders.values())) > 1


# Unspoken intents


def split_intents(corpus, count=1, seed=0, slots=("action", "object")):
    """The folder, and the intents that it lacks."""
    made = hold_out_intents(
        corpus, None, list(slots), count, seed, corpus.parent / "made"
    )
    with open(f"{made}/unspoken_intents.json", encoding="utf-8") as file:
        return made, json.load(file)


def actions_of(folder, split):
    return {r["action"] for r in read_csv(f"{folder}/{split}_data.csv")}


@pytest.mark.parametrize("count", [1, 2])
def test_nobody_speaks_some_intents_before_the_test(corpus, count):
    seen = set()
    for seed in range(6):
        made, held = split_intents(corpus, count, seed)
        assert held == sorted(held) and {o for _, o in held} == {"it"}
        held = {action for action, _ in held}
        assert len(held) == count
        for split in ("train", "valid", "spoken_test"):
            assert actions_of(made, split) == set(TEXTS) - held
        for split in ("unspoken_test", "typed_test"):
            assert actions_of(made, split) == held
        # Every utterance of the test set is in one of the two.
        before = read_csv(corpus / "data" / "test_data.csv")
        parts = [
            read_csv(f"{made}/{split}_data.csv")
            for split in ("spoken_test", "unspoken_test")
        ]
        assert sorted(map(str, before)) == sorted(map(str, sum(parts, [])))
        # The recipe takes these for what they are.
        tests = ["spoken_test", "typed_test", "unspoken_test"]
        assert _find_tests(Path(made)) == tests
        assert split_intents(corpus, count, seed)[0] == made
        seen.add(frozenset(held))
    assert len(seen) > 1


def test_an_intent_is_the_values_of_all_slots(corpus):
    """A space at the end of a value makes no other; another slot does."""
    for path in (corpus / "data").iterdir():
        lines = path.read_text().splitlines()
        lines = [f"{lines[0]},place", *(f"{line},it" for line in lines[1:])]
        lines += ["a.wav,lamp on,on,it,there", "b.wav,a lamp on,on,it,there "]
        path.write_text("\n".join(lines))
    rows = read_csv(corpus / "data" / "train_data.csv")
    for slots in (["action", "place"], ["action", "object"]):
        intents = [[row[slot].strip() for slot in slots] for row in rows]
        for seed in range(12):
            made, held = split_intents(corpus, 1, seed, slots)
            left = read_csv(f"{made}/train_data.csv")
            assert left == [r for r, i in zip(rows, intents) if i not in held]


def draw_of(action):
    """The first draw of one intent that is this."""
    order = sorted(TEXTS)
    draws = (random.Random(seed).sample(order, 1) for seed in range(99))
    return list(draws).index([action])


def test_wordings_that_no_test_speaks_are_typed_too(corpus):
    """Of an intent held out, whether training or validation had them."""
    extra = {"train": "LOUD, please!", "valid": "more sound"}
    for split in ("train", "valid", "test"):
        path = corpus / "data" / f"{split}_data.csv"
        rows = [{**row, "speakerId": split} for row in read_csv(path)]
        if split in extra:
            new = {"path": f"{split}/a.wav", "transcription": extra[split]}
            rows.append({**rows[0], **new})
        write_csv(path, rows)
        (corpus / split).mkdir()
        for row in rows:
            wav = torch.zeros(1, 800)
            audio_io.save(str(corpus / row["path"]), wav, 16000)
    made, held = split_intents(corpus, 1, draw_of("up"))
    assert held == [["up", "it"]]
    typed = texts_of(made, "typed_test")
    assert typed == {*TEXTS["up"], *extra.values()}
    manifests = prepare_fsc(
        corpus, corpus / "save", ["action", "object"], csv_folder=made
    )
    every = {text.lower() for texts in TEXTS.values() for text in texts}
    every |= {"loud please", "more sound"}
    assert set(manifests.typed_wordings("all")) == every
    assert manifests.schema.values["action"] == sorted(TEXTS)


def test_the_main_test_set_is_split_and_no_other(corpus):
    """The same that a result table leads with."""
    data = corpus / "data"
    os.rename(data / "test_data.csv", data / "spk_test_data.csv")
    text = (data / "spk_test_data.csv").read_text()
    for name in ("both_test", "a_test"):
        (data / f"{name}_data.csv").write_text(text.replace("test/", name))
    made, _ = split_intents(corpus)
    assert not Path(made, "spk_test_data.csv").exists()
    for name in ("both_test", "a_test"):
        assert actions_of(made, name) == set(TEXTS)
    rows = read_csv(f"{made}/unspoken_test_data.csv")
    assert all(row["path"].startswith("test/") for row in rows)


def test_impossible_numbers_of_intents_are_refused(corpus):
    for count in (0, 3, 0.5):
        with pytest.raises(ValueError, match=f"unspoken is {count}, and .* 3 "):
            split_intents(corpus, count)
    with pytest.raises(ValueError, match="has no column 'drink'"):
        split_intents(corpus, slots=["drink"])
    for split, action, lacks in (
        ("valid", "on", "valid"),
        ("test", "on", "spoken_test"),
        ("test", "up", "unspoken_test"),
    ):
        path = corpus / "data" / f"{split}_data.csv"
        whole = read_csv(path)
        write_csv(path, [row for row in whole if row["action"] == "on"])
        with pytest.raises(ValueError, match=f"leaves no {lacks}_data.csv"):
            split_intents(corpus, 1, draw_of(action))
        write_csv(path, whole)
    (corpus / "data" / "test_data.csv").unlink()
    with pytest.raises(FileNotFoundError, match="there is no .*test_data.csv"):
        split_intents(corpus)
    assert not (corpus.parent / "made").is_dir()


def test_each_draw_of_a_matrix_keeps_other_intents_unspoken(corpus, tmp_path):
    path = tmp_path / "unspoken.yaml"
    path.write_text(
        "title: Unspoken\nreference: a\nseeds: [1, 2]\n"
        "tests: [unspoken_test]\noverrides: {slots: [action, object]}\n"
        "conditions: {new: {unspoken: 1, draws: 5}}\n"
        "systems: {a: {config: hparams/baseline.yaml}}\n"
    )
    folders = {}
    for run in runs_of(read_matrix(path), str(corpus), made=tmp_path):
        assert "unspoken" not in run.overrides
        made, _ = split_intents(corpus, 1, run.draw)
        assert Path(run.overrides["csv_folder"]).name == Path(made).name
        folders.setdefault(run.draw, set()).add(made)
    assert [len(found) for found in folders.values()] == [1] * 5
    assert len(set.union(*folders.values())) > 1


def test_draws_of_the_synthetic_commands_are_those_of_pad(shared, tmp_path):
    corpus = shared / "data" / "commands"
    slots = ["action", "object", "location"]
    draws = (
        running.ROOT
        / "recipes"
        / "LibriSpeech"
        / "PAD"
        / "unspoken_intents.json"
    )
    for seed, wanted in enumerate(json.loads(draws.read_text())):
        made = hold_out_intents(corpus, None, slots, 6, seed, tmp_path)
        held = json.loads(Path(made, "unspoken_intents.json").read_text())
        assert held == wanted
        size = len(read_csv(f"{made}/unspoken_test_data.csv"))
        assert size + len(read_csv(f"{made}/spoken_test_data.csv")) == 2300
