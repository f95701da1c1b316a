"""Manifests: what they hold, what vouches for them, what is refused."""

import json
import os
from pathlib import Path

import pytest

from slu_kd_lobes.data.manifests import (
    COLUMNS,
    STAMP,
    Manifests,
    are_prepared,
    as_json,
    one_sentence,
    raise_if_any,
    read_stamp,
    utterance_id,
    write_manifests,
)
from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.utils.fingerprints import file_fingerprint

SLOTS = {"action": ["activate", "bring"], "object": ["lamp", "music", "none"]}
HEADER = ",".join([*COLUMNS, *SLOTS]) + "\n"


def row(name, text, *values):
    """A line of a manifest."""
    parts = [name, "0.5", f"$data_root/wavs/{name}.wav", "anna", text, *values]
    return ",".join(parts) + "\n"


def files(**changes):
    """Text by name: half of the training set was drawn."""
    texts = {
        "train.csv": HEADER
        + row("b", "Music!", "bring", "music")
        + row("a", "Lamp ON", "activate", "lamp"),
        "valid.csv": HEADER + row("c", "lamp on", "activate", "lamp"),
        "test.csv": HEADER + row("d", "Öl", "bring", "none"),
        "far_test.csv": HEADER + row("e", "music", "bring", "music"),
        "text.csv": "transcription,action,object\n"
        "it's lamp,activate,lamp\nlamp on,activate,lamp\nmusic,bring,music\n",
        "slots.json": as_json(SlotSchema(SLOTS).to_dict()),
    }
    return {**texts, **{f"{k}.csv": text for k, text in changes.items()}}


TESTS = ["test", "far_test"]


@pytest.fixture
def manifests(tmp_path):
    """Prepared manifests."""
    write_manifests(tmp_path / "m", files(), "5f", tests=TESTS)
    return Manifests(tmp_path / "m", Path("/corpus"))


# What they hold


def test_splits_are_train_valid_and_the_test_sets(manifests):
    """The main one first, in the order of the preparation."""
    assert manifests.tests == TESTS and manifests.main_test == "test"
    assert list(manifests.splits) == ["train", "valid", "test", "far_test"]
    for name, path in manifests.splits.items():
        assert path == manifests.folder / f"{name}.csv" and path.is_file()


def test_rows_can_be_opened_and_measured(manifests):
    """In the order of the file; slots are columns."""
    one, two = manifests.read("train")
    assert one == {
        "ID": "b",
        "duration": 0.5,
        "wav": "/corpus/wavs/b.wav",
        "spk_id": "anna",
        "transcription": "Music!",
        "action": "bring",
        "object": "music",
    }
    assert two["ID"] == "a" and two["wav"] == "/corpus/wavs/a.wav"
    assert manifests.read("test")[0]["transcription"] == "Öl"
    assert manifests.schema == SlotSchema(SLOTS)
    assert manifests.schema.encode(one) == [1, 1]


def test_another_place_of_the_corpus_is_another_path(manifests):
    """Nothing in the files knows where it was."""
    moved = Manifests(manifests.folder, Path("/else/where"))
    assert moved.read("valid")[0]["wav"] == "/else/where/wavs/c.wav"
    assert moved.fingerprint("valid") == manifests.fingerprint("valid")


def test_transcripts_are_those_of_the_whole_training_set(manifests):
    """Also of what was not drawn; normalised, sorted, with their targets."""
    whole = {"it's lamp": [0, 0], "lamp on": [0, 0], "music": [1, 1]}
    assert manifests.transcripts() == whole
    assert list(manifests.transcripts("text")) == list(whole)
    drawn = manifests.transcripts("train")
    assert drawn == {"lamp on": [0, 0], "music": [1, 1]}
    assert list(drawn) == ["lamp on", "music"]
    assert manifests.transcripts("test") == {"öl": [1, 2]}


def test_typed_wordings_are_those_of_training_or_of_all_splits(tmp_path):
    """What training means by one counts; any other choice is refused."""
    far = {"far_test": HEADER + row("e", "Lamp on!", "bring", "music")}
    write_manifests(tmp_path, files(**far), "5f", tests=TESTS)
    manifests = Manifests(tmp_path, Path("/corpus"))
    heard = {"lamp on": [0, 0], "music": [1, 1]}
    assert manifests.typed_wordings("train") == heard
    every = manifests.typed_wordings("all")
    assert every == {**heard, "öl": [1, 2]} and list(every) == sorted(every)
    with pytest.raises(ValueError, match="typed is 'test': choose train or"):
        manifests.typed_wordings("test")


