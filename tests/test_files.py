"""Files and folders that are whole or not there."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slu_kd_lobes.utils.files import (
    read_csv,
    whole,
    write_csv,
    write_json,
    write_text,
)


class Stop(BaseException):
    """What ends a program at any place, as a signal does."""


def names(folder):
    """What is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_file_appears_at_the_end(tmp_path, kind):
    """With the folders above it; nothing is left beside it."""
    path = tmp_path / "a" / "b" / "weights"
    with whole(kind(path)) as part:
        assert part.parent == path.parent and not part.exists()
        part.write_bytes(b"0123")
        assert not path.exists()
    assert path.read_bytes() == b"0123"
    assert names(path.parent) == ["weights"]


def test_a_folder_appears_at_the_end(tmp_path):
    """With all that is in it."""
    path = tmp_path / "package"
    with whole(path) as part:
        (part / "model").mkdir(parents=True)
        (part / "model" / "a").write_text("1")
        assert not path.exists()
    assert (path / "model" / "a").read_text() == "1"
    assert names(tmp_path) == ["package"]


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stop])
def test_a_failure_leaves_what_was_there(tmp_path, old, error):
    """Whatever fails, and nothing beside it."""
    path = tmp_path / "weights"
    if old is not None:
        path.write_bytes(old)
    before = names(tmp_path)
    with pytest.raises(error), whole(path) as part:
        part.write_bytes(b"half")
        raise error
    assert names(tmp_path) == before
    assert old is None or path.read_bytes() == old


def test_a_failure_in_a_folder_leaves_nothing(tmp_path):
    """However much was in it."""
    with pytest.raises(Stop), whole(tmp_path / "package") as part:
        (part / "model").mkdir(parents=True)
        (part / "model" / "a").write_text("1")
        raise Stop
    assert names(tmp_path) == []


def test_old_content_is_there_until_the_end(tmp_path):
    """A reader sees one or the other."""
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    with whole(path) as part:
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_two_writers_do_not_meet(tmp_path):
    """Each has a name of its own; the last one stays."""
    path = tmp_path / "weights"
    with whole(path) as one, whole(path) as two:
        assert one != two
        one.write_bytes(b"1")
        two.write_bytes(b"2")
    assert path.read_bytes() == b"1"
    assert names(tmp_path) == ["weights"]


def test_a_folder_that_is_there_is_not_overwritten(tmp_path):
    """Nor by a file of its name."""
    path = tmp_path / "package"
    path.mkdir()
    (path / "old").write_text("1")
    with pytest.raises(OSError), whole(path) as part:
        part.mkdir()
        (part / "new").write_text("2")
    with pytest.raises(OSError), whole(path) as part:
        part.write_text("2")
    assert names(tmp_path) == ["package"] and names(path) == ["old"]


def test_nothing_written_is_an_error(tmp_path):
    """The caller forgot it; what was there stays."""
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError), whole(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """After a power cut a file is not there, rather than empty."""
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (done.append("sync"), sync(f)))
    monkeypatch.setattr(
        os, "replace", lambda a, b: (done.append("name"), replace(a, b))
    )
    write_text(tmp_path / "a", "1")
    assert done == ["sync", "name"]


WRITER = """
import sys
from slu_kd_lobes.utils.files import whole
writers = [whole(path) for path in sys.argv[1:]]
for path, writer in zip(sys.argv[1:], writers):
    part = writer.__enter__()
    if path.endswith("package"):
        part.mkdir()
        part = part / "model"
    part.write_bytes(b"half")
    sys.stdout.write("writing\\n")
    sys.stdout.flush()
sys.stdin.read()
"""


def writing(*paths):
    """A process that has begun to write, and does not end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, *map(str, paths)],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    for _ in paths:
        assert process.stdout.readline() == b"writing\n"
    return process


def test_what_a_dead_process_left_is_removed_and_nothing_else(tmp_path):
    """After kill -9, by the next process that writes there."""
    other = tmp_path / ".mine.part"
    other.write_text("a user's own")
    dead = writing(tmp_path / "weights", tmp_path / "package")
    alive = writing(tmp_path / "table")
    assert len(names(tmp_path)) == 1 + 2 * 3  # what is written, and a lock
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    code = "from slu_kd_lobes.utils.files import write_text as write\n"
    code += f"write({str(tmp_path / 'a.txt')!r}, 'a')"
    for process, left in ((alive, 2), (None, 0)):
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[1],
            check=True,
        )
        parts = [name for name in names(tmp_path) if name[0] == "."]
        assert parts.pop(0) == ".mine.part"
        assert len(parts) == left
        assert all(name.startswith(".table.") for name in parts)
        if process:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert names(tmp_path) == [".mine.part", "a.txt"]


def test_text_is_written_as_it_is(tmp_path):
    """UTF-8, with the line ends as given."""
    write_text(tmp_path / "a", "a\r\né\n")
    assert (tmp_path / "a").read_bytes() == "a\r\né\n".encode()


def test_json_can_be_read_by_people_and_programs(tmp_path):
    """Letters of all languages as they are, a line end at the end."""
    content = {"n": 1, "name": "Öl", "errors": [0.5, None]}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert '"Öl"' in text and text.endswith("}\n")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert json.loads(path.read_text()) == {"n": 1}
    assert names(tmp_path) == ["a.json"]


def test_rows_of_csv_survive(tmp_path):
    """Whatever stands in them; a row may lack columns."""
    rows = [
        {"ID": "a", "text": 'odd, "name"', "object": "Öl"},
        {"ID": "b", "text": "two\nlines", "object": ""},
    ]
    write_csv(tmp_path / "a.csv", rows)
    assert read_csv(tmp_path / "a.csv") == rows
    write_csv(tmp_path / "b.csv", [{"ID": "a"}, {"ID": "b", "size": 2}])
    assert read_csv(tmp_path / "b.csv") == [
        {"ID": "a", "size": ""},
        {"ID": "b", "size": "2"},
    ]


def test_csv_of_a_spreadsheet_is_read(tmp_path):
    """Its byte order mark is no part of a name."""
    with open(tmp_path / "a.csv", "w", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["ID", "text"], ["a", "Öl"]])
    assert read_csv(tmp_path / "a.csv") == [{"ID": "a", "text": "Öl"}]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_has_no_number_that_is_none(tmp_path, number):
    """Other programs could not read it; what was there stays."""
    write_json(tmp_path / "a.json", {"n": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"n": [number]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 1}
