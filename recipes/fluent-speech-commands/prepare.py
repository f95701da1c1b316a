"""Preparation of Fluent Speech Commands, and of any corpus of its layout.

The corpus' CSV files become SpeechBrain manifests and a slot schema. All that
can be wrong with the files is found here, before anything is written, so that
training never meets it.

Corpus: Lugosch et al. (2019), "Speech model pre-training for end-to-end spoken
language understanding". The unseen and challenge splits of the same audio:
Arora et al. (2021), "Rethinking end-to-end evaluation of decomposable tasks".

Authors
 * slu_kd_lobes authors
"""

import csv
import hashlib
import json
import os
import re
import stat
import sys
from collections import Counter, namedtuple
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from slu_kd_lobes.data.audio import read_header
from slu_kd_lobes.data.labels import look_alike
from slu_kd_lobes.data.manifests import (
    COLUMNS,
    MAIN_TESTS,
    Manifests,
    are_prepared,
    as_json,
    main_test_first,
    one_sentence,
    raise_if_any,
    utterance_id,
    write_manifests,
)
from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.utils.fingerprints import file_fingerprint, fingerprint

logger = get_logger(__name__)

# Counts up when the same input gives other manifests.
VERSION = 3

# Columns of the corpus' CSV files that are not slots.
PATH, SPEAKER, TRANSCRIPT = "path", "speakerId", "transcription"

# "id" is SpeechBrain's own.
RESERVED = (*COLUMNS, "id")

# Test sets whose names promise voices that training has not heard.
NEW_VOICE_TESTS = (*MAIN_TESTS, "both_test")

# Reading a header is mostly waiting for the disk.
WORKERS = 8

# Returns a row as a line; what writes it returns it.
_csv_line = csv.writer(SimpleNamespace(write=str), lineterminator="\n").writerow

# One utterance: where it stands (CSV file and row, the header being row 1),
# its key, and what the row says. `slots` maps slot names to values.
Utterance = namedtuple("Utterance", "csv row id path speaker transcript slots")


