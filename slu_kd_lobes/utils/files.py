"""Files and folders that are whole or not there; CSV and JSON in them."""

import csv
import fcntl
import functools
import io
import itertools
import json
import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

#: Ends the name of a file that a process locks while it writes another one.
LOCK = ".lock"


@contextmanager
def whole(path):
    """Gives another name to write to; at the end it takes the place of `path`.

    A reader sees all of a file or folder, or what was there before. If
    anything fails, `path` is as it was and nothing is left beside it. What a
    process leaves that is killed meanwhile, the next one to write in the same
    folder removes.

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
    remove_leftovers(path.parent.resolve())
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    lock = part.with_name(part.name + LOCK)
    with open(lock, "w") as held:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield part
            if part.is_file():
                with open(part, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            _remove(part)
            lock.unlink(missing_ok=True)


@functools.cache  # once in a process is enough
def remove_leftovers(folder):
    """Removes what processes left that were killed while they wrote.

    Whoever writes holds a lock, which ends with the process, also on another
    machine: what is still being written stays.

    Arguments
    ---------
    folder : Path
    """
    for lock in folder.glob(f".*.part{LOCK}"):
        with suppress(OSError), open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(lock.with_suffix(""))
            lock.unlink()


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def unused_name(path):
    """A name beside one that is taken.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    Path

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "run-2").mkdir()
    >>> unused_name(folder / "run").name
    'run-3'
    """
    path = Path(path)
    names = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    return next(name for name in names if not name.exists())


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

    Raises
    ------
    ValueError
        If a number is NaN or infinite, which JSON does not know.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.json"
    >>> write_json(path, {"n": 1})
    >>> json.loads(path.read_text())
    {'n': 1}
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
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
