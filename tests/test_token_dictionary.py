"""Audio tokens as numbers: words, marks, files."""

import json

import pytest
import torch

from slu_kd_lobes.data.token_dictionary import (
    BOS,
    EOS,
    PAD,
    UNK,
    TokenDictionary,
    frame_tokens,
)


def test_frequent_words_come_first_and_unknown_ones_are_told():
    """Three groups; (1, 2, 0) three times, (0, 0, 3) once, others never."""
    heard = (
        torch.tensor([[1, 2, 0], [0, 0, 3], [1, 2, 0]]),
        torch.tensor([[1, 2, 0]]),
    )
    dictionary = TokenDictionary.of(heard, codes=4)
    assert dictionary.words == [(1, 2, 0), (0, 0, 3)]
    codes = torch.tensor([[[1, 2, 0], [0, 0, 3]], [[0, 3, 0], [3, 3, 3]]])
    assert dictionary.look_up(codes).tolist() == [[4, 5], [UNK, UNK]]
    assert (dictionary.mask, len(dictionary), dictionary.groups) == (6, 7, 3)


def test_equally_frequent_words_have_the_order_of_their_codes():
    """Whatever the order of the utterances, the numbers are the same."""
    heard = [torch.tensor([[2, 1]]), torch.tensor([[0, 5]])]
    words = [(0, 5), (2, 1)]
    assert TokenDictionary.of(heard, 6).words == words
    assert TokenDictionary.of(heard[::-1], 6).words == words


def test_every_combination_has_a_number_of_its_own():
    """All pairs of 5 codes, in any order."""
    codes = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    codes = codes[torch.randperm(25)]
    found = TokenDictionary(codes.tolist(), 5).look_up(codes)
    assert found.tolist() == list(range(4, 29))


def test_marks_stand_at_each_items_own_ends():
    """What lies after an item's end does not come through."""
    numbers = torch.tensor([[7, 8, 9], [6, 99, 99], [5, 4, 99]])
    lengths = torch.tensor([3, 1, 2])
    tokens, found = frame_tokens(numbers, lengths, eos=False)
    assert tokens.tolist() == [
        [BOS, 7, 8, 9],
        [BOS, 6, PAD, PAD],
        [BOS, 5, 4, PAD],
    ]
    assert found.tolist() == [4, 2, 3]
    tokens, found = frame_tokens(numbers, lengths, eos=True)
    assert tokens.tolist() == [
        [BOS, 7, 8, 9, EOS],
        [BOS, 6, EOS, PAD, PAD],
        [BOS, 5, 4, EOS, PAD],
    ]
    assert found.tolist() == [5, 3, 4]


def test_a_file_gives_the_same_dictionary(tmp_path):
    """Saved and read again, and refused when a word was changed."""
    path = tmp_path / "words.json"
    dictionary = TokenDictionary([(300, 2), (1, 319)], codes=320)
    dictionary.save(path)
    read = TokenDictionary.load(path)
    assert read.words == dictionary.words
    assert read.fingerprint == dictionary.fingerprint
    facts = json.loads(path.read_text())
    facts["words"][0] = [300, 3]
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="words.json is damaged"):
        TokenDictionary.load(path)
    for text in (
        "",
        "[]",
        '{"words": [], "codes": 3}',
        '{"words": [[1e400]], "codes": 3, "sha256": ""}',
        '{"words": [[1]], "codes": -3, "sha256": ""}',
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match="words.json is damaged"):
            TokenDictionary.load(path)


def test_a_table_that_is_too_large_is_refused():
    """Of four groups of 320 codes there are ten thousand millions."""
    with pytest.raises(ValueError, match="4 groups of 320 codes"):
        TokenDictionary([(0, 0, 0, 0)], codes=320)
    with pytest.raises(ValueError, match="16 groups of 320 codes"):
        TokenDictionary.of([torch.zeros(1, 16, dtype=torch.long)], codes=320)


@pytest.mark.parametrize("word", [(0, 3), (-1, 0), (1,), (0, 1, 2)])
def test_a_word_of_other_codes_is_refused(word):
    """It would have the number of another word."""
    with pytest.raises(ValueError, match="is not 2 codes below 3"):
        TokenDictionary([(0, 1), word], codes=3)


def test_a_dictionary_of_nothing_is_refused():
    """Of no utterance, and of utterances without a frame."""
    for heard in ([], [torch.zeros(0, 2, dtype=torch.long)]):
        with pytest.raises(ValueError, match="has no word"):
            TokenDictionary.of(heard, codes=3)


def test_codes_that_cannot_be_are_unknown():
    """Those of another tokeniser; none is taken for a word."""
    dictionary = TokenDictionary([(2, 1), (0, 0)], codes=3)
    codes = torch.tensor([[0, 7], [9, 9], [-1, 4], [2, 1], [0, 0]])
    assert dictionary.look_up(codes).tolist() == [UNK, UNK, UNK, 4, 5]
