"""Text teachers, and the table of logits that stands in for them."""

import re
import shutil
import signal
import time
from functools import partial

import pytest
import torch
from running import ROOT, forked
from safetensors.torch import load_file, save_file

from slu_kd_lobes.data.manifests import (
    COLUMNS,
    Manifests,
    as_json,
    write_manifests,
)
from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.evaluation.metrics import intent_errors
from slu_kd_lobes.losses.slots import SlotCrossEntropy
from slu_kd_lobes.teachers.tables import TeacherTable, TextModel
from slu_kd_lobes.teachers.text_teacher import (
    ClsPooling,
    MaxPooling,
    MeanPooling,
    TextTeacher,
)
from slu_kd_lobes.utils.environment import packaged_minilm
from slu_kd_lobes.utils.fingerprints import fingerprint, model_fingerprint

SENTENCES = [
    "louder",
    "turn on the lights in the kitchen",
    "bring me the newspaper that lies on the table in the bedroom please",
    "set the language to chinese",
]
MADE_FROM = {"text_encoder": "5f", "schema": "a0"}


@pytest.fixture(scope="module")
def minilm():
    """The packaged text encoder under a random classifier, in eval mode."""
    torch.manual_seed(0)
    return TextTeacher(packaged_minilm(), 24, MaxPooling()).eval()


@pytest.fixture(params=[ClsPooling, MaxPooling])
def teacher(request, minilm):
    """Teacher and professor."""
    minilm.pooling = request.param()
    return minilm


@pytest.fixture
def table():
    """Four transcripts."""
    return TeacherTable(
        SENTENCES, torch.randn(4, 24), MADE_FROM, {"train": 0.0, "test": 12.5}
    )


def test_teacher_reads_the_first_token():
    """[CLS], whatever else there is."""
    logits = torch.randn(2, 5, 24)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert torch.equal(ClsPooling()(logits, mask), logits[:, 0])


def test_professor_takes_the_maximum_over_real_tokens():
    """Padding loses, even where all real logits are negative."""
    logits = -1 - torch.rand(2, 5, 24)
    logits[1, 3:] = 100.0
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    pooled = MaxPooling()(logits, mask)
    assert torch.equal(pooled[0], logits[0].max(0).values)
    assert torch.equal(pooled[1], logits[1, :3].max(0).values)


def test_professor_gives_no_gradient_to_padding():
    """And a finite one to the rest."""
    logits = torch.randn(1, 3, 4, requires_grad=True)
    MaxPooling()(logits, torch.tensor([[1, 1, 0]])).sum().backward()
    assert logits.grad[0, :2].sum(0).tolist() == [1, 1, 1, 1]
    assert not logits.grad[0, 2].any()


@torch.no_grad()
def test_logits_of_a_sentence_do_not_depend_on_its_batch(teacher):
    """Neither on longer neighbours nor on the order."""
    logits = teacher(SENTENCES)
    assert logits.shape == (4, 24)
    for sentence, expected in zip(SENTENCES, logits):
        torch.testing.assert_close(
            teacher([sentence])[0], expected, rtol=0, atol=1e-5
        )
    torch.testing.assert_close(
        teacher(SENTENCES[::-1]), logits.flip(0), rtol=0, atol=1e-5
    )
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@torch.no_grad()
def test_teacher_and_professor_are_the_text_encoder_and_one_layer(minilm):
    """On one sentence: the last hidden states, a classifier, a pooling."""
    tokens = minilm.tokenizer(SENTENCES[1], return_tensors="pt")
    hidden = minilm.encoder(**tokens).last_hidden_state[0]
    logits = hidden @ minilm.classifier.weight.T + minilm.classifier.bias
    minilm.pooling = ClsPooling()
    torch.testing.assert_close(minilm([SENTENCES[1]])[0], logits[0])
    minilm.pooling = MaxPooling()
    torch.testing.assert_close(minilm([SENTENCES[1]])[0], logits.amax(0))


@torch.no_grad()
def test_no_more_than_60_tokens_are_read(minilm):
    """Word 70 changes nothing; with a higher bound it does."""
    minilm.pooling = MaxPooling()
    texts = ["on " * 70 + "lamp", "on " * 70 + "music"]
    logits = minilm(texts)
    assert torch.equal(logits[0], logits[1])
    minilm.max_length = 80
    logits = minilm(texts)
    minilm.max_length = 60
    assert not torch.equal(logits[0], logits[1])


