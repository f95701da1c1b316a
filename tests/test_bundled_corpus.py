"""The bundled synthetic corpus keeps what its data card promises."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
import soundfile as sf

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "data" / "synthetic-commands"
TABLES = ROOT / "recipes" / "fluent-speech-commands" / "corpus"
HEADER = ["", "path", "speakerId", "transcription"]
HEADER += ["action", "object", "location"]
SPLITS = ["train", "valid", "test", "utt_test"]
ROOMS = ["none", "kitchen", "bedroom", "washroom"]
INTENTS = {
    *(("activate", "lights", room) for room in ROOMS),
    *(("deactivate", "lights", room) for room in ROOMS),
    *(("increase", "heat", room) for room in ROOMS),
    *(("decrease", "heat", room) for room in ROOMS),
    *((a, "lamp", "none") for a in ("activate", "deactivate")),
    *((a, "music", "none") for a in ("activate", "deactivate")),
    *((a, "volume", "none") for a in ("increase", "decrease")),
    *(("bring", o, "none") for o in ("newspaper", "juice", "socks", "shoes")),
    *(
        ("change language", language, "none")
        for language in ("none", "Chinese", "Korean", "English", "German")
    ),
}


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def intent_of(row):
    return row["action"], row["object"], row["location"]


def wordings(rows):
    """Return the wordings in lower case and without punctuation."""
    return {
        re.sub(r"[^a-z0-9 ]", "", row["transcription"].lower()) for row in rows
    }


def speakers(rows):
    return {row["speakerId"] for row in rows}


@pytest.fixture(scope="module")
def corpus():
    """Return the rows of each split."""
    return {s: read_csv(CORPUS / "data" / f"{s}_data.csv") for s in SPLITS}


def test_tables_have_the_columns_of_fluent_speech_commands(corpus):
    for rows in corpus.values():
        assert list(rows[0]) == HEADER
        assert [row[""] for row in rows] == [str(n) for n in range(len(rows))]


def test_the_31_intents_are_in_every_split(corpus):
    assert len(INTENTS) == 31
    for rows in corpus.values():
        assert {intent_of(row) for row in rows} == INTENTS


def test_a_wording_has_one_intent(corpus):
    intents = {}
    for rows in corpus.values():
        for row in rows:
            intents.setdefault(min(wordings([row])), set()).add(intent_of(row))
    assert all(len(found) == 1 for found in intents.values())


def test_splits_share_no_voice_and_utt_test_has_the_voices_of_test(corpus):
    assert speakers(corpus["train"]).isdisjoint(speakers(corpus["valid"]))
    assert speakers(corpus["train"]).isdisjoint(speakers(corpus["test"]))
    assert speakers(corpus["valid"]).isdisjoint(speakers(corpus["test"]))
    assert speakers(corpus["utt_test"]) == speakers(corpus["test"])


def test_a_voice_says_a_wording_once(corpus):
    said = Counter(
        (row["speakerId"], row["transcription"])
        for rows in corpus.values()
        for row in rows
    )
    assert max(said.values()) == 1


def test_train_has_every_wording_but_those_of_utt_test(corpus):
    unseen = wordings(corpus["utt_test"])
    assert wordings(corpus["train"]).isdisjoint(unseen)
    assert wordings(corpus["valid"]) <= wordings(corpus["train"])
    assert wordings(corpus["test"]) <= wordings(corpus["train"])


def test_there_is_enough_variety(corpus):
    rows = [row for split in SPLITS for row in corpus[split]]
    assert len(wordings(rows)) >= 150
    assert len(speakers(corpus["train"])) >= 18
    assert len(speakers(corpus["valid"])) >= 4
    assert len(speakers(corpus["test"])) >= 6
    assert len(speakers(rows)) >= 24


def test_test_has_an_engine_that_train_lacks(corpus):
    def engines(split):
        return {name.split("-")[0] for name in speakers(corpus[split])}

    assert engines("test") - engines("train")


def test_corpus_agrees_with_the_tables_it_was_made_from(corpus):
    columns = ("wording", "action", "object", "location")
    table = read_csv(TABLES / "wordings.csv")
    for part, splits in (("known", SPLITS[:3]), ("unseen", SPLITS[3:])):
        asked = {
            tuple(r[c] for c in columns) for r in table if r["part"] == part
        }
        made = {
            (row["transcription"], *intent_of(row))
            for split in splits
            for row in corpus[split]
        }
        assert made == asked
    voices = read_csv(TABLES / "voices.csv")
    for split in SPLITS[:3]:
        asked = {row["voice"] for row in voices if row["split"] == split}
        assert speakers(corpus[split]) == asked


def test_every_recording_is_16_khz_mono_and_of_a_commands_length(corpus):
    for rows in corpus.values():
        for row in rows:
            info = sf.info(CORPUS / row["path"])
            assert (info.samplerate, info.channels) == (16000, 1), row["path"]
            assert 0.5 < info.duration < 6, row["path"]
            assert Path(row["path"]).parent.name == row["speakerId"]


def test_no_recording_is_unlisted_or_listed_twice(corpus):
    listed = [row["path"] for rows in corpus.values() for row in rows]
    found = [
        path.relative_to(CORPUS).as_posix()
        for path in (CORPUS / "wavs").rglob("*")
        if path.is_file()
    ]
    assert sorted(listed) == sorted(found)


def test_corpus_is_small_enough_for_a_git_repository():
    sizes = [p.stat().st_size for p in CORPUS.rglob("*") if p.is_file()]
    assert sum(sizes) <= 15e6
