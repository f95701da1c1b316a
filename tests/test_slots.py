"""The slot schema and the transcripts' normal form."""

import json
import os
import random
import unicodedata

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer

from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.utils.files import write_text

SLOTS = {
    "action": ["activate", "bring", "change language"],
    "object": ["none", "lamp", "Chinese", "music"],
    "location": ["kitchen", "none"],
}


@pytest.fixture
def schema():
    return SlotSchema(SLOTS)


def test_sizes_and_slices_follow_the_given_order(schema):
    assert schema.names == ["action", "object", "location"]
    assert schema.values == SLOTS
    assert schema.sizes == [3, 4, 2]
    assert schema.num_logits == 9
    assert list(schema.slices.items()) == [
        ("action", slice(0, 3)),
        ("object", slice(3, 7)),
        ("location", slice(7, 9)),
    ]


def test_any_number_of_slots():
    six = {f"slot{n}": [f"v{v}" for v in range(n + 1)] for n in range(6)}
    schema = SlotSchema(six)
    assert schema.sizes == [1, 2, 3, 4, 5, 6]
    assert schema.slices["slot5"] == slice(15, 21)
    assert SlotSchema({"intent": ["a"]}).num_logits == 1


def test_encode_and_decode_are_inverse(schema):
    row = {"location": "none", "object": "Chinese", "action": "bring", "x": 1}
    assert schema.encode(row) == [1, 2, 1]
    assert schema.decode([1, 2, 1]) == {
        "action": "bring",
        "object": "Chinese",
        "location": "none",
    }
    assert schema.decode(torch.tensor([2, 0, 0])) == {
        "action": "change language",
        "object": "none",
        "location": "kitchen",
    }


def test_the_same_word_in_two_slots_has_its_own_index(schema):
    row = {"action": "bring", "object": "none", "location": "none"}
    assert schema.encode(row) == [1, 0, 1]


def test_encode_names_slot_value_and_known_values(schema):
    row = {"action": "bring", "object": "chinese", "location": "none"}
    with pytest.raises(ValueError) as error:
        schema.encode(row)
    for part in ("'object'", "'chinese'", "'Chinese'", "'music'"):
        assert part in str(error.value)


def test_encode_names_a_missing_slot(schema):
    with pytest.raises(ValueError, match="no slot 'location'.*'action'"):
        schema.encode({"action": "bring", "object": "none"})


@pytest.mark.parametrize(
    "indices, message",
    [
        ([0, 0], "2 indices .* 3 slots"),
        ([0, 4, 0], "'object' has no index 4"),
        ([0, -1, 0], "'object' has no index -1"),
    ],
)
def test_decode_refuses_what_is_no_label(schema, indices, message):
    with pytest.raises(ValueError, match=message):
        schema.decode(indices)


def test_split_gives_views_in_order(schema):
    logits = torch.arange(18.0).reshape(2, 9)
    action, objects, location = schema.split(logits)
    assert action.tolist() == [[0, 1, 2], [9, 10, 11]]
    assert objects.tolist() == [[3, 4, 5, 6], [12, 13, 14, 15]]
    assert location.tolist() == [[7, 8], [16, 17]]
    objects.zero_()
    assert logits[:, schema.slices["object"]].abs().sum() == 0
    assert [part.shape for part in schema.split(torch.zeros(5, 2, 9))] == [
        (5, 2, 3),
        (5, 2, 4),
        (5, 2, 2),
    ]


@pytest.mark.parametrize("width", [8, 10])
def test_split_refuses_another_width(schema, width):
    with pytest.raises(ValueError, match=f"{width}.* need 9"):
        schema.split(torch.zeros(2, width))


@pytest.mark.parametrize(
    "slots, message",
    [
        ({}, "at least one slot"),
        (["action"], "mapping"),
        ({"action": []}, "'action' needs a list"),
        ({"action": "on"}, "'action' needs a list"),
        ({"action": ["on", "off", "on"]}, "'action' has 'on' twice"),
        ({"action": ["on", " "]}, "value of slot 'action'"),
        # What YAML makes of a bare on, and of a bare number.
        ({"action": [True]}, "value of slot 'action'.*quote"),
        ({3: ["on"]}, "slot name must be"),
    ],
)
def test_bad_slots_are_refused(slots, message):
    with pytest.raises(ValueError, match=message):
        SlotSchema(slots)


def test_later_changes_of_the_source_do_not_reach_the_schema():
    slots = {"action": ["on", "off"]}
    schema = SlotSchema(slots)
    slots["action"].append("dim")
    schema.values["action"].append("dim")
    assert schema.sizes == [2]


def test_from_rows_does_not_depend_on_the_order_of_rows():
    rows = [
        {"action": action, "object": thing, "speaker": "x"}
        for action in ("on", "off", "Dim")
        for thing in ("music", "lamp")
    ]
    expected = {"object": ["lamp", "music"], "action": ["Dim", "off", "on"]}
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        schema = SlotSchema.from_rows(iter(rows), ["object", "action"])
        assert list(schema.values.items()) == list(expected.items())


def test_from_rows_refuses_a_slot_twice():
    with pytest.raises(ValueError, match="twice"):
        SlotSchema.from_rows([{"a": "x"}], ["a", "a"])