def test_more_tokens_than_the_text_encoder_reads_are_refused():
    """Before a long sentence meets it."""
    assert TextTeacher(packaged_minilm(), 4, ClsPooling(), 512)
    with pytest.raises(
        ValueError, match="^max_tokens is 513, and .* at most 5"
    ):
        TextTeacher(packaged_minilm(), 4, ClsPooling(), 513)


def test_all_of_the_text_encoder_learns(minilm):
    """It is fine-tuned, not frozen; only BERT's own pooler is unused."""
    minilm.pooling = ClsPooling()
    minilm(SENTENCES).square().mean().backward()
    idle = [n for n, p in minilm.named_parameters() if p.grad is None]
    minilm.zero_grad(set_to_none=True)
    assert idle == ["encoder.pooler.dense.weight", "encoder.pooler.dense.bias"]


@pytest.mark.parametrize("source", ["no-such-user/no-such-model", "{folder}"])
def test_missing_text_encoder_is_one_sentence_at_once(tmp_path, source):
    """A hub name that cannot be reached, and a folder without a model."""
    source = source.format(folder=tmp_path)
    start = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        TextTeacher(source, 24, ClsPooling())
    assert time.perf_counter() - start < 5
    message = str(caught.value)
    assert message.startswith(f"the text encoder '{source}' is neither")
    assert "check the name and the network" in message
    assert "\n" not in message


def test_fingerprint_of_a_folder_changes_with_its_weights(tmp_path):
    """And with configuration and vocabulary; not with its place or README."""
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 2}')
    (folder / "vocab.txt").write_text("[CLS]\nlamp\n")
    save_file({"w": torch.zeros(2)}, folder / "model.safetensors")
    first = model_fingerprint(str(folder))
    assert model_fingerprint(str(folder)) == first
    (folder / "README.md").write_text("A model.")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert model_fingerprint(str(copy)) == first
    seen = {first}
    save_file({"w": torch.tensor([0.0, 1e-7])}, copy / "model.safetensors")
    seen.add(model_fingerprint(str(copy)))
    (copy / "vocab.txt").write_text("[CLS]\nlamps\n")
    seen.add(model_fingerprint(str(copy)))
    (copy / "config.json").write_text('{"hidden_size": 3}')
    seen.add(model_fingerprint(str(copy)))
    assert len(seen) == 4


def test_fingerprint_of_a_hub_model_is_its_name():
    """Without a look at the network."""
    assert model_fingerprint("bert-base-cased") == "bert-base-cased"


def test_table_survives_the_disk(tmp_path, table):
    """Transcripts, logits to the last bit, origin and errors."""
    path = tmp_path / "table.safetensors"
    table.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["table.safetensors"]
    for made_from in (MADE_FROM, None):
        loaded = TeacherTable.load(path, made_from)
        assert loaded.transcripts == SENTENCES
        assert torch.equal(loaded.outputs, table.outputs)
        assert loaded.made_from == MADE_FROM
        assert loaded.errors == {"train": 0.0, "test": 12.5}


def test_rows_follow_the_transcripts(table):
    """In any writing, in any order, repeated or not."""
    texts = ["Set the language to Chinese.", "LOUDER!", "louder"]
    assert torch.equal(table.look_up(texts), table.outputs[[3, 0, 0]])
    none = table.look_up([])
    assert none.shape == (0, 24) and none.dtype == table.outputs.dtype


def test_different_transcripts_and_where_they_are(table):
    """Sorted; the first place of each, and the row of every text."""
    texts = ["Set the language to Chinese.", "LOUDER!", "louder", SENTENCES[1]]
    outputs, first, which = table.distinct(texts)
    assert torch.equal(outputs, table.outputs[[0, 3, 1]])
    assert first.tolist() == [1, 0, 3]
    assert which.tolist() == [1, 0, 0, 2]
    assert torch.equal(outputs[which], table.look_up(texts))


def test_unknown_transcript_is_refused(table):
    """It is named, and the remedy."""
    texts = ["louder", "Quieter", "off"]
    with pytest.raises(ValueError, match="'quieter'.*delete it"):
        table.look_up(texts)
    with pytest.raises(ValueError, match="no row for the transcript 'off'"):
        table.distinct(texts)