def prepare_fsc(
    data_folder,
    save_folder,
    slots,
    csv_folder=None,
    test_splits=None,
    slot_values=None,
    train_fraction=1.0,
    subset_seed=0,
    sample_rate=16000,
    skip_prep=False,
    shared_speakers=False,
    joint_intents=False,
):
    """Writes SpeechBrain manifests and the slot schema of a corpus.

    What is written: see :class:`slu_kd_lobes.data.manifests.Manifests`; the
    rows are in the order of the IDs. Called again with nothing changed, it
    returns without work; when a CSV file, an audio file or a manifest has
    changed, it prepares again. Other arguments have another folder.

    Arguments
    ---------
    data_folder : str
        The corpus. Paths in its CSV files are relative to this folder, or
        lead into it.
    save_folder : str
        Where the manifests of all corpora live, each in a folder named after
        a hash of the arguments.
    slots : list of str
        The columns that are slots, in the order of the student's logits.
    csv_folder : str
        Where {train,valid}_data.csv and the test sets *test_data.csv are.
        Default: `<data_folder>/data`.
    test_splits : list of str
        The test sets to prepare, the main one first, for example
        ["spk_test", "utt_test"]. Default: all that are there; the main one is
        test, else spk_test or speaker_test, else the first by name.
    slot_values : dict
        Maps slots to their ordered values. Default, for each slot: the sorted
        values of all CSV files of `csv_folder`, whatever the subset, so that
        every run of a corpus numbers its labels alike.
    train_fraction : float
        Above 0, at most 1: the share of training utterances to draw, uniformly
        without replacement (Cho et al. 2020, table 2: 0.1 and 0.01).
    subset_seed : int
        Seeds the draw, and only the draw: each seed gives the same utterances
        in every configuration.
    sample_rate : int
        In Hz, the rate of the reading pipeline. Other rates, and stereo, are
        reported and left to that pipeline.
    skip_prep : bool
        Whether to use the manifests that are there without a look at the data.
    shared_speakers : bool
        Whether a speaker may be in training and in a test set of new voices,
        or of the corpus' own split (as in random splits). Then only a warning
        is given.
    joint_intents : bool
        Whether all slots are one, `intent`, which has a value for each of
        their combinations in the CSV files, such as "bring | shoes | none".

    Returns
    -------
    Manifests

    Raises
    ------
    FileNotFoundError
        If the folder, a CSV file or an audio file is missing.
    ValueError
        If an argument, a CSV file or an audio file cannot be used. Nothing has
        been written then.

    Example
    -------
    >>> from speechbrain.dataio import audio_io
    >>> corpus = getfixture("tmp_path")
    >>> (corpus / "data").mkdir()
    >>> for split in ("train", "valid", "test"):
    ...     audio_io.save(corpus / f"{split}.wav", np.zeros(8000), 16000)
    ...     _ = (corpus / "data" / f"{split}_data.csv").write_text(
    ...         ",path,speakerId,transcription,action\\n"
    ...         f"0,{split}.wav,{split} voice,Lights on,activate\\n"
    ...     )
    >>> manifests = prepare_fsc(corpus, corpus / "save", slots=["action"])
    >>> manifests.main_test
    'test'
    >>> print(manifests.splits["train"].read_text().strip())
    ID,duration,wav,spk_id,transcription,action
    train,0.5,$data_root/train.wav,train voice,Lights on,activate
    """
    slots, slot_values = _checked_slots(slots, slot_values)
    if joint_intents and slot_values:
        raise ValueError(
            "slot_values are of slots, and joint_intents joins them: leave one "
            "of the two out."
        )
    _check_draw(train_fraction, subset_seed)
    data_folder = Path(data_folder)
    csv_folder = Path(csv_folder) if csv_folder else data_folder / "data"
    tests = None if test_splits is None else _as_list(test_splits)
    arguments = [
        [str(data_folder.resolve()), str(csv_folder.resolve()), slots, tests],
        [slot_values, float(train_fraction), subset_seed],
        [sample_rate, shared_speakers],
    ]
    if joint_intents:
        arguments.append("joint intents")
    folder = Path(save_folder) / fingerprint(arguments)[:12]
    if skip_prep:
        return Manifests(folder, data_folder)
    splits, tests = _read_corpus(data_folder, csv_folder, tests, slots)
    if joint_intents:
        slots, splits = ["intent"], _with_joint_intents(splits)
    prepared = ["train", "valid", *tests]
    sources = _stat_audio(data_folder, splits, prepared)
    # Everything that shapes the manifests, or that a check has looked at.
    tables = {
        split: file_fingerprint(_csv_path(csv_folder, split))
        for split in splits
    }
    made_from = fingerprint([VERSION, arguments, tables, sources])
    if are_prepared(folder, made_from):
        logger.info(f"Nothing has changed: {folder} is used as it is.")
        return Manifests(folder, data_folder)

    schema = _slot_schema(splits, slots, slot_values)
    _check_unique(splits, tests)
    _check_speakers(splits, tests, shared_speakers)
    audio = _read_headers(data_folder, splits, prepared)
    _report_conversions(audio, sample_rate)
    _report_values(splits, slots)
    _report_contradictions(splits)

    splits = {split: _by_id(splits[split]) for split in prepared}
    files = {"text.csv": _text(splits["train"], slots)}
    if train_fraction < 1:
        splits["train"] = _draw(splits["train"], train_fraction, subset_seed)
        files["subset.json"] = _subset_json(
            splits["train"], train_fraction, subset_seed
        )
    for split in prepared:
        _report_split(split, splits[split], audio)
        files[f"{split}.csv"] = _manifest(splits[split], audio, slots)
    _report_unheard_values(splits["train"], schema)
    files["slots.json"] = as_json(schema.to_dict())
    write_manifests(folder, files, made_from, tests=tests)
    return Manifests(folder, data_folder)


