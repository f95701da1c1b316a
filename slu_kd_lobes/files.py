"""Files that are never half-written, and folders that can take them."""

import csv
import io
import json
import os
import shutil
import uuid
from pathlib import Path


def write_bytes_atomically(path, content):
    """Writes a file so that a reader sees all of it or none of it.

    The content goes to a temporary file in the same folder, which then
    replaces `path` in one step. If anything fails, `path` is as it was and
    the temporary file is gone.

    Arguments
    ---------
    path : str or Path
        The file to write. Its folder is created when missing.
    content : bytes
        What it shall hold.

    Example
    -------
    >>> path = getfixture("tmp_path") / "weights"
    >>> write_bytes_atomically(path, b"0123")
    >>> path.read_bytes()
    b'0123'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_atomically(path, text):
    """Writes a text file as UTF-8; see :func:`write_bytes_atomically`.

    Arguments
    ---------
    path : str or Path
        The file to write. Its folder is created when missing.
    text : str
        Its content, with the line ends as given.

    Example
    -------
    >>> path = getfixture("tmp_path") / "note.txt"
    >>> write_text_atomically(path, "turn on the lights")
    >>> path.read_text(encoding="utf-8")
    'turn on the lights'
    """
    write_bytes_atomically(path, text.encode("utf-8"))


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
    >>> import tempfile
    >>> check_writable(tempfile.mkdtemp(), megabytes=1)
    >>> check_writable(tempfile.mkdtemp(), megabytes=1e12)
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


def write_json(path, content):
    """Writes JSON, whole or not at all.

    Arguments
    ---------
    path : str or Path
    content : dict

    Example
    -------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/a.json"
    >>> write_json(path, {"n": 1})
    >>> json.loads(Path(path).read_text())
    {'n': 1}
    """
    write_text_atomically(path, json.dumps(content, indent=2) + "\n")


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
    write_text_atomically(path, out.getvalue())