@pytest.mark.parametrize(
    "made_from, names",
    [
        ({**MADE_FROM, "schema": "b1"}, "schema"),
        ({"text_encoder": "00", "schema": "b1"}, "schema, text_encoder"),
        ({**MADE_FROM, "settings": "77"}, "settings"),
        ({"schema": "a0"}, "text_encoder"),
    ],
)
def test_table_of_another_origin_is_refused(tmp_path, table, made_from, names):
    """Naming all that differs, or is there on one side only."""
    path = tmp_path / "table.safetensors"
    table.save(path)
    message = f"table.safetensors was made from another {names}: delete it"
    with pytest.raises(ValueError, match=message):
        TeacherTable.load(path, made_from)


def test_damaged_table_is_refused(tmp_path, table):
    """Truncated, empty, not a table, and one flipped bit anywhere in it."""
    path = tmp_path / "table.safetensors"
    table.save(path)
    whole = path.read_bytes()
    damaged = [whole[:size] for size in (0, 7, 100, len(whole) - 1)]
    damaged.append(b"no table at all, but long enough to be one")
    for place in range(0, len(whole), 11):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged|was made from"):
            TeacherTable.load(path, MADE_FROM)
    path.write_bytes(whole)
    TeacherTable.load(path, MADE_FROM)


def test_foreign_safetensors_file_is_refused(tmp_path, table):
    """A file of the right kind without what a table says of itself."""
    path = tmp_path / "table.safetensors"
    save_file({"outputs": table.outputs}, path)
    with pytest.raises(ValueError, match="is damaged"):
        TeacherTable.load(path)
    save_file({"weights": table.outputs}, path, {"transcripts": "[]"})
    with pytest.raises(ValueError, match="is damaged"):
        TeacherTable.load(path)


def test_failed_save_leaves_the_old_table(tmp_path, table):
    """And no partial file."""
    path = tmp_path / "table.safetensors"
    table.save(path)
    broken = TeacherTable(SENTENCES, table.outputs, {"schema": object()})
    with pytest.raises(TypeError):
        broken.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["table.safetensors"]
    assert torch.equal(load_file(path)["outputs"], table.outputs)


def test_a_table_that_cannot_take_its_place_leaves_no_file(tmp_path, table):
    """A folder has its name."""
    path = tmp_path / "table.safetensors"
    path.mkdir()
    with pytest.raises(OSError):
        table.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["table.safetensors"]


def test_table_of_a_slice_of_logits(tmp_path, table):
    """The checksum is that of the values, not of the memory behind them."""
    path = tmp_path / "table.safetensors"
    part = TeacherTable(SENTENCES, table.outputs.T[:7].T, MADE_FROM)
    part.save(path)
    assert torch.equal(TeacherTable.load(path).outputs, table.outputs[:, :7])


# Text models that make their table

SCHEMA = SlotSchema(
    {"action": ["increase", "decrease"], "object": ["lamp", "tv"]}
)
COMMANDS = {
    "louder": ("increase", "tv"),
    "quieter please": ("decrease", "tv"),
    "the lamp is too dark": ("increase", "lamp"),
    "less light": ("decrease", "lamp"),
}


def manifests_of(folder, train, tests):
    """Manifests of these transcripts; all commands are in the whole set."""
    head = ",".join([*COLUMNS, *SCHEMA.names]) + "\n"
    files = {"slots.json": as_json(SCHEMA.to_dict())}
    for split, texts in {"train": train, "valid": ["louder"], **tests}.items():
        files[f"{split}.csv"] = head + "".join(
            f"{i},1,$data_root/{i}.wav,anna,{text},{','.join(COMMANDS[text])}\n"
            for i, text in enumerate(texts)
        )
    files["text.csv"] = "transcription,action,object\n" + "".join(
        f"{text},{','.join(values)}\n" for text, values in COMMANDS.items()
    )
    write_manifests(folder, files, "5f", tests=list(tests))
    return Manifests(folder, folder)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """A draw of three of the four commands, one of them said twice."""
    train = [*list(COMMANDS)[:3], "louder"]
    folder = tmp_path_factory.mktemp("manifests")
    return manifests_of(folder, train, {"test": ["less light"]})


