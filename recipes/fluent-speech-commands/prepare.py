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
import io
import os
import re
import stat
from collections import namedtuple
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from speechbrain.dataio import audio_io
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from slu_kd_lobes.data.manifests import (
    COLUMNS,
    Manifests,
    are_prepared,
    as_json,
    raise_if_any,
    utterance_id,
    write_manifests,
)
from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.utils.fingerprints import fingerprint

logger = get_logger(__name__)

# Counts up when the same input gives other manifests.
VERSION = 2

# Columns of the corpus' CSV files that are not slots.
PATH, SPEAKER, TRANSCRIPT = "path", "speakerId", "transcription"

# "id" is SpeechBrain's own.
RESERVED = (*COLUMNS, "id")

TEST_FILE = re.compile(r"(?!\.)(?:.*_)?test(?:_.*)?_data\.csv")

# Of several test sets the first of these is the one that a result table leads
# with: the corpus' own, then known wordings by new voices.
MAIN_TESTS = ("test", "spk_test", "speaker_test")

# Test sets whose names promise voices that training has not heard.
NEW_VOICE_TESTS = (*MAIN_TESTS, "both_test")

# Reading a header is mostly waiting for the disk.
WORKERS = 8

# One utterance: where it stands (CSV file and row, the header being row 1),
# its key, and what the row says. `slots` maps slot names to values.
Utterance = namedtuple("Utterance", "csv row id path speaker transcript slots")

# What a file system and a header say of an audio file; duration in seconds.
Audio = namedtuple("Audio", "duration sample_rate channels")


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
):
    """Writes SpeechBrain manifests and the slot schema of a corpus.

    What is written: see :class:`slu_kd_lobes.data.manifests.Manifests`; the
    rows are in the order of the IDs. Called again with nothing changed, it
    returns without work; when a CSV file, an audio file or a manifest has
    changed, it prepares again. Other arguments have another folder.

    Arguments
    ---------
    data_folder : str
        The corpus. Paths in its CSV files are relative to this folder.
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
    _check_draw(train_fraction, subset_seed)
    data_folder = Path(data_folder)
    csv_folder = Path(csv_folder) if csv_folder else data_folder / "data"
    tests = None if test_splits is None else _as_list(test_splits)
    arguments = [
        [str(data_folder.resolve()), str(csv_folder.resolve()), slots, tests],
        [slot_values, float(train_fraction), subset_seed],
        [sample_rate, shared_speakers],
    ]
    folder = Path(save_folder) / fingerprint(arguments)[:12]
    if skip_prep:
        return Manifests(folder, data_folder)
    splits, tests = _read_corpus(data_folder, csv_folder, tests, slots)
    prepared = ["train", "valid", *tests]
    sources = _stat_audio(data_folder, splits, prepared)
    # Everything that shapes the manifests, or that a check has looked at.
    rows = {
        split: [row._replace(csv=row.csv.name) for row in splits[split]]
        for split in splits
    }
    made_from = fingerprint([VERSION, arguments, rows, sources])
    if are_prepared(folder, made_from):
        logger.info(f"Nothing has changed: {folder} is used as it is.")
        return Manifests(folder, data_folder)

    schema = _slot_schema(splits, slots, slot_values)
    _check_unique(splits, tests)
    _check_speakers(splits, tests, shared_speakers)
    _check_sources(splits, sources, prepared)
    audio = _read_headers(data_folder, splits, prepared)
    _report_conversions(audio, sample_rate)

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
    names = list(dict.fromkeys(["train", "valid", *tests, *found]))
    missing = [
        f"The CSV file {path} does not exist"
        for path in (folder / f"{name}_data.csv" for name in names)
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
        name: _read_split(folder / f"{name}_data.csv", slots) for name in names
    }
    return splits, tests


def _find_tests(folder):
    """Returns the names of a folder's test sets, the main one first."""
    names = sorted(
        path.name[: -len("_data.csv")]
        for path in folder.glob("*_data.csv")
        if TEST_FILE.fullmatch(path.name)
    )
    main = next((name for name in MAIN_TESTS if name in names), None)
    return sorted(names, key=lambda name: name != main)


