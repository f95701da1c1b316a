"""Manifests: what a corpus holds, in files that every recipe reads alike.

A recipe's ``prepare.py`` knows the layout of its corpus and writes manifests;
what comes after knows manifests alone. Their folder holds one file a split and,
written last, a stamp with the hash of each.
"""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.utils.files import read_csv, whole, write_json
from slu_kd_lobes.utils.fingerprints import file_fingerprint, fingerprint

STAMP = "prepare.json"

#: Columns of a manifest of commands; the others are slots.
COLUMNS = ("ID", "duration", "wav", "spk_id", "transcription")

TEST_NAME = re.compile(r"(?!\.)(?:.*_)?test(?:_.*)?")

#: Of several test sets the first of these is the one that a result table leads
#: with: the corpus' own, then known wordings by new voices.
MAIN_TESTS = ("test", "spk_test", "speaker_test")


@dataclass(frozen=True)
class Manifests:
    """The manifests of a corpus of commands.

    Arguments
    ---------
    folder : Path
        What `write_manifests` wrote: ``<split>.csv`` with the columns ID,
        duration (seconds), wav (below ``$data_root``), spk_id, transcription
        and one a slot; ``text.csv``, every different transcript of the whole
        training set, whatever part of it is drawn; ``slots.json``.
    data_folder : Path
        What stands for ``$data_root``.

    Raises
    ------
    FileNotFoundError
        If the folder is not prepared, or a file of it is gone.
    """

    folder: Path
    data_folder: Path

    def __post_init__(self):
        stamp = read_stamp(self.folder)
        gone = [n for n in stamp["files"] if not (self.folder / n).is_file()]
        if gone or not stamp["facts"].get("tests"):
            reason = f"{gone[0]} is missing" if gone else "none was prepared"
            raise FileNotFoundError(
                f"The manifests in {self.folder} cannot be used because "
                f"{reason}: run the preparation (skip_prep: False) first."
            )

    @cached_property
    def stamp(self):
        """What `write_manifests` noted."""
        return read_stamp(self.folder)

    @property
    def tests(self):
        """Names of the test sets, the main one first."""
        return self.stamp["facts"]["tests"]

    @property
    def main_test(self):
        """The test set that a result table leads with."""
        return self.tests[0]

    @property
    def splits(self):
        """Path of each split: ``train``, ``valid`` and the test sets."""
        names = ["train", "valid", *self.tests]
        return {name: self.folder / f"{name}.csv" for name in names}

    @cached_property
    def schema(self):
        """The slots and their values."""
        return SlotSchema.load(self.folder / "slots.json")

    def fingerprint(self, *splits):
        """Hash of the content of some splits; of all files for none.

        Arguments
        ---------
        *splits : str

        Returns
        -------
        str
        """
        files = self.stamp["files"]
        names = [f"{split}.csv" for split in splits] or sorted(files)
        return fingerprint([files[name] for name in names])

    def read(self, split):
        """Rows of a split, with paths that can be opened.

        Arguments
        ---------
        split : str

        Returns
        -------
        list of dict
            Text by column; ``duration`` is a float.
        """
        rows = read_csv(self.splits[split])
        for row in rows:
            row["wav"] = row["wav"].replace("$data_root", str(self.data_folder))
            row["duration"] = float(row["duration"])
        return rows

    def transcripts(self, split="text"):
        """Different transcripts of a split with their targets.

        Arguments
        ---------
        split : str
            ``text`` is that of the whole training set.

        Returns
        -------
        dict
            Targets by normalised transcript, in the order of the transcripts;
            one that means several things counts as its first row says. Empty
            for a split without transcripts.
        """
        targets = {}
        for row in read_csv(self.folder / f"{split}.csv"):
            text = normalise_transcript(row["transcription"])
            targets.setdefault(text, self.schema.encode(row))
        targets.pop("", None)
        return dict(sorted(targets.items()))

    def typed_wordings(self, typed):
        """What somebody typed of the commands that are asked for.

        Arguments
        ---------
        typed : str
            ``train``: the transcripts of training; ``all``: those of all
            splits, so that the wordings of the test sets are typed and perhaps
            never spoken.

        Returns
        -------
        dict
            Targets by transcript; see `transcripts`.

        Raises
        ------
        ValueError
            If `typed` is neither.
        """
        if typed not in ("train", "all"):
            raise ValueError(f"typed is '{typed}': choose train or all")
        wordings = {}
        for split in self.splits if typed == "all" else ["train"]:
            wordings = self.transcripts(split) | wordings
        return dict(sorted(wordings.items()))

    def check_transcripts(self, reader, *splits):
        """Refuses a corpus without the text that something reads.

        Arguments
        ---------
        reader : str
            What reads it, for the message.
        *splits : str

        Raises
        ------
        ValueError
            If a split has no transcripts.
        """
        silent = [split for split in splits if not self.transcripts(split)]
        if silent:
            raise ValueError(
                f"The {reader} reads transcripts, and {', '.join(silent)} has "
                "none: fill the column 'transcription', or train without text "
                "(--teachers=[] --matching_weight=0)."
            )