# Arguments


def _as_list(names):
    """Returns a list of names; a lone name (from a command line) is one."""
    return [names] if isinstance(names, str) else list(names)


def _checked_slots(slots, slot_values):
    """Returns the slot names and the given values, or says what is wrong."""
    slots, slot_values = _as_list(slots), dict(slot_values or {})
    if not slots or len(set(slots)) < len(slots):
        raise ValueError(
            f"slots must name at least one column, and each once, not {slots}."
        )
    for name in slots:
        if name in RESERVED or name in (PATH, SPEAKER):
            raise ValueError(
                f"'{name}' cannot be a slot because a manifest uses the name "
                "for something else: rename the column."
            )
    unknown = [name for name in slot_values if name not in slots]
    if unknown:
        raise ValueError(
            f"slot_values has values for '{unknown[0]}', which is not one of "
            f"the slots {slots}: correct the name or add the slot."
        )
    return slots, slot_values


def _check_draw(train_fraction, subset_seed):
    """Raises unless the fraction and the seed of a subset can be used."""
    is_number = isinstance(train_fraction, (int, float))
    if not is_number or not 0 < train_fraction <= 1:
        raise ValueError(
            "train_fraction must be above 0 and at most 1 (0.1 is 10 %), not "
            f"{train_fraction!r}."
        )
    if not isinstance(subset_seed, int) or subset_seed < 0:
        raise ValueError(
            "subset_seed must be a whole number from 0 up, not "
            f"{subset_seed!r}."
        )


# CSV files


def _read_corpus(data_folder, folder, tests, slots):
    """Reads all CSV files, also of test sets that are not wanted.

    Returns {split: list of Utterance} and the wanted test sets in order.
    """
    if not data_folder.is_dir():
        raise FileNotFoundError(
            f"The data folder {data_folder} does not exist: unpack the corpus "
            "there, or correct data_folder."
        )
    found = _find_tests(folder)
    tests = found if tests is None else tests
    for name in tests:  # files are named after it
        if Path(str(name)).name != str(name):
            raise ValueError(
                f"test_splits: '{name}' is no name of a test set: give what "
                "stands before _data.csv in the name of its file."
            )
    names = list(dict.fromkeys(["train", "valid", *tests, *found]))
    missing = [
        f"The CSV file {path} does not exist"
        for path in (_csv_path(folder, name) for name in names)
        if not path.is_file()
    ]
    present = sorted(path.name for path in folder.glob("*.csv"))
    raise_if_any(
        missing,
        f"correct data_folder or csv_folder ({folder} holds {present})",
        FileNotFoundError,
    )
    if not tests:
        raise FileNotFoundError(
            f"There is no test set in {folder}: it needs a file such as "
            f"test_data.csv, and holds {present}."
        )
    if len({"train", "valid", *tests}) < len(tests) + 2:
        raise ValueError(
            "test_splits must name each test set once, and neither train nor "
            f"valid, not {tests}."
        )
    splits = {
        name: _read_split(_csv_path(folder, name), slots, data_folder)
        for name in names
    }
    silent = [name for name in names if not splits[name][0].transcript]
    if silent:
        logger.warning(
            f"There are no transcripts (column '{TRANSCRIPT}') in "
            f"{', '.join(silent)}: what reads text, such as a teacher, cannot "
            "be used."
        )
    return splits, tests


def _csv_path(folder, split):
    return folder / f"{split}_data.csv"


def _find_tests(folder):
    """Returns the names of a folder's test sets, the main one first."""
    paths = folder.glob("*_data.csv")
    return main_test_first(
        path.name.removesuffix("_data.csv") for path in paths
    )