def text_model(folder, name="teacher", pooling=None, **changes):
    """A teacher that learns four commands in seconds."""
    fine_tuning = {
        "seed": 3,
        "number_of_epochs": 8,
        "batch_size": 2,
        "lr": 0.0005,
        "lr_decay": 0.9,
        "opt_class": partial(torch.optim.AdamW, eps=1e-8),
        "loss": SlotCrossEntropy(),
        "text": "whole",
        "max_train_error": 0.0,
        **changes,
    }
    return TextModel(
        name,
        packaged_minilm(),
        pooling or ClsPooling(),
        folder,
        fine_tuning=fine_tuning,
    )


@pytest.fixture(scope="module")
def made(manifests, tmp_path_factory):
    """Folder and table of a fine-tuned teacher."""
    folder = tmp_path_factory.mktemp("teachers")
    return folder, text_model(folder).table(manifests, {"device": "cpu"})


def path_of(folder):
    """The only table of a folder."""
    (path,) = folder.glob("*/table.safetensors")
    return path


def test_a_teacher_learns_the_text_of_the_whole_set(made):
    """Not only of what was drawn; its errors are noted by split."""
    folder, table = made
    assert table.transcripts == sorted(COMMANDS)
    assert table.errors == {"train": 0.0, "valid": 0.0, "test": 0.0}
    logits = table.look_up(COMMANDS)
    targets = torch.tensor([SCHEMA.encode(row_of(text)) for text in COMMANDS])
    assert not intent_errors(logits, targets, SCHEMA.slices).any()
    assert path_of(folder).parent.name.startswith("teacher-")


def row_of(text):
    """Values of a command by slot."""
    return dict(zip(SCHEMA.names, COMMANDS[text]))


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
from slu_kd_lobes.data.manifests import Manifests
from slu_kd_lobes.teachers import fine_tuning
from test_teachers import text_model

torch.set_num_threads({threads})
brain = fine_tuning.TeacherBrain
brain.saving = 1e9  # whatever a checkpoint costs
log_epoch = brain.log_epoch

def killed(self, epoch, valid_stats):
    print("epoch", epoch, flush=True)
    if epoch == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    log_epoch(self, epoch, valid_stats)

