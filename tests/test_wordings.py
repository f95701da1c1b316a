"""Validation has wordings that training lacks, and nothing else changes."""

import csv
from pathlib import Path

import pytest
from running import ROOT

from slu_kd_lobes.experiments.execution import load_script
from slu_kd_lobes.experiments.matrix import read_matrix, runs_of
from slu_kd_lobes.experiments.wordings import choose_wordings, hold_out_wordings
from slu_kd_lobes.files import read_csv

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


def find_tests(folder):
    recipe = ROOT / "recipes" / "fluent-speech-commands"
    prepare = load_script(str(recipe / "prepare.py"))
    return prepare._find_tests(Path(folder))


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
    assert find_tests(made) == ["test", "held_out_test"]
    assert hold_out(corpus, 0.3) == made
    assert len({hold_out(corpus, 0.3, seed) for seed in range(9)}) > 1


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
        (given,) = (a for a in run.arguments if a.startswith("--csv_folder="))
        assert not any("held_out" in a.split("=")[0] for a in run.arguments)
        folders.setdefault(run.draw, set()).add(given)
    assert [len(found) for found in folders.values()] == [1, 1, 1]
    assert len(set.union(*folders.values())) > 1
    assert len({run.manifests for run in runs}) == len(
        set.union(*folders.values())
    )
