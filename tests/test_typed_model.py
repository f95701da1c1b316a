"""Models of typed commands: made, taught, and asked."""

import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from slu_kd_lobes.data.text_units import Letters, TextUnits
from slu_kd_lobes.inference.classifier import SpokenIntentClassifier
from slu_kd_lobes.inference.cli import main
from slu_kd_lobes.inference.recogniser_package import package_recogniser
from slu_kd_lobes.inference.typed_commands import (
    REJECTION,
    TypedCommands,
    forget,
    make_model,
    teach,
)
from slu_kd_lobes.losses.asr import LETTERS
from slu_kd_lobes.students.cif_recogniser import CTCRecogniser
from slu_kd_lobes.students.ctc import GRUEncoder
from slu_kd_lobes.students.filter_bank import FilterBank
from slu_kd_lobes.utils.environment import bundled
from slu_kd_lobes.utils.files import read_csv

RUN = """\
sample_rate: 16000
beam_size: 1
front_end: filter_bank
front_ends:
    filter_bank: !name:slu_kd_lobes.students.filter_bank.FilterBank
        n_mels: 80
encoder: gru
encoders:
    gru: !name:slu_kd_lobes.students.ctc.GRUEncoder
        size: 16
recogniser: ctc
recognisers:
    ctc: !name:slu_kd_lobes.students.cif_recogniser.CTCRecogniser
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A CTC head that learnt nothing: its answers are arbitrary, but fixed."""
    folder = tmp_path_factory.mktemp("head")
    torch.manual_seed(0)
    units = TextUnits(sorted(LETTERS), Letters.join)
    recogniser = CTCRecogniser(len(units), GRUEncoder(80, 16))
    package_recogniser(folder, FilterBank(), recogniser, units, RUN)
    (folder / REJECTION).write_text('{"threshold": 0.5}')
    return folder


@pytest.fixture
def lists(tmp_path):
    """Three lists; the last one holds the sentences of the others."""
    rows = ["lights on,on,lights", "lights off,off,lights", "stop it,off,none"]
    paths = []
    for name, chosen in (("a", rows[:2]), ("b", rows[2:]), ("all", rows)):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["transcription,action,object", *chosen]))
        paths.append(path)
    return paths


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "said.wav"
    torch.manual_seed(1)
    soundfile.write(path, (torch.rand(16000) - 0.5).numpy(), 16000)
    return path


def test_what_is_taught_later_is_as_if_made_at_once(head, lists, wav, tmp_path):
    first, more, everything = lists
    make_model([first], tmp_path / "x", head)
    assert teach(tmp_path / "x", [more]) == 1
    make_model([everything], tmp_path / "y", head)
    texts = [(tmp_path / x / "commands.json").read_text() for x in "xy"]
    assert texts[0] == texts[1]
    answers = [TypedCommands(tmp_path / x).classify_file(wav) for x in "xy"]
    assert answers[0] == answers[1]
    assert answers[0]["wording"] in ("lights on", "lights off", "stop it")
    assert 0 <= answers[0]["score"] <= 1


def test_what_is_forgotten_is_as_if_never_taught(head, lists, wav, tmp_path):
    model = make_model([lists[0]], tmp_path / "x", head)
    before = model.classify_file(wav)
    teach(tmp_path / "x", [lists[1]])
    forget(tmp_path / "x", ["Stop it!"])
    assert TypedCommands(tmp_path / "x").classify_file(wav) == before