def test_a_file_can_be_given_in_parts(tmp_path):
    """A manifest of a million rows need not be in memory."""
    whole = files()
    parts = {name: iter(text.splitlines(True)) for name, text in whole.items()}
    write_manifests(tmp_path / "a", whole, "5f", tests=TESTS)
    write_manifests(tmp_path / "b", parts, "5f", tests=TESTS)
    assert read_stamp(tmp_path / "a") == read_stamp(tmp_path / "b")
    for name, text in whole.items():
        assert (tmp_path / "b" / name).read_text("utf-8") == text


def test_a_transcript_of_two_meanings_counts_as_its_first_row(tmp_path):
    """In any writing."""
    train = HEADER + row("a", "Lamp", "bring", "lamp")
    train += row("b", "lamp!", "activate", "lamp")
    write_manifests(tmp_path, files(train=train), "5f", tests=["test"])
    manifests = Manifests(tmp_path, Path("/corpus"))
    assert manifests.transcripts("train") == {"lamp": [1, 0]}


def test_what_reads_text_is_refused_where_there_is_none(tmp_path, manifests):
    """With what to do; a row without text is none."""
    manifests.check_transcripts("teacher", "text", "train", "test")
    silent = {
        name: HEADER
        + row("a", "", "bring", "lamp")
        + row("b", "", "bring", "lamp")
        for name in ("train", "test")
    }
    write_manifests(tmp_path / "o", files(**silent), "5f", tests=TESTS)
    other = Manifests(tmp_path / "o", Path("/corpus"))
    assert other.transcripts("train") == {}
    other.check_transcripts("teacher", "valid", "far_test")
    with pytest.raises(ValueError) as caught:
        other.check_transcripts("teacher", *other.splits)
    message = str(caught.value)
    assert message.startswith("The teacher reads transcripts, and train, test ")
    assert "'transcription'" in message and "--teachers=[]" in message


def test_fingerprints_are_by_split(tmp_path, manifests):
    """A change of one split is one of its own, and of all together."""
    change = {"valid": HEADER + row("c", "lamp off", "activate", "lamp")}
    write_manifests(tmp_path / "o", files(**change), "a0", tests=TESTS)
    other = Manifests(tmp_path / "o", Path("/corpus"))
    for splits, same in (
        (("train",), True),
        (("text",), True),
        (("valid",), False),
        (("train", "test"), True),
        (("train", "valid"), False),
        ((), False),
    ):
        equal = manifests.fingerprint(*splits) == other.fingerprint(*splits)
        assert equal == same, splits
    found = {manifests.fingerprint(name) for name in manifests.splits}
    assert len(found) == 4
    both = manifests.fingerprint("train", "test")
    assert both != manifests.fingerprint("test", "train")


def test_the_fingerprint_of_all_files_is_that_of_their_content(
    tmp_path, manifests
):
    """Neither of the stamp nor of the order in which they were written."""
    reverse = dict(reversed(files().items()))
    write_manifests(tmp_path / "o", reverse, "a0", tests=TESTS, hours=3)
    other = Manifests(tmp_path / "o", Path("/corpus"))
    assert other.fingerprint() == manifests.fingerprint()


# The stamp


def test_the_stamp_says_what_there_is(manifests):
    """In the words of JSON, for other programs."""
    stamp = json.loads((manifests.folder / STAMP).read_text())
    assert sorted(stamp) == ["facts", "files", "made_from"]
    assert stamp["made_from"] == "5f"
    assert stamp["facts"] == {"tests": TESTS}
    for name, digest in stamp["files"].items():
        assert file_fingerprint(manifests.folder / name) == digest
    assert stamp["files"].keys() == files().keys()
    assert manifests.stamp == stamp == read_stamp(manifests.folder)


def test_prepared_files_are_those_of_the_same_sources(manifests):
    """And of no others."""
    assert are_prepared(manifests.folder, "5f")
    assert not are_prepared(manifests.folder, "a0")
    assert not are_prepared(manifests.folder / "no", "5f")