brain.log_epoch = killed
folder = Path(sys.argv[1])
text_model(sys.argv[2]).table(Manifests(folder, folder), {{"device": "cpu"}})
"""


def test_a_killed_fine_tuning_goes_on_to_the_same_table(
    made, manifests, tmp_path
):
    """After kill -9 no saved epoch is trained again; nothing is left."""
    script = tmp_path / "killed.py"
    facts = {"tests": str(ROOT / "tests"), "threads": torch.get_num_threads()}
    script.write_text(KILLED.format(**facts))
    tables, epochs = tmp_path / "tables", []
    for last, expected in ((4, -signal.SIGKILL), (0, 0)):
        words = [script, manifests.folder, tables, last]
        status, printed = forked(words, ROOT)
        assert status == expected, printed
        epochs.append(re.findall(r"^epoch (\d)$", printed, re.M))
    assert epochs == [list("1234"), list("45678")]
    table = TeacherTable.load(path_of(tables))
    assert torch.equal(table.outputs, made[1].outputs)
    assert table.errors == made[1].errors
    assert not list(tables.glob("*.training"))


def test_a_table_is_made_once(made, manifests):
    """Found again by what it was made from, and read as it is."""
    folder, table = made
    before = path_of(folder).stat().st_mtime_ns
    again = text_model(folder).table(manifests, {"device": "cpu"})
    assert torch.equal(again.outputs, table.outputs)
    assert again.errors == table.errors
    assert path_of(folder).stat().st_mtime_ns == before


def test_what_ran_before_does_not_change_a_teacher(made, manifests, tmp_path):
    """The same settings make the same logits."""
    torch.rand(7)
    again = text_model(tmp_path).table(manifests, {"device": "cpu"})
    assert torch.equal(again.outputs, made[1].outputs)
    assert again.made_from == made[1].made_from


def test_another_draw_of_the_corpus_has_the_same_teacher(made, tmp_path):
    """And so have other test sets of the same transcripts."""
    folder, table = made
    tests = {"far_test": ["less light"], "spk_test": ["louder"]}
    other = manifests_of(tmp_path, ["less light"], tests)
    model = text_model(folder)
    made_from = model.made_from(SCHEMA, model.transcripts(other))
    assert made_from == table.made_from


def test_whatever_shapes_a_table_is_in_its_fingerprints(
    manifests, tmp_path, made
):
    """Each on its own; neither the folder nor the name is."""

    def made_from(model, data=manifests):
        return model.made_from(data.schema, model.transcripts(data))

    expected = made_from(text_model(tmp_path))
    assert made_from(text_model("/else/where", "other")) == expected
    assert expected == made[1].made_from
    plain = TextModel("a", packaged_minilm(), ClsPooling(), tmp_path)
    longer = text_model(tmp_path)
    longer.max_length = 61
    subset = text_model(tmp_path, text="subset")
    others = [plain, longer, subset, text_model(tmp_path, pooling=MaxPooling())]
    for key, value in (
        ("seed", 4),
        ("number_of_epochs", 9),
        ("batch_size", 3),
        ("lr", 0.0001),
        ("lr_decay", 0.8),
        ("opt_class", partial(torch.optim.AdamW, eps=1e-7)),
        ("opt_class", partial(torch.optim.Adam, eps=1e-8)),
        ("loss", SlotCrossEntropy(label_smoothing=0.1)),
    ):
        others.append(text_model(tmp_path, **{key: value}))
    found = {fingerprint(made_from(model)) for model in others}
    assert len(found) == len(others)
    assert fingerprint(expected) not in found


def test_a_teacher_can_read_what_was_drawn_alone(manifests, tmp_path):
    """What it was not taught it still has an answer for."""
    model = text_model(tmp_path, text="subset")
    assert len(model.transcripts(manifests)["train"]) == 3
    table = model.table(manifests, {"device": "cpu"})
    assert table.transcripts == sorted(COMMANDS)
    assert table.errors["train"] == 0.0


@pytest.mark.parametrize("options", [{"text": "all"}, {"text": None}])
def test_an_unknown_text_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="choose whole or subset"):
        text_model(tmp_path, **options)


def test_a_teacher_that_would_teach_mistakes_is_refused(manifests, tmp_path):
    """In one sentence with both numbers; nothing is left."""
    model = text_model(tmp_path, lr=0.0, number_of_epochs=1)
    with pytest.raises(ValueError) as caught:
        model.table(manifests, {"device": "cpu"})
    message = str(caught.value)
    assert message.startswith("the teacher is wrong on ")
    assert "more than max_train_error (0.0 %): train it longer" in message
    assert "\n" not in message
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_damaged_table_is_not_made_again_in_silence(manifests, tmp_path):
    """Training takes time: its user decides."""
    model = TextModel("sentence", packaged_minilm(), MeanPooling(), tmp_path)
    # A copy: what is loaded is a memory map of the file.
    outputs = model.table(manifests, {"device": "cpu"}).outputs.clone()
    path = path_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is damaged: delete it, and it is"):
        model.table(manifests, {"device": "cpu"})
    path.unlink()
    again = model.table(manifests, {"device": "cpu"})
    assert torch.equal(again.outputs, outputs)


def test_vectors_are_those_of_the_text_encoder_as_it_is(manifests, tmp_path):
    """Nothing is learnt from labels, so there are no errors."""
    model = TextModel("sentence", packaged_minilm(), MeanPooling(), tmp_path)
    table = model.table(manifests, {"device": "cpu"})
    assert table.errors == {} and table.transcripts == sorted(COMMANDS)
    plain = TextTeacher(packaged_minilm(), None, MeanPooling()).eval()
    with torch.no_grad():
        expected = plain(table.transcripts)
    torch.testing.assert_close(table.outputs, expected, rtol=0, atol=1e-5)


def test_vectors_of_any_transcripts_are_made_once(tmp_path):
    """In any writing and order; of other texts there is another table."""
    model = TextModel("sentence", packaged_minilm(), ClsPooling(), tmp_path)
    said = ["Stop the music!", "lights on", "stop the music"]
    table = model.vectors(said)
    assert table.transcripts == ["lights on", "stop the music"]
    plain = TextTeacher(packaged_minilm(), None, ClsPooling()).eval()
    with torch.no_grad():
        expected = plain(["lights on", "stop the music"])
    torch.testing.assert_close(table.outputs, expected)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.s*")}
    assert len(files) == 1
    again = model.vectors(said[::-1])
    assert torch.equal(again.outputs, table.outputs)
    assert all(path.stat().st_mtime_ns == t for path, t in files.items())
    model.vectors([*said, "louder"])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
