"""Corpora made from another: noisy test sets, and held-out wordings."""

import csv
import os
from pathlib import Path

import pytest
import running  # noqa: F401  so that the recipe can be imported
import torch
from prepare import _find_tests
from speechbrain.dataio import audio_io

from slu_kd_lobes.experiments.corpora import (
    choose_wordings,
    condition_name,
    corrupt,
    csv_files,
    hold_out_wordings,
    noisy_corpus,
    room_response,
)
from slu_kd_lobes.experiments.matrix import read_matrix
from slu_kd_lobes.experiments.runs import runs_of
from slu_kd_lobes.utils.files import read_csv

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