def main_test_first(splits):
    """Names of the test sets of a corpus.

    Arguments
    ---------
    splits : iterable of str
        Names of all splits.

    Returns
    -------
    list of str
        The main one first: test, else spk_test or speaker_test, else the
        first by name.

    Example
    -------
    >>> main_test_first(["both_test", "spk_test", "train", "valid"])
    ['spk_test', 'both_test']
    """
    names = sorted(filter(TEST_NAME.fullmatch, splits))
    main = next((name for name in MAIN_TESTS if name in names), None)
    return sorted(names, key=lambda name: name != main)


def read_stamp(folder):
    """What is noted of prepared files; a damaged stamp counts as none.

    Arguments
    ---------
    folder : str or Path

    Returns
    -------
    dict
        ``made_from``, the hash of what they were made from; ``files``, the
        hash of each; ``facts``, what else is known.
    """
    try:
        stamp = json.loads((Path(folder) / STAMP).read_text("utf-8"))
        return {key: stamp[key] for key in ("made_from", "files", "facts")}
    except (OSError, ValueError, TypeError, KeyError):
        return {"made_from": None, "files": {}, "facts": {}}


def are_prepared(folder, made_from):
    """Whether prepared files are those wanted, and as they were written.

    Arguments
    ---------
    folder : str or Path
    made_from : str
        Hash of all that shapes them.

    Returns
    -------
    bool
    """
    stamp = read_stamp(folder)
    return stamp["made_from"] == made_from and all(
        (Path(folder) / name).is_file()
        and file_fingerprint(Path(folder) / name) == digest
        for name, digest in stamp["files"].items()
    )


def write_manifests(folder, files, made_from, **facts):
    """Writes files, and last the stamp that vouches for them.

    Arguments
    ---------
    folder : str or Path
    files : dict
        By name, a text or its parts in their order.
    made_from : str
        Hash of all that shapes them.
    **facts
        What else the stamp shall tell.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_manifests(folder, {"train.csv": "ID\\n"}, "5f", tests=["test"])
    >>> are_prepared(folder, "5f"), are_prepared(folder, "a0")
    (True, False)
    """
    folder = Path(folder)
    for name in set(read_stamp(folder)["files"]) - set(files):
        (folder / name).unlink(missing_ok=True)
    digests = {}
    for name, text in files.items():
        with whole(folder / name) as part:
            with open(part, "w", encoding="utf-8", newline="") as file:
                file.writelines([text] if isinstance(text, str) else text)
            digests[name] = file_fingerprint(part)
    stamp = {"made_from": made_from, "files": digests, "facts": facts}
    write_json(folder / STAMP, stamp)


def as_json(content):
    """JSON for a person's eye.

    Arguments
    ---------
    content : dict

    Returns
    -------
    str
    """
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def utterance_id(stem):
    """A name from an audio path alone: the same in every split and release.

    Arguments
    ---------
    stem : str
        Path below the data folder, without its suffix.

    Returns
    -------
    str
        Letters, digits, dots, "_" and "-": fit for a key or a file name.

    Example
    -------
    >>> utterance_id("wavs/speakers/anna/take-1")
    'wavs--speakers--anna--take-1'
    """
    key = re.sub(r"[^A-Za-z0-9._-]", "_", stem.replace("/", "--"))
    if key.replace("--", "/") != stem:
        # Other paths could give this key as well.
        key += "-" + fingerprint(stem.encode())[:12]
    return key


def one_sentence(faults, remedy, shown=1):
    """One sentence: the first faults, how many follow, what to do.

    Arguments
    ---------
    faults : list of str
    remedy : str
    shown : int
        How many faults it names.

    Returns
    -------
    str

    Example
    -------
    >>> one_sentence(["row 2 is empty", "row 7 is empty"], "remove the rows")
    'row 2 is empty (and 1 more): remove the rows.'
    """
    rest = len(faults) - shown
    more = f" (and {rest} more)" if rest > 0 else ""
    return f"{'; '.join(faults[:shown])}{more}: {remedy}."


def raise_if_any(faults, remedy, error=ValueError):
    """Raises `one_sentence`, if there is a fault.

    Arguments
    ---------
    faults : list of str
    remedy : str
    error : type

    Example
    -------
    >>> raise_if_any(["row 2 is empty", "row 7 is empty"], "remove the rows")
    Traceback (most recent call last):
    ...
    ValueError: row 2 is empty (and 1 more): remove the rows.
    """
    if faults:
        raise error(one_sentence(faults, remedy))
