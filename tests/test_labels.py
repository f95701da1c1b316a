"""Labels that may be slips: which values look like others."""

import pytest

from slu_kd_lobes.data.labels import look_alike


@pytest.mark.parametrize(
    "one, other",
    [
        ("Küche", "KÜCHE"),
        ("ein", "Ein"),  # Capitals count in words of any length.
        ("Straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("on the\u00a0left", "on the left"),
        ("on  the left", "on the left"),
        ("dining room", "dining-room"),
        ("dining_room", "diningroom"),
        ("ＴＶ", "TV"),
        ("espresso", "expresso"),
        ("gray", "grey"),
        ("lamps", "lamp"),
        ("lamp", "alamp"),
        ("kitchen", "kithcen"),
        ("l\u0430mp", "lamp"),  # The first has a Cyrillic letter.
        ("zero\u200bwidth", "zerowidth"),
        ("☀", "☀\ufe0f"),
        ("the cellar door", "the celar door"),
        ("floor 2", "flor 2"),
        ("кухня", "кухна"),
        ("latt\u00e9", "latte"),
    ],
)
def test_slips_look_alike(one, other):
    """Whichever comes first."""
    assert look_alike([one, other]) == {other: one}
    assert look_alike(["none", other, one]) == {one: other}


@pytest.mark.parametrize(
    "one, other",
    [
        ("on", "off"),
        ("on", "in"),
        ("up", "ups"),
        ("big", "bag"),
        ("let", "left"),  # One word of three letters.
        ("10", "11"),
        ("1", "10"),
        ("bedroom 1", "bedroom 2"),
        ("bedroom1", "bedroom12"),
        ("-5", "5"),
        ("zone a", "zone b"),
        ("turn on", "turn off"),
        ("activate", "deactivate"),
        ("increase", "decrease"),
        ("lamp", "alamps"),  # Two letters more.
        ("lamps", "clamp"),  # One less and one more.
        ("drums", "smurd"),
        ("打开灯光", "关开灯光"),
        ("+", "-"),
        ("💡", "🔥"),
    ],
)
def test_other_values_do_not(one, other):
    assert look_alike([one, other]) == {}


def test_each_slip_has_one_that_it_looks_like():
    """The one that is trusted more is never the slip."""
    values = ["kitchen", "garden", "Kitchen", "gardens", "kitchn", "none"]
    assert look_alike(values) == {
        "Kitchen": "kitchen",
        "gardens": "garden",
        "kitchn": "kitchen",
    }
    assert look_alike([]) == {}


def test_thousands_of_values_are_compared():
    """Not each with each."""
    values = [f"value {'abcdefghij'[i % 10] * 3}{i}" for i in range(20000)]
    assert look_alike(values) == {}
    assert look_alike([*values, "Value aaa0"]) == {"Value aaa0": "value aaa0"}