def _read_split(path, slots):
    """Reads one CSV file into a list of Utterance, in the file's order."""
    header, rows = _read_table(path)
    needed = [PATH, SPEAKER, TRANSCRIPT, *slots]
    for name in needed:
        if header.count(name) != 1:
            fault = "twice" if name in header else "not"
            raise ValueError(
                f"{path} has the column '{name}' {fault}: it needs {needed} "
                f"once each and has {header}."
            )
    columns = {name: header.index(name) for name in needed}
    utterances, faults = [], []
    for row, cells in rows:
        if len(cells) != len(header):
            faults.append(
                f"{path}, row {row} has {len(cells)} cells and its header "
                f"{len(header)}"
            )
            continue
        cells = {name: cells[index].strip() for name, index in columns.items()}
        fault = _fault(cells, slots)
        if fault:
            faults.append(f"{path}, row {row}: {fault}")
        else:
            utterances.append(_utterance(path, row, cells, slots))
    raise_if_any(
        faults, "correct the row (text with a comma needs quotes), or remove it"
    )
    return utterances


def _read_table(path):
    """Returns a CSV file's header and its rows as (row number, cells).

    Rows are counted as a spreadsheet shows them; blank ones are left out.
    """
    content = path.read_bytes()
    try:
        # Spreadsheets write a byte order mark.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, row {row} is not UTF-8 text: save the file as UTF-8."
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        table = [(row, cells) for row, cells in enumerate(reader, 1) if cells]
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num} is not CSV ({error}): correct its "
            "quotes."
        ) from error
    if len(table) < 2:
        raise ValueError(
            f"{path} holds no utterances: it needs a header and at least one "
            "row."
        )
    return [name.strip() for name in table[0][1]], table[1:]


def _fault(cells, slots):
    """Says what is wrong with a row's cells, or returns None."""
    for name, cell in cells.items():
        if not cell:
            what = "slot" if name in slots else "column"
            return f"the {what} '{name}' is empty"
        # SpeechBrain replaces $name in every cell of a manifest. Only a
        # transcription can be written otherwise.
        if name != TRANSCRIPT and re.search(r"\$[\w.]", cell):
            return f"the column '{name}' has a $ sign before a name: {cell!r}"
    if not any(map(str.isalnum, cells[TRANSCRIPT])):
        return f"the transcription {cells[TRANSCRIPT]!r} holds no word"
    path = os.path.normpath(cells[PATH])
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        return f"the path {cells[PATH]!r} leads out of data_folder"
    return None


def _utterance(csv_path, row, cells, slots):
    """Builds the Utterance of a row that is in order."""
    path = os.path.normpath(cells[PATH]).replace(os.sep, "/")
    # A manifest row is one line, and $ before a name would be replaced (see
    # `_fault`): the full-width sign is the same character under NFKC.
    transcript = " ".join(cells[TRANSCRIPT].split())
    transcript = re.sub(r"\$(?=[\w.])", "\uff04", transcript)
    values = {name: cells[name] for name in slots}
    return Utterance(
        csv_path,
        row,
        utterance_id(os.path.splitext(path)[0]),
        path,
        cells[SPEAKER],
        transcript,
        values,
    )


def _by_id(utterances):
    """Sorts utterances so that no row order of a CSV file can matter."""
    return sorted(utterances, key=lambda utterance: utterance.id)


# Checks of content


