"""Thresholds of listed sentences."""

import pytest
from test_sentences import heard

from slu_kd_lobes.evaluation.rejection import (
    answers_of_halves,
    false_accepts,
    said_texts,
)
from slu_kd_lobes.inference.sentence_graph import SentenceSearch
from slu_kd_lobes.losses.asr import LETTERS


def test_what_is_listed_is_told_from_what_is_not():
    """By hand: each half answers its own texts rightly, and the others'."""
    texts = ["lights on", "stop it", "louder", "cook rice"]
    log_probs = [heard(text, 40, 0.8) for text in texts]
    right, wrong, share = answers_of_halves(texts, log_probs, SentenceSearch)
    assert share == 1 and len(right["sum"]) == 4
    assert right["letter"] == right["frame"] == right["sum"] == 4 * [0.0]
    assert max(wrong["sum"]) < -5
    chosen = false_accepts(right, wrong, 0.97)
    assert chosen["letter"] == {"threshold": 0.0, "accepted": 0.0}


def test_without_a_right_answer_there_is_no_threshold():
    with pytest.raises(ValueError, match="no validation sentence is answered"):
        false_accepts({"sum": []}, {"sum": [-1.0]}, 0.97)
    found = false_accepts({"sum": [-1.0]}, {"sum": []}, 0.97)
    assert found["sum"] == {"threshold": -1.0, "accepted": 0.0}


def test_what_cannot_be_written_is_left_out():
    rows = [{"transcription": x} for x in ("Stop 2!", "...", "日本")]
    texts, kept = said_texts(rows, {*LETTERS})
    assert texts == ["stop two"] and kept == rows[:1]
