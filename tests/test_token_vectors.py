"""Vectors and priors of tokens are stored once, and found again."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from slu_kd_lobes.teachers.tables import TeacherTable
from slu_kd_lobes.teachers.token_vectors import TokenModel, TokenTable
from slu_kd_lobes.utils.environment import packaged_minilm

TEXTS = ["Turn on the lights!", "louder", "bring me my jeans", "LOUDER"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where tables live."""
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def table(folder):
    """Of the packaged MiniLM."""
    return TokenModel(packaged_minilm(), folder).table(TEXTS)


def test_vectors_are_those_of_the_model_alone(table):
    """Without the marks of begin and end, whatever shared the batch."""
    text = "turn on the lights"
    tokenizer = AutoTokenizer.from_pretrained(packaged_minilm())
    model = AutoModel.from_pretrained(
        packaged_minilm(), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        tokens = tokenizer(text, return_tensors="pt")
        found = model(**tokens, output_attentions=True)
    units = table.units(table.rows_of([text, "louder"]))
    assert units.mask.sum(1).tolist() == [4, 1]
    assert torch.allclose(
        units.vectors[0], found.last_hidden_state[0, 1:-1], atol=1e-5
    )
    received = torch.zeros(4)
    for layer in found.attentions:
        columns = layer.mean(1)[0, 1:-1, 1:-1].sum(0)
        received += columns / columns.sum() / len(found.attentions)
    assert torch.allclose(units.priors[0], received, atol=1e-5)
    assert torch.allclose(units.priors.sum(1), torch.ones(2))
    assert not units.priors[1, 1:].any()


def test_writings_of_a_transcript_are_one(table):
    """As in every table."""
    assert len(table.transcripts) == 3
    assert (
        table.rows_of(["Louder", "LOUDER!"]) == [0, 0]
        or len(set(table.rows_of(["Louder", "LOUDER!"]))) == 1
    )
    with pytest.raises(ValueError, match="no row for the transcript 'quiet'"):
        table.rows_of(["quiet"])


def test_the_table_is_made_once(table, folder, monkeypatch):
    """And anew with other settings or another text."""
    model = TokenModel(packaged_minilm(), folder)
    with monkeypatch.context() as patch:
        patch.setattr(TokenModel, "read", None)
        again = model.table(reversed(TEXTS))
    assert torch.equal(again.outputs, table.outputs)
    whole = TokenModel(packaged_minilm(), folder, special_tokens=True)
    rows = whole.table(TEXTS).stored.lengths - table.stored.lengths
    assert rows.tolist() == [2, 2, 2]
    assert len(model.table([*TEXTS, "quiet"]).transcripts) == 4


def test_another_kind_of_table_is_refused(table, tmp_path):
    """A file says what it is."""
    table.save(tmp_path / "tokens.safetensors")
    again = TokenTable.load(tmp_path / "tokens.safetensors", table.made_from)
    assert torch.equal(again.outputs, table.outputs)
    TeacherTable(["on"], torch.zeros(1, 2), {}).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="a.safetensors is damaged"):
        TokenTable.load(tmp_path / "a.safetensors")


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    """A missing model, and a text without tokens."""
    with pytest.raises(ValueError, match="text encoder 'no/such'"):
        TokenModel("no/such", tmp_path).table(["on"])
    with pytest.raises(ValueError, match="has no token"):
        TokenModel(packaged_minilm(), tmp_path).table(["on", ""])