def _read_split(path, slots, data_folder):
    """Reads one CSV file into a list of Utterance, in the file's order.

    Equal texts are one object, so that a row costs little memory.
    """
    rows = _read_table(path)
    header = [name.strip() for name in next(rows)[1]]
    needed = [PATH, SPEAKER, *slots]
    for name in (*needed, TRANSCRIPT):
        if header.count(name) != 1 and name in (*needed, *header):
            fault = "twice" if name in header else "not"
            raise ValueError(
                f"{path} has the column '{name}' {fault}: it needs {needed} "
                f"once each and has {header}."
            )
    columns = {
        name: header.index(name)
        for name in (*needed, TRANSCRIPT)
        if name in header
    }
    utterances, faults, meanings = [], [], {}
    for row, cells in rows:
        if len(cells) != len(header):
            faults.append(
                f"{path}, row {row} has {len(cells)} cells and its header "
                f"{len(header)}"
            )
            continue
        cells = {name: cells[index].strip() for name, index in columns.items()}
        transcript = cells.pop(TRANSCRIPT, "")
        fault = _fault(cells, transcript, slots)
        audio = None if fault else _path_below(data_folder, cells[PATH])
        if not fault and audio is None:
            fault = f"the path {cells[PATH]!r} leads out of data_folder"
        if fault:
            faults.append(f"{path}, row {row}: {fault}")
            continue
        values = tuple(cells[name] for name in slots)
        utterances.append(
            Utterance(
                path,
                row,
                utterance_id(os.path.splitext(audio)[0]),
                audio,
                sys.intern(cells[SPEAKER]),
                sys.intern(_transcript(transcript)),
                meanings.setdefault(values, dict(zip(slots, values))),
            )
        )
    silent = [row for row in utterances if not row.transcript]
    if len(silent) < len(utterances):
        faults += [
            f"{_place(row)}: the column '{TRANSCRIPT}' is empty"
            for row in silent
        ]
    raise_if_any(
        faults, "correct the row (text with a comma needs quotes), or remove it"
    )
    return utterances


def _read_table(path):
    """Yields the rows of a CSV file, the header first, as (number, cells).

    Rows are counted as a spreadsheet shows them; blank ones are left out.
    """
    count = 0
    # Spreadsheets write a byte order mark.
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for row, cells in enumerate(reader, 1):
                if cells:
                    count += 1
                    yield row, cells
        except UnicodeDecodeError as error:
            text = path.read_bytes().decode("utf-8", "surrogateescape")
            good = re.split("[\udc80-\udcff]", text, maxsplit=1)[0]
            row = good.count("\n") + 1
            raise ValueError(
                f"{path}, row {row} is not UTF-8 text: save the file as UTF-8."
            ) from error
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {reader.line_num} is not CSV ({error}): correct "
                "its quotes."
            ) from error
    if count < 2:
        raise ValueError(
            f"{path} holds no utterances: it needs a header and at least one "
            "row."
        )


def _path_below(folder, path):
    """Returns a path relative to a folder, or None if it leads out of it."""
    if os.path.isabs(path):
        # Either may be written by way of a link.
        forms = (os.path.abspath, os.path.realpath)
        paths = (os.path.relpath(form(path), form(folder)) for form in forms)
    else:
        paths = [os.path.normpath(path)]
    paths = (path.replace(os.sep, "/") for path in paths)
    return next((p for p in paths if p.split("/")[0] != os.pardir), None)


def _fault(cells, transcript, slots):
    """Says what is wrong with a row's cells, or returns None."""
    for name, cell in cells.items():
        if not cell:
            what = "slot" if name in slots else "column"
            return f"the {what} '{name}' is empty"
        if "\0" in cell:
            return f"the column '{name}' has a zero byte: {cell!r}"
        # SpeechBrain replaces $name in every cell of a manifest. Only a
        # transcription can be written otherwise.
        if "$" in cell and re.search(r"\$[\w.]", cell):
            return f"the column '{name}' has a $ sign before a name: {cell!r}"
    if transcript and not any(map(str.isalnum, transcript)):
        return f"the transcription {transcript!r} holds no word"
    return None


