"""Symbols that a recogniser writes."""

import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from slu_kd_lobes.data.text_units import (
    BLANK,
    END,
    UNKNOWN,
    Characters,
    TextUnits,
    WordPieces,
    join_characters,
    join_pieces,
)
from slu_kd_lobes.teachers.token_vectors import TokenModel
from slu_kd_lobes.utils.environment import packaged_minilm

TEXTS = ["Don't switch the unfathomable lights on!", "It's 21 degrees.", "stop"]


@pytest.fixture(scope="module")
def pieces():
    """Pieces of the packaged text model."""
    return WordPieces(packaged_minilm())


def test_pieces_are_joined_to_what_was_said(pieces):
    cut = pieces.cut(TEXTS)
    assert "##fat" in cut[0] and cut[2] == ["stop"]
    assert [pieces.join(row) for row in cut] == [
        "don't switch the unfathomable lights on",
        "it's 21 degrees",
        "stop",
    ]
    assert pieces.join([]) == ""


def test_numbers_end_with_the_mark_and_know_what_training_knew():
    units = TextUnits.of([["b", "a"], ["b"]], join_pieces)
    assert len(units) == 5
    assert units.numbers(["a", "x", "b"]) == [3, UNKNOWN, 4, END]
    assert units.decode_ids([3, 4]) == "a b"
    assert BLANK == 0 and units.numbers([]) == [END]


def test_other_symbols_are_known_by_their_fingerprint():
    first, second = TextUnits("ab", join_pieces), TextUnits("ba", join_pieces)
    assert first.fingerprint != second.fingerprint
    same = TextUnits.of([["b", "a", "a"]], join_pieces)
    assert first.fingerprint == same.fingerprint
    other = TextUnits("ab", join_characters)
    assert first.fingerprint != other.fingerprint


def test_teacher_has_a_vector_of_each_piece_and_of_the_end(pieces, tmp_path):
    model = TokenModel(
        packaged_minilm(), tmp_path, special_tokens=True, dtype="float16"
    )
    table = model.table(TEXTS)
    cut = pieces.cut(TEXTS)
    model.check_same_tokens(TEXTS, cut, table)
    rows = table.rows_of(TEXTS)
    lengths = table.stored.lengths[rows].tolist()
    assert lengths == [len(row) + 2 for row in cut]
    exact = TokenModel(packaged_minilm(), tmp_path, special_tokens=True)
    exact = exact.table(TEXTS).units(rows)
    assert (table.units(rows).vectors - exact.vectors).abs().max() < 2e-3


def test_as_many_but_other_tokens_are_refused(pieces, tmp_path):
    model = TokenModel(packaged_minilm(), tmp_path, special_tokens=True)
    texts = ["turn it on", "light"]
    table = model.table(texts)
    cut = pieces.cut(texts)
    cut[0] = ["turn", "on", "it"]
    with pytest.raises(ValueError) as error:
        model.check_same_tokens(texts, cut, table)
    assert str(error.value) == (
        "the transcript 'turn it on' is written with 'on' where the text model "
        "reads 'it': write its pieces (--written=pieces), or take the row out"
    )
    with pytest.raises(ValueError, match="with 'l' where .* reads 'light'"):
        model.check_same_tokens(["light"], Characters().cut(["light"]), table)


def test_a_transcript_that_is_cut_off_is_refused(pieces, tmp_path):
    model = TokenModel(
        packaged_minilm(), tmp_path, max_length=4, special_tokens=True
    )
    texts = ["turn the light on"]
    with pytest.raises(ValueError, match="has 6 tokens .* and 4 are read"):
        model.check_same_tokens(texts, pieces.cut(texts), model.table(texts))


def test_a_model_of_other_pieces_is_refused(tmp_path):
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXTS, vocab_size=300)
    model = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not cut text into WordPieces"):
        WordPieces(str(tmp_path))
