"""Hashes that tell one file, model or setting from another."""

import hashlib
import json

import pytest
import torch

from slu_kd_lobes.students.dropout import Dropout
from slu_kd_lobes.utils.fingerprints import (
    check_made_from,
    file_fingerprint,
    fingerprint,
    module_fingerprint,
    weights_fingerprint,
)


def test_bytes_have_their_sha256():
    """Whatever holds them."""
    expected = hashlib.sha256(b"lights").hexdigest()
    for content in (b"lights", bytearray(b"lights"), memoryview(b"lights")):
        assert fingerprint(content) == expected


def test_everything_that_json_tells_apart_is_told_apart():
    """Also where other writings of it look alike."""
    contents = [b"1", "1", 1.5, 2, True, None, [], {}, [1, 2], [2, 1]]
    contents += [[[1], 2], ["1", 2], {"a": 1}, {"a": 2}, {"b": 1}, "ä", "a"]
    assert len({fingerprint(content) for content in contents}) == len(contents)


def test_the_order_of_keys_does_not_matter_at_any_depth():
    """That of a list does."""
    first = {"a": {"x": 1, "y": [1, 2]}, "b": None}
    second = {"b": None, "a": {"y": [1, 2], "x": 1}}
    assert fingerprint(first) == fingerprint(second)
    second["a"]["y"] = [2, 1]
    assert fingerprint(first) != fingerprint(second)


def test_a_fingerprint_survives_json():
    """What was noted in a file is compared with what is at hand."""
    made_from = {"epochs": (1, 2), "lr": 1e-4, "text": "Öl"}
    again = json.loads(json.dumps(made_from))
    assert fingerprint(again) == fingerprint(made_from)


def test_what_json_cannot_hold_is_refused():
    """An object's address would be another one in the next process."""
    with pytest.raises(TypeError):
        fingerprint({"opt_class": torch.optim.Adam})


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_a_file_has_the_sha256_of_its_content(tmp_path, size):
    """However many blocks it is read in."""
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "a").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert file_fingerprint(tmp_path / "a") == expected
    assert file_fingerprint(str(tmp_path / "a")) == expected


def test_weights_are_told_apart_by_value_name_shape_and_type():
    """The same bytes can mean two matrices."""
    modules = []
    for name, value in (
        ("weight", torch.ones(2, 3)),
        ("weight", torch.ones(2, 3) + 1e-6),
        ("weight", torch.ones(3, 2)),
        ("weight", torch.ones(2, 3, dtype=torch.double)),
        ("w", torch.ones(2, 3)),
    ):
        module = torch.nn.Module()
        module.register_buffer(name, value)
        modules.append(module)
    assert len({weights_fingerprint(module) for module in modules}) == 5
    first = weights_fingerprint(modules[0])
    assert weights_fingerprint(modules[0], "text") != first
    modules[0].weight = modules[0].weight.T.contiguous().T
    assert weights_fingerprint(modules[0]) == first


def test_a_module_is_more_than_its_weights():
    """Class and settings count; modes do not."""
    modules = [torch.nn.ReLU(), torch.nn.Tanh(), Dropout(0.1), Dropout(0.2)]
    modules.append(torch.nn.Dropout(0.1))
    assert len({module_fingerprint(module) for module in modules}) == 5
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2), Dropout(0.1))
    expected = module_fingerprint(layer)
    assert module_fingerprint(layer.eval().requires_grad_(False)) == expected


def test_things_made_from_the_same_pass():
    """In any order of their names."""
    made_from = {"text": "5f", "schema": "a0", "tables": {"teacher": {"x": 1}}}
    again = dict(reversed(made_from.items()))
    check_made_from("the table", made_from, again, "delete it")
    check_made_from("the table", {}, {}, "delete it")


@pytest.mark.parametrize(
    "made_from, names",
    [
        ({"text": "5f", "schema": "b1"}, "schema"),
        ({"text": "00", "schema": "b1"}, "schema, text"),
        ({"schema": "a0"}, "text"),
        ({"text": "5f", "schema": "a0", "lr": "1"}, "lr"),
        ({}, "schema, text"),
    ],
)
def test_things_made_from_others_are_refused(made_from, names):
    """All that differs is named, on whichever side it is, and the remedy."""
    expected = {"text": "5f", "schema": "a0"}
    for one, two in ((made_from, expected), (expected, made_from)):
        with pytest.raises(ValueError) as caught:
            check_made_from("the table", one, two, "delete it")
        assert str(caught.value) == (
            f"the table was made from another {names}: delete it"
        )