def _transcript(text):
    """Writes a transcript on one line, without SpeechBrain's $name.

    The full-width sign is the same character under NFKC.
    """
    return re.sub(r"\$(?=[\w.])", "\uff04", " ".join(text.split()))


def _place(utterance):
    """Says where an utterance stands."""
    return f"{utterance.csv}, row {utterance.row}"


def _by_id(utterances):
    """Sorts utterances so that no row order of a CSV file can matter."""
    return sorted(utterances, key=lambda utterance: utterance.id)


# Checks of content


def _with_joint_intents(splits):
    """Utterances whose one slot has the values of all in their order."""
    faults = [
        f"{_place(utterance)}: the slot '{name}' has a | in its value '{value}'"
        for utterance in chain(*splits.values())
        for name, value in utterance.slots.items()
        if "|" in value
    ]
    raise_if_any(
        faults,
        "write another sign, which joint_intents does not put between values",
    )
    meanings = {}  # one for all utterances that mean the same

    def joined(utterance):
        text = " | ".join(utterance.slots.values())
        meaning = meanings.setdefault(text, {"intent": text})
        return utterance._replace(slots=meaning)

    return {split: list(map(joined, rows)) for split, rows in splits.items()}


def _slot_schema(splits, slots, slot_values):
    """Builds the schema and checks every row against it."""
    rows = [utterance.slots for utterance in chain(*splits.values())]
    found = SlotSchema.from_rows(rows, slots).values
    schema = SlotSchema({**found, **slot_values})
    known = {name: set(values) for name, values in schema.values.items()}
    faults = [
        f"{_place(utterance)}: the slot '{name}' has the value '{value}', "
        f"which is not one of {schema.values[name]}"
        for utterance in chain(*splits.values())
        for name, value in utterance.slots.items()
        if value not in known[name]
    ]
    raise_if_any(faults, "correct the row, or add the value to slot_values")
    return schema


def _check_unique(splits, tests):
    """Raises if one audio file stands twice in a split, or is also tested.

    Two test sets may share utterances: each is scored by itself.
    """
    learnt, faults = {}, []
    for split in ("train", "valid", *tests):
        seen = learnt if split in ("train", "valid") else {}
        for utterance in splits[split]:
            first = learnt.get(utterance.id) or utterance
            first = seen.setdefault(utterance.id, first)
            if first is not utterance:
                faults.append(
                    f"{_place(utterance)}: the audio {utterance.path} has the "
                    f"ID {utterance.id} of {first.path} in {first.csv.name}, "
                    f"row {first.row}"
                )
    raise_if_any(faults, "keep one of the rows, or rename one of two files")


def _check_speakers(splits, tests, shared_speakers):
    """Raises, or warns, if a speaker is in training and in a later split.

    The corpus' own split, and test sets of new voices, promise unheard
    voices. Test sets of new wordings are spoken by known voices, and the
    published unseen and challenge splits validate on voices of training.
    """
    pairs = [("train", "valid", "test" in tests)]
    for test in tests:
        promised = test in NEW_VOICE_TESTS
        pairs += [("train", test, promised), ("valid", test, promised)]
    for learnt, later, is_error in pairs:
        known, heard = _speakers(splits[learnt]), _speakers(splits[later])
        shared = [speaker for speaker in heard if speaker in known]
        if is_error and not shared_speakers:
            faults = [
                f"{_place(heard[speaker])}: the speaker '{speaker}' is also in "
                f"{known[speaker].csv.name}, row {known[speaker].row}"
                for speaker in shared
            ]
            raise_if_any(
                faults,
                "separate the speakers of the splits, or add "
                "--shared_speakers=True if they are meant to be shared",
            )
        if shared:
            so = ", so that its error says little of new voices" * is_error
            logger.warning(
                f"{len(shared)} speakers of {later} are also in {learnt}{so}."
            )