def test_fingerprint_is_of_content_and_order(schema):
    # Pinned: a stored checkpoint is compared with it years later.
    assert SlotSchema({"a": ["x", "y"]}).fingerprint == (
        "8e10a81d620a078d3cca1195ef1a9a2e362677c4d9f30ee4ded2851cd1c81e40"
    )
    assert SlotSchema(dict(SLOTS)).fingerprint == schema.fingerprint
    others = [
        {"a": ["xy"]},
        {"a": ["y", "x"]},
        {"b": ["x", "y"]},
        {"a": ["x"], "y": ["z"]},
        {"a": ["x"], "b": ["y"]},
        {"b": ["y"], "a": ["x"]},
    ]
    assert len({SlotSchema(slots).fingerprint for slots in others}) == 6


def test_equality_is_of_content_and_order(schema):
    assert schema == SlotSchema(dict(SLOTS))
    assert hash(schema) == hash(SlotSchema(dict(SLOTS)))
    assert schema != SlotSchema(dict(reversed(SLOTS.items())))
    assert schema != SLOTS


def test_a_saved_schema_is_loaded_with_its_order(schema, tmp_path):
    schema.save(tmp_path / "slots.json")
    loaded = SlotSchema.load(tmp_path / "slots.json")
    assert loaded == schema
    assert list(loaded.values.items()) == list(SLOTS.items())
    assert SlotSchema.from_dict(schema.to_dict()) == schema


def test_values_of_any_script_survive_a_file(tmp_path):
    schema = SlotSchema({"sprache": ["中文", "français", "한국어", "🇫🇷", "𝄞"]})
    schema.save(tmp_path / "slots.json")
    assert SlotSchema.load(tmp_path / "slots.json") == schema
    assert "中文" in (tmp_path / "slots.json").read_text(encoding="utf-8")


def test_load_refuses_an_edited_file(schema, tmp_path):
    path = tmp_path / "slots.json"
    schema.save(path)
    path.write_text(path.read_text().replace("lamp", "lamb"))
    with pytest.raises(ValueError, match="slots.json is damaged.*fingerprint"):
        SlotSchema.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"slots": [1]}'])
def test_load_refuses_what_is_no_schema(text, tmp_path):
    path = tmp_path / "slots.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="slots.json is damaged"):
        SlotSchema.load(path)


def test_load_says_that_there_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="prepare the data first"):
        SlotSchema.load(tmp_path / "slots.json")


def test_json_is_plain(schema):
    content = json.loads(json.dumps(schema.to_dict()))
    assert content["slots"][0] == {"name": "action", "values": SLOTS["action"]}


def recover(folder, schema):
    """Loads the newest checkpoint of a folder into a training with `schema`."""
    checkpointer = Checkpointer(folder, recoverables={"slots": schema})
    return checkpointer.recover_if_possible()


def test_a_checkpoint_carries_its_schema(schema, tmp_path):
    checkpointer = Checkpointer(tmp_path, recoverables={"slots": schema})
    checkpoint = checkpointer.save_checkpoint()
    assert recover(tmp_path, SlotSchema(dict(SLOTS))) is not None
    # A program that has only the checkpoint can decode with it.
    assert SlotSchema.load(checkpoint.paramfiles["slots"]) == schema


@pytest.mark.parametrize(
    "other, difference",
    [
        (
            {**SLOTS, "location": ["kitchen", "none", "garden"]},
            r"'location'.*lost the values \[\] and gained \['garden'\]",
        ),
        (
            {**SLOTS, "location": ["kitchen"]},
            r"'location'.*lost the values \['none'\]",
        ),
        (
            {**SLOTS, "location": ["none", "kitchen"]},
            r"'location' has \['kitchen', 'none'\] there and \['none', 'kitc",
        ),
        (
            dict(reversed(SLOTS.items())),
            r"it has \['action', .* this model \['location'",
        ),
    ],
)
def test_a_checkpoint_of_other_slots_is_refused(
    schema, tmp_path, other, difference
):
    Checkpointer(tmp_path, recoverables={"slots": schema}).save_checkpoint()
    with pytest.raises(ValueError, match=difference) as error:
        recover(tmp_path, SlotSchema(other))
    assert "output_folder" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "slots.json"
    SlotSchema({"action": ["on"]}).save(path)
    before = path.read_bytes()

    def stop(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        SlotSchema({"action": ["off"]}).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["slots.json"]


def test_written_files_can_be_read_by_others(tmp_path):
    mask = os.umask(0o022)
    try:
        write_text(tmp_path / "text", "a\r\né\n")
    finally:
        os.umask(mask)
    assert (tmp_path / "text").read_bytes() == "a\r\né\n".encode()
    assert (tmp_path / "text").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Turn on the lights", "turn on the lights"),
        ("It’s too loud, turn it down.", "it's too loud turn it down"),
        ("It's  too\tloud\n", "it's too loud"),
        ("“Resume”", "resume"),
        ("'Resume' the 'music'", "resume the music"),
        ("the kids' room", "the kids room"),
        ("hello,world", "hello world"),
        ("a light-roast coffee", "a light roast coffee"),
        ("12 ounce", "12 ounce"),
        ("$5 please", "$5 please"),
        ("\uff045 please", "$5 please"),  # How a manifest writes it.
        ("ＬＩＧＨＴＳ ｏｎ", "lights on"),
        ("cafe\u0301", "café"),
        ("\ufefflights\u200b on", "lights on"),
        ("don`t", "don't"),
        ("ÉTEINS LA LAMPE !", "éteins la lampe"),
        ("打开灯。", "打开灯"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_transcripts_have_one_form(text, expected):
    assert normalise_transcript(text) == expected


def test_the_form_of_a_form_is_itself():
    for code in range(0x30000):
        char = chr(code)
        if unicodedata.category(char) in ("Cn", "Cs", "Co"):
            continue
        once = normalise_transcript(f"{char}a{char}b {char}'")
        assert normalise_transcript(once) == once, hex(code)