def _slot_schema(splits, slots, slot_values):
    """Builds the schema and checks every row against it."""
    rows = [utterance.slots for utterance in chain(*splits.values())]
    found = SlotSchema.from_rows(rows, slots).values
    schema = SlotSchema({**found, **slot_values})
    known = {name: set(values) for name, values in schema.values.items()}
    faults = [
        f"{utterance.csv}, row {utterance.row}: the slot '{name}' has the "
        f"value '{value}', which is not one of {schema.values[name]}"
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
        seen = learnt if split in ("train", "valid") else dict(learnt)
        for utterance in splits[split]:
            first = seen.setdefault(utterance.id, utterance)
            if first is not utterance:
                faults.append(
                    f"{utterance.csv}, row {utterance.row}: the audio "
                    f"{utterance.path} has the ID {utterance.id} of "
                    f"{first.path} in {first.csv.name}, row {first.row}"
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
                f"{heard[speaker].csv}, row {heard[speaker].row}: the speaker "
                f"'{speaker}' is also in {known[speaker].csv.name}, row "
                f"{known[speaker].row}"
                for speaker in shared
            ]
            raise_if_any(
                faults,
                "separate the speakers of the splits, or pass "
                "shared_speakers=True if they are meant to be shared",
            )
        if shared:
            logger.warning(
                f"{len(shared)} speakers of {later} are also in {learnt}."
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
    """Maps a function over items in threads, in order."""
    with ThreadPool(WORKERS) as pool:
        results = pool.imap(function, items, chunksize=32)
        if description:
            results = tqdm(
                results,
                desc=description,
                total=len(items),
                unit="file",
                mininterval=1,
            )
        return list(results)


def _stat_audio(data_folder, splits, prepared):
    """Returns {path: [bytes, time of change in ns], or None if missing}."""

    def stat_file(path):
        try:
            status = os.stat(data_folder / path)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return [status.st_size, status.st_mtime_ns]

    paths = list(_prepared_paths(splits, prepared))
    return dict(zip(paths, _in_threads(stat_file, paths)))


def _check_sources(splits, sources, prepared):
    """Raises if an audio file is missing."""
    faults = [
        f"{utterance.csv}, row {utterance.row}: the audio {path} does not exist"
        for path, utterance in _prepared_paths(splits, prepared).items()
        if sources[path] is None
    ]
    raise_if_any(
        faults,
        "unpack the corpus again, or correct data_folder or the path",
        FileNotFoundError,
    )


def _read_headers(data_folder, splits, prepared):
    """Returns {path: Audio} of the prepared splits, from file headers."""
    utterances = _prepared_paths(splits, prepared)
    paths = list(utterances)
    audio = _in_threads(
        lambda path: _read_header(data_folder / path), paths, "Audio headers"
    )
    faults = [
        f"{utterances[path].csv}, row {utterances[path].row}: the audio "
        f"{path} {fault}"
        for path, fault in zip(paths, audio)
        if isinstance(fault, str)
    ]
    raise_if_any(
        faults, "replace the file by an intact copy, or remove the row"
    )
    return dict(zip(paths, audio))


def _read_header(path):
    """Returns the Audio of a file, or a fault that ends a sentence."""
    try:
        info = audio_io.info(str(path))
        if info.frames and info.format == "FLAC":
            # Its header states a length, also in front of half the data.
            audio_io.load(str(path), frame_offset=info.frames - 1)
    except Exception as error:
        # libsndfile raises several kinds; all mean the same here.
        reason = str(error).rsplit(": ", 1)[-1].rstrip(".")
        return f"cannot be read ({reason})"
    if info.frames == 0:
        return "has no samples"
    return Audio(info.duration, info.sample_rate, info.channels)


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
    wordings = len({normalise_transcript(row.transcript) for row in utterances})
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
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["transcription", *slots])
    for key, utterance in sorted(rows.items()):
        writer.writerow([key, *(utterance.slots[name] for name in slots)])
    return text.getvalue()


def _manifest(utterances, audio, slots):
    """Writes a split as the text of a SpeechBrain CSV manifest."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *slots])
    for utterance in utterances:
        writer.writerow(
            [
                utterance.id,
                round(audio[utterance.path].duration, 6),
                f"$data_root/{utterance.path}",
                utterance.speaker,
                utterance.transcript,
                *(utterance.slots[name] for name in slots),
            ]
        )
    return text.getvalue()