def _speakers(utterances):
    """Maps each speaker to their first utterance, in the file's order."""
    first = {}
    for utterance in utterances:
        first.setdefault(utterance.speaker, utterance)
    return first


# Audio files


def _prepared_paths(splits, prepared):
    """Returns the utterance of each audio file of the prepared splits."""
    rows = chain(*(splits[split] for split in prepared))
    return {utterance.path: utterance for utterance in rows}


def _in_threads(function, items, description=None):
    """Maps a function over items in threads; yields the results in order."""
    with ThreadPool(WORKERS) as pool:
        yield from tqdm(
            pool.imap(function, items, chunksize=32),
            desc=description,
            total=len(items),
            unit="file",
            mininterval=1,
            disable=description is None,
        )


def _stat_audio(data_folder, splits, prepared):
    """Returns a hash of the path, size and time of change of all audio files.

    Raises if one is missing.
    """

    def stat_file(path):
        try:
            status = os.stat(os.path.join(data_folder, path))
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return [path, status.st_size, status.st_mtime_ns]

    utterances = _prepared_paths(splits, prepared)
    faults, digest = [], hashlib.sha256()
    sources = _in_threads(stat_file, utterances)
    for (path, utterance), found in zip(utterances.items(), sources):
        digest.update(json.dumps(found).encode())
        if found is None:
            place = _place(utterance)
            faults.append(f"{place}: the audio {path} does not exist")
    raise_if_any(
        faults,
        "unpack the corpus again, or correct data_folder or the path",
        FileNotFoundError,
    )
    return digest.hexdigest()


def _read_headers(data_folder, splits, prepared):
    """Returns {path: Header} of the prepared splits."""
    utterances = _prepared_paths(splits, prepared)
    headers = _in_threads(
        lambda path: _read_header(os.path.join(data_folder, path)),
        utterances,
        "Audio headers",
    )
    audio, faults = {}, []
    for (path, utterance), header in zip(utterances.items(), headers):
        audio[path] = header
        if isinstance(header, str):
            faults.append(f"{_place(utterance)}: the audio {path} {header}")
    raise_if_any(
        faults, "replace the file by an intact copy, or remove the row"
    )
    return audio


def _read_header(path):
    """Returns the header of a file, or a fault that ends a sentence."""
    try:
        return read_header(path)
    except ValueError as fault:
        return str(fault)


# Reports


def _report_conversions(audio, sample_rate):
    """Says how many files the reading pipeline has to convert."""
    resampled = sum(a.sample_rate != sample_rate for a in audio.values())
    mixed = sum(a.channels > 1 for a in audio.values())
    if resampled or mixed:
        logger.warning(
            f"Of {len(audio)} audio files, {resampled} are not at "
            f"{sample_rate} Hz and {mixed} are not mono: they will be "
            f"resampled and mixed to {sample_rate} Hz mono when read."
        )


def _report_split(split, utterances, audio):
    """Says what a split holds."""
    hours = sum(audio[row.path].duration for row in utterances) / 3600
    speakers = len({row.speaker for row in utterances})
    texts = {row.transcript for row in utterances} - {""}
    wordings = len(set(map(normalise_transcript, texts)))
    logger.info(
        f"{split}: {len(utterances)} utterances, {hours:.2f} h, {speakers} "
        f"speakers, {wordings} wordings."
    )


def _report_unheard_values(train, schema):
    """Warns of slot values without a training example.

    About one in nine 1 % draws of Fluent Speech Commands lacks a value; the
    student keeps its logit.
    """
    for name, values in schema.values.items():
        heard = {utterance.slots[name] for utterance in train}
        unheard = [value for value in values if value not in heard]
        if unheard:
            logger.warning(
                f"The training set has no example of {unheard} in the slot "
                f"'{name}'."
            )


