"""Files and folders that are whole or not there; CSV and JSON in them."""

import csv
import io
import json
import os
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path):
    """Gives another name to write to; at the end it takes the place of `path`.

    A reader sees all of a file or folder, or what was there before. If
    anything fails, `path` is as it was and nothing is left beside it.

    Arguments
    ---------
    path : str or Path
        The file, or the folder, to write. Its parent is made when missing. A
        folder must not be there yet.

    Yields
    ------
    Path
        In the same parent; nothing is there yet.

    Example
    -------
    >>> path = getfixture("tmp_path") / "weights"
    >>> with whole(path) as part:
    ...     _ = part.write_bytes(b"0123")
    ...     path.exists()
    False
    >>> path.read_bytes()
    b'0123'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        if part.is_file():
            with open(part, "rb") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def write_text(path, text):
    """Writes a text file as UTF-8, whole or not at all.

    Arguments
    ---------
    path : str or Path
        Its folder is made when missing.
    text : str
        Its content, with the line ends as given.

    Example
    -------
    >>> path = getfixture("tmp_path") / "note.txt"
    >>> write_text(path, "turn on the lights")
    >>> path.read_text(encoding="utf-8")
    'turn on the lights'
    """
    with whole(path) as part:
        part.write_bytes(text.encode("utf-8"))


def write_json(path, content):
    """Writes JSON, whole or not at all.

    Arguments
    ---------
    path : str or Path
    content : dict

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.json"
    >>> write_json(path, {"n": 1})
    >>> json.loads(path.read_text())
    {'n': 1}
    """
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


def read_csv(path):
    """Rows of a CSV file with a header.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    list of dict
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path, rows):
    """Writes rows as CSV with a header, whole or not at all.

    Arguments
    ---------
    path : str or Path
    rows : list of dict
        A row may lack columns of others.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.csv"
    >>> write_csv(path, [{"path": "a.wav"}, {"path": "b.wav", "size": "1"}])
    >>> path.read_text()
    'path,size\\na.wav,\\nb.wav,1\\n'
    >>> read_csv(path)[1]
    {'path': 'b.wav', 'size': '1'}
    """
    names = dict.fromkeys(key for row in rows for key in row)
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, out.getvalue())


def check_writable(folder, megabytes=0):
    """Refuses a folder that cannot take the results, before any work.

    Arguments
    ---------
    folder : str or Path
        Made if missing.
    megabytes : float
        Room that will be needed.

    Raises
    ------
    OSError
        If the folder cannot be written to or its disk is too full.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> check_writable(folder, megabytes=1)
    >>> check_writable(folder, megabytes=1e12)
    Traceback (most recent call last):
    ...
    OSError: the disk of ... has ... MB left and about 1000000000000 MB are \
needed: free some room or choose another folder
    """
    folder = Path(folder)
    probe = folder / f".probe.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"the folder {folder} cannot be written to "
            f"({error.strerror or error}): choose another one"
        ) from error
    free = shutil.disk_usage(folder).free / 2**20
    if free < megabytes:
        raise OSError(
            f"the disk of {folder} has {free:.0f} MB left and about "
            f"{megabytes:.0f} MB are needed: free some room or choose another "
            "folder"
        )