@pytest.mark.parametrize("name", sorted(files()))
@pytest.mark.parametrize("damage", ["cut", "edited", "deleted"])
def test_a_damaged_file_is_not_prepared(manifests, name, damage):
    """Whichever it is."""
    path = manifests.folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    if damage == "edited":
        path.write_bytes(content.replace(b"a", b"e", 1))
    if damage == "deleted":
        path.unlink()
    assert not are_prepared(manifests.folder, "5f")
    path.write_bytes(content)
    assert are_prepared(manifests.folder, "5f")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", "{}", '{"files": {}}', "\xff\xfe"]
)
def test_a_damaged_stamp_counts_as_none(manifests, text):
    """Empty, cut off, or JSON that is no stamp."""
    (manifests.folder / STAMP).write_text(text, encoding="latin-1")
    assert not are_prepared(manifests.folder, "5f")
    assert read_stamp(manifests.folder)["files"] == {}
    with pytest.raises(FileNotFoundError, match="none was prepared"):
        Manifests(manifests.folder, Path("/corpus"))


def test_files_of_an_earlier_preparation_do_not_stay(manifests):
    """Others in the folder do."""
    (manifests.folder / "notes.txt").write_text("mine")
    fewer = {k: v for k, v in files().items() if k != "far_test.csv"}
    write_manifests(manifests.folder, fewer, "a0", tests=["test"])
    names = {path.name for path in manifests.folder.iterdir()}
    assert names == {*fewer, STAMP, "notes.txt"}
    assert are_prepared(manifests.folder, "a0")


@pytest.mark.parametrize("number", range(len(files()) + 1))
def test_the_stamp_comes_last(manifests, monkeypatch, number):
    """After a stop at any write the folder counts as neither of the two."""
    folder, replace, calls = manifests.folder, os.replace, []

    def stop(source, target):
        calls.append(Path(target).name)
        if len(calls) > number:
            raise KeyboardInterrupt
        replace(source, target)

    changed = {k: v.replace("lamp", "bulb") for k, v in files().items()}
    changed = {k: v + "\n" for k, v in changed.items()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            write_manifests(folder, changed, "a0", tests=TESTS)
    assert not are_prepared(folder, "a0")
    assert are_prepared(folder, "5f") == (number == 0)
    assert (calls[-1] == STAMP) == (number == len(files()))
    assert not list(folder.glob(".*"))
    write_manifests(folder, changed, "a0", tests=TESTS)
    assert are_prepared(folder, "a0")


# What is refused


def test_an_unprepared_folder_is_refused(tmp_path):
    """One that is not there, an empty one, and one without test sets."""
    (tmp_path / "empty").mkdir()
    write_manifests(tmp_path / "asr", {"train.csv": "ID\n"}, "5f", hours=3)
    for name in ("no", "empty", "asr"):
        with pytest.raises(FileNotFoundError) as caught:
            Manifests(tmp_path / name, Path("/corpus"))
        assert str(caught.value) == (
            f"The manifests in {tmp_path / name} cannot be used because none "
            "was prepared: run the preparation (skip_prep: False) first."
        )


def test_a_file_that_is_gone_is_named(manifests):
    """Before anything is read."""
    (manifests.folder / "far_test.csv").unlink()
    with pytest.raises(FileNotFoundError, match="far_test.csv is missing: run"):
        Manifests(manifests.folder, Path("/corpus"))


# Names and faults


def test_a_sentence_names_as_many_faults_as_asked():
    faults = [f"row {i} is empty" for i in (2, 5, 9)]
    two = one_sentence(faults, "mend it", shown=2)
    assert two == "row 2 is empty; row 5 is empty (and 1 more): mend it."
    assert "more" not in one_sentence(faults, "mend it", shown=3)


def test_ids_of_different_paths_differ():
    paths = ["a/b", "a--b", "a-/b", "a/-b", "a b", "a_b", "ä/b", "ö/b", "a.b"]
    keys = [utterance_id(path) for path in paths]
    assert len(set(keys)) == len(paths)
    assert keys[0] == "a--b" and keys[5] == "a_b" and keys[8] == "a.b"
    for key in keys:
        assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")


def test_one_fault_is_a_sentence_and_more_are_counted():
    """No fault is none; the kind of error is the caller's."""
    raise_if_any([], "mend it")
    with pytest.raises(ValueError, match="^row 2 is empty: mend it.$"):
        raise_if_any(["row 2 is empty"], "mend it")
    faults = [f"row {i} is empty" for i in (2, 5, 9)]
    with pytest.raises(FileNotFoundError) as caught:
        raise_if_any(faults, "mend it", FileNotFoundError)
    assert str(caught.value) == "row 2 is empty (and 2 more): mend it."