def _report_values(splits, slots):
    """Warns of slot values that may be slips of the hand.

    They are taken from the whole training set, whatever part of it is drawn.
    """
    alike, alone = [], []
    for name in slots:
        first, counts = {}, Counter()
        for utterance in chain(*splits.values()):
            first.setdefault(utterance.slots[name], utterance)
            counts[utterance.slots[name]] += 1
        trained = Counter(row.slots[name] for row in splits["train"])
        known = look_alike(sorted(counts, key=lambda v: (-counts[v], v)))
        for value, utterance in first.items():
            where = f"{_place(utterance)}: the slot '{name}' has the value"
            if value in known:
                other = known[value]
                alike.append(
                    f"{where} {_shown(value)}, which looks like "
                    f"{_shown(other)} of {_place(first[other])}"
                )
            elif trained[value] == 1:
                alone.append(
                    f"{where} {_shown(value)}, as no other training row has"
                )
    for doubts in (alike, alone):
        if doubts:
            remedy = "correct it if it is a slip, for it is learnt as it stands"
            logger.warning(one_sentence(doubts, remedy, shown=3))


def _shown(value):
    """Writes a value so that it can be told from all others."""
    return repr(value) + ("" if value.isascii() else f" ({ascii(value)})")


def _report_contradictions(splits):
    """Warns of transcripts that do not always have the same labels."""
    first, doubts = {}, {}
    for utterance in chain(*splits.values()):
        text = normalise_transcript(utterance.transcript)
        other = first.setdefault(text, utterance)
        if text and utterance.slots != other.slots:
            name = next(
                n for n in other.slots if other.slots[n] != utterance.slots[n]
            )
            doubts[text] = (
                f"{_place(utterance)}: '{text}' has the {name} "
                f"'{utterance.slots[name]}', and '{other.slots[name]}' in "
                f"{_place(other)}"
            )
    if doubts:
        remedy = "correct the labels: a text teacher learns those of one row"
        logger.warning(
            f"Transcripts whose rows have different labels: {len(doubts)}; "
            + one_sentence(list(doubts.values())[:1], remedy)
        )


# Files written


def _draw(utterances, fraction, seed):
    """Draws `round(fraction * n)` utterances without replacement.

    Both lists are in the order of the IDs, so that the draw depends on nothing
    but the IDs, the fraction and the seed.
    """
    size = round(fraction * len(utterances))
    if size == 0:
        raise ValueError(
            f"train_fraction {fraction} of {len(utterances)} utterances is "
            "none: raise it."
        )
    drawn = np.random.default_rng(seed).choice(
        len(utterances), size=size, replace=False
    )
    return [utterances[index] for index in sorted(drawn)]


def _subset_json(drawn, fraction, seed):
    """Records a draw."""
    ids = [utterance.id for utterance in drawn]
    return as_json(
        {"fraction": fraction, "seed": seed, "n": len(ids), "ids": ids}
    )


def _text(utterances, slots):
    """Writes the different transcripts, each with its first row's slots."""
    rows = {}
    for utterance in utterances:
        text = normalise_transcript(utterance.transcript)
        rows.setdefault(text, utterance)
    rows.pop("", None)  # a corpus without transcripts
    yield _csv_line(["transcription", *slots])
    for key, utterance in sorted(rows.items()):
        yield _csv_line([key, *(utterance.slots[name] for name in slots)])


def _manifest(utterances, audio, slots):
    """Writes a split as the lines of a SpeechBrain CSV manifest."""
    yield _csv_line([*COLUMNS, *slots])
    for utterance in utterances:
        yield _csv_line(
            [
                utterance.id,
                round(audio[utterance.path].duration, 6),
                f"$data_root/{utterance.path}",
                utterance.speaker,
                utterance.transcript,
                *(utterance.slots[name] for name in slots),
            ]
        )
