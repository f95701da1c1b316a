"""Text teachers, and the table of logits that stands in for them."""

import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from slu_kd_lobes.bundled import packaged_minilm
from slu_kd_lobes.teachers import (
    ClsPooling,
    MaxPooling,
    TeacherTable,
    TextTeacher,
    text_encoder_fingerprint,
)

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
    first = text_encoder_fingerprint(str(folder))
    assert text_encoder_fingerprint(str(folder)) == first
    (folder / "README.md").write_text("A model.")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert text_encoder_fingerprint(str(copy)) == first
    seen = {first}
    save_file({"w": torch.tensor([0.0, 1e-7])}, copy / "model.safetensors")
    seen.add(text_encoder_fingerprint(str(copy)))
    (copy / "vocab.txt").write_text("[CLS]\nlamps\n")
    seen.add(text_encoder_fingerprint(str(copy)))
    (copy / "config.json").write_text('{"hidden_size": 3}')
    seen.add(text_encoder_fingerprint(str(copy)))
    assert len(seen) == 4


def test_fingerprint_of_a_hub_model_is_its_name():
    """Without a look at the network."""
    assert text_encoder_fingerprint("bert-base-cased") == "bert-base-cased"


def test_table_survives_the_disk(tmp_path, table):
    """Transcripts, logits to the last bit, origin and errors."""
    path = tmp_path / "table.safetensors"
    table.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["table.safetensors"]
    for made_from in (MADE_FROM, None):
        loaded = TeacherTable.load(path, made_from)
        assert loaded.transcripts == SENTENCES
        assert torch.equal(loaded.logits, table.logits)
        assert loaded.made_from == MADE_FROM
        assert loaded.errors == {"train": 0.0, "test": 12.5}


def test_rows_follow_the_transcripts(table):
    """In any writing, in any order, repeated or not."""
    rows = table.rows(["Set the language to Chinese.", "LOUDER!", "louder"])
    assert rows.tolist() == [3, 0, 0]
    assert table.rows([]).tolist() == [] and table.rows([]).dtype == rows.dtype


def test_unknown_transcript_is_refused(table):
    """It is named, and the remedy."""
    with pytest.raises(ValueError, match="'quieter'.*delete it"):
        table.rows(["louder", "Quieter", "off"])


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
    save_file({"logits": table.logits}, path)
    with pytest.raises(ValueError, match="is damaged"):
        TeacherTable.load(path)
    save_file({"weights": table.logits}, path, {"transcripts": "[]"})
    with pytest.raises(ValueError, match="is damaged"):
        TeacherTable.load(path)


def test_failed_save_leaves_the_old_table(tmp_path, table):
    """And no partial file."""
    path = tmp_path / "table.safetensors"
    table.save(path)
    broken = TeacherTable(SENTENCES, table.logits, {"schema": object()})
    with pytest.raises(TypeError):
        broken.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["table.safetensors"]
    assert torch.equal(load_file(path)["logits"], table.logits)


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
    part = TeacherTable(SENTENCES, table.logits.T[:7].T, MADE_FROM)
    part.save(path)
    assert torch.equal(TeacherTable.load(path).logits, table.logits[:, :7])