def test_answers_do_not_depend_on_the_batch(head, lists, wav, tmp_path):
    model = make_model([lists[2]], tmp_path / "x", head)
    samples = torch.from_numpy(soundfile.read(wav, dtype="float32")[0])
    both = model.classify_batch(torch.stack([samples, samples.flip(0)]))
    alone = [model.classify_batch(x)[0] for x in (samples, samples.flip(0))]
    for one, other in zip(both, alone):
        assert one["wording"] == other["wording"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_templates_are_kept_with_the_model(head, lists, wav, tmp_path):
    path = tmp_path / "house.yaml"
    path.write_text(
        "language: en\nintents:\n  Cook:\n    data:\n"
        "      - sentences: ['cook [some] {dish}']\n"
        "lists: {dish: {values: [rice, beans]}}\n"
    )
    model = make_model([lists[0], path], tmp_path / "x", head)
    assert model.sentences == 2 + 4
    assert model.slot_names == ["action", "object", "dish", "intent"]
    path.unlink()
    assert TypedCommands(tmp_path / "x").sentences == 6
    forget(tmp_path / "x", ["house.yaml"])
    assert TypedCommands(tmp_path / "x").sentences == 2


def test_the_student_is_asked_what_the_list_does_not_know(
    head, lists, wav, package, tmp_path
):
    student = SpokenIntentClassifier.from_hparams(package)
    says = student.classify_file(wav)
    for name, threshold in (("sure", 0.0), ("unsure", 1.1)):
        own = tmp_path / f"{name}_head"
        shutil.copytree(head, own)
        (own / REJECTION).write_text(json.dumps({"threshold": threshold}))
        model = make_model([lists[0]], tmp_path / name, own, package)
        assert model.slot_names == ["action", "object", "location"]
        answer = model.classify_file(wav)
        if name == "sure" or says["rejected"]:
            assert answer["answered_by"] == "list"
            assert answer["rejected"] == (name == "unsure")
        else:
            assert answer["answered_by"] == "student"
            assert answer["slots"] == {
                slot: value["value"] for slot, value in says["slots"].items()
            }
    with pytest.raises(FileNotFoundError, match="holds no packaged model"):
        make_model([lists[0]], tmp_path / "z", head, tmp_path)
    assert not (tmp_path / "z").exists()


def test_the_command_line_makes_teaches_and_asks(
    head, lists, wav, tmp_path, capsys
):
    model = str(tmp_path / "x")
    first, more, _ = map(str, lists)
    assert main(["make", first, model, "--head", str(head)]) == 0
    assert main(["teach", model, more]) == 0
    assert main(["forget", model, "lights on"]) == 0
    capsys.readouterr()
    assert main(["classify", str(wav), "--model", model, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["wording"] in ("lights off", "stop it")
    assert answer["answered_by"] == "list"
    assert set(answer) >= {"file", "wording", "slots", "score", "rejected"}
    assert main(["classify", str(wav), "--model", model]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "action", "object"]
    assert answer["slots"]["action"] in line


@pytest.mark.parametrize(
    "words, told",
    [
        (["make", "none.csv", "x"], "there is no file none.csv"),
        (["make", "A", "MODEL"], "MODEL exists: choose another folder"),
        (["make", "wav.wav", "x"], "wav.wav is neither a list, .csv, nor"),
        (["teach", "MODEL", "A"], "'lights on' is there already"),
        (["teach", "none", "A"], "none holds no typed commands"),
        (["forget", "MODEL", "lights up"], "does not know 'lights up'"),
        (
            ["forget", "MODEL", "lights on", "lights off"],
            "would know nothing any more",
        ),
    ],
)
def test_a_wrong_command_is_answered_in_one_sentence(
    words, told, head, lists, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    make_model([lists[0]], tmp_path / "model", head)
    (tmp_path / "wav.wav").write_bytes(b"")
    before = (tmp_path / "model" / "commands.json").read_text()
    names = {"A": str(lists[0]), "MODEL": str(tmp_path / "model")}
    words = [names.get(word, word) for word in words]
    if words[0] == "make":
        words += ["--head", str(head)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told.replace("MODEL", names["MODEL"]) in error
    assert error.count("\n") == 1
    assert (tmp_path / "model" / "commands.json").read_text() == before
    assert not (tmp_path / "x").exists()


LISTED = {
    "Turn my lamp off": "lamp",
    "The kitchen is too cold": "heat",
    "Stop that song": "music",
    "Speak up please": "volume",
}


def test_the_head_that_ships_knows_typed_commands_from_others(tmp_path):
    """Without a recording: what is listed, and what is not, by new voices."""
    path = tmp_path / "commands.csv"
    rows = [f"{text},{value}" for text, value in LISTED.items()]
    path.write_text("\n".join(["transcription,what", *rows]))
    model = make_model([path], tmp_path / "x")
    corpus = Path(bundled("data/synthetic-commands"))
    right, rejected, asked = 0, [], 0
    for row in read_csv(corpus / "data" / "test_data.csv"):
        text = row["transcription"]
        if text not in LISTED and asked >= 40:
            continue
        answer = model.classify_file(corpus / row["path"])
        if text in LISTED:
            right += answer["slots"] == {"what": LISTED[text]}
            assert not answer["rejected"]
        else:
            asked += 1
            rejected.append(answer["rejected"])
    assert right >= 7  # of 8
    assert sum(rejected) >= 38  # of 40
    silence = model.classify_batch(torch.zeros(16000))[0]
    assert silence["rejected"]


@pytest.mark.parametrize("damage", ["list", "cut", "head", "gone"])
def test_a_changed_model_is_refused(damage, head, lists, tmp_path):
    folder = tmp_path / "x"
    make_model([lists[0]], folder, head)
    path = folder / "commands.json"
    text = path.read_text()
    if damage == "list":
        path.write_text(text.replace("lights on", "lights up"))
    elif damage == "cut":
        path.write_text(text[:50])
    elif damage == "head":
        weights = folder / "head" / "recogniser.ckpt"
        state = torch.load(weights, weights_only=True)
        state["symbols.bias"] += 1
        torch.save(state, weights)
    else:
        shutil.rmtree(folder / "head")
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        TypedCommands(folder)
    assert str(folder) in str(error.value)
