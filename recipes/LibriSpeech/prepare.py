"""Manifests of transcribed speech for the pre-training of the encoder.

Three layouts are known by the files that are there: LibriSpeech, with the
TextGrid files of its published alignments; AISHELL-1; and any folder of
``<part>.jsonl`` files whose rows carry their alignment, or of ``<part>.csv``
without. All that
can be wrong with the files is found here, before anything is written, so that
training never meets it.

Corpora: Panayotov et al. 2015, "Librispeech: an ASR corpus based on public
domain audio books"; "AISHELL-1: An Open-Source Mandarin Speech Corpus and a
Speech Recognition Baseline", 2017. Alignments: Lugosch et al. 2019, section 4.1.

Authors
 * slu_kd_lobes authors
"""

import codecs
import csv
import importlib.util
import json
import os
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain.utils.parallel import parallel_map

from slu_kd_lobes.data.alignments import pack_alignment, phone_name, word_name
from slu_kd_lobes.data.audio import read_header
from slu_kd_lobes.data.manifests import (
    are_prepared,
    raise_if_any,
    write_manifests,
)
from slu_kd_lobes.utils.fingerprints import fingerprint

logger = get_logger(__name__)

# Counts up when the same input gives other manifests.
VERSION = 1

# By how much an alignment may outlast its audio, in seconds.
SLACK = 0.05

# Of 292,000 LibriSpeech utterances the aligner gave up 46 (the TextGrid files
# by CorentinJ). A larger share means that files are missing.
UNALIGNED_SHARE = 0.01

TIERS = ("words", "phones")

# One utterance. `audio` is relative to the data folder, `duration` (seconds)
# is what the corpus says or None, `alignment` is None, a TextGrid file, or a
# dict {"words": intervals, "phones": intervals}.
Utterance = namedtuple("Utterance", "id audio transcription duration alignment")


def prepare_speech(
    data_folder, manifests, splits, alignment_folder=None, aligned=True
):
    """Writes one JSON manifest a split.

    A row has ``wav`` (below ``{data_root}``), ``duration`` (seconds) and
    ``transcription`` and, for frame targets, the alignments ``words`` and
    ``phones`` as text (see `slu_kd_lobes.data.alignments.pack_alignment`).
    Called again with nothing changed, it returns without work.

    Arguments
    ---------
    data_folder : str
        LibriSpeech, or a folder of ``<part>.jsonl`` or ``<part>.csv`` files.
        Their rows have ``path`` (relative to the folder or not),
        ``transcription`` and, for frame targets, ``alignment``: ``[word, start,
        duration, [[phone, start, duration], ...]]`` for each word, in seconds.
        ``duration`` is optional.
    manifests : dict
        Path of the manifest to write, by split, all in one folder.
    splits : dict
        Names of the corpus' parts that make up each split.
    alignment_folder : str or None
        ``<part>/<speaker>/<chapter>/<utterance>.TextGrid`` of LibriSpeech.
        JSON lines do not need it.
    aligned : bool
        Whether frame targets are wanted. CTC needs transcriptions only.

    Raises
    ------
    FileNotFoundError
        If a folder, a part, its TextGrid files or an audio file is missing.
    ValueError
        If a file cannot be used. Nothing has been written then.
    """
    data_folder = Path(data_folder)
    if not data_folder.is_dir():
        raise FileNotFoundError(
            f"the data folder {data_folder} does not exist: correct its path"
        )
    utterances = {}
    for split, parts in splits.items():
        rows = [
            row
            for part in parts
            for row in list_part(
                data_folder, str(part), alignment_folder, aligned
            )
        ]
        _check_unique(split, rows)
        utterances[split] = rows
    sources = _sources(data_folder, utterances)
    arguments = [str(data_folder.resolve()), splits, aligned]
    made_from = fingerprint([VERSION, arguments, sources])
    folder = Path(manifests["train"]).parent
    if are_prepared(folder, made_from):
        logger.info("The manifests are those of this data: nothing to do.")
        return
    files = {
        Path(manifests[split]).name: _manifest(data_folder, rows, split)
        for split, rows in utterances.items()
    }
    write_manifests(folder, files, made_from)


def read_speech(manifest, data_folder, longest):
    """Reads a manifest of `prepare_speech`, in the order of its names.

    Arguments
    ---------
    manifest : str or Path
        The file.
    data_folder : str
        The corpus that it was written of.
    longest : float
        Utterances of more seconds are left out, with a warning.

    Returns
    -------
    list of dict
        Its rows; ``wav`` can be opened.
    """
    rows = json.loads(Path(manifest).read_text(encoding="utf-8"))
    rows = [row for _, row in sorted(rows.items())]
    kept = [row for row in rows if row["duration"] <= longest]
    if len(kept) < len(rows):
        logger.warning(
            f"{manifest}: {len(rows) - len(kept)} utterances are longer than "
            f"{longest} s and are left out."
        )
    return [
        {**row, "wav": row["wav"].format(data_root=data_folder)} for row in kept
    ]


# What the corpus lists


def prepare_pairs(
    data_folder,
    splits,
    save_folder,
    other_folder=None,
    other_splits=None,
    hours=None,
    subset_seed=0,
    longest=30,
    tests=(),
    other_tests=(),
    distort=None,
):
    """Speech with its transcripts, of one corpus and perhaps of another.

    Arguments
    ---------
    data_folder : str
        See `prepare_speech`.
    splits : dict
        Names of the corpus' parts that make up ``train`` and ``valid``.
    save_folder : str
        Where the manifests go.
    other_folder : str or None
        A second corpus, which is used whole.
    other_splits : dict or None
        Its parts.
    hours : dict or None
        How much of the first corpus is drawn, by split; None is all.
    subset_seed : int
        Of the draw.
    longest : float
        Utterances of more seconds are left out, with a warning.
    tests, other_tests : list of str
        Parts of the first corpus, and of the second, each of which is a split
        of its own.
    distort : callable or None
        Adds rows of distorted copies to those of training; see
        `slu_kd_lobes.data.augment.DistortedCopies`.

    Returns
    -------
    dict
        Rows by split, with ``wav``, ``duration`` and ``transcription``.

    Raises
    ------
    ValueError
        If a split has no utterance, or a second corpus has no parts.
    """
    splits = _with_tests(splits, tests)
    other_splits = _with_tests(other_splits or {}, other_tests)
    if bool(other_folder) != any(other_splits.values()):
        raise ValueError(
            f"other_folder is {other_folder or 'null'} and other_splits is "
            f"{other_splits}: give the folder and parts of it, or neither"
        )
    rows = {split: [] for split in (*splits, *other_splits)}
    corpora = [(data_folder, splits, Path(save_folder), hours or {})]
    if other_folder:
        folder = Path(save_folder) / "other"
        corpora.append((other_folder, other_splits, folder, {}))
    for root, parts, folder, amounts in corpora:
        manifests = {split: folder / f"{split}.json" for split in parts}
        run_on_main(
            prepare_speech, [str(root), manifests, parts], {"aligned": False}
        )
        for split, path in manifests.items():
            found = read_speech(path, root, longest)
            rows[split] += _drawn(found, amounts.get(split), subset_seed)
    if empty := [split for split, found in rows.items() if not found]:
        raise ValueError(f"{empty[0]} has no utterance: name parts of it")
    if distort is not None:
        rows["train"] = distort(rows["train"])
    return rows


def _with_tests(splits, tests):
    """Splits, and each test set as one: the name of its file, less ``_data``."""
    splits = dict(splits)
    for part in tests:
        name = Path(part).name.removesuffix("_data")
        if name in splits:
            raise ValueError(
                f"the part '{part}' would be the test set '{name}', and there "
                "is a split of that name: rename its file"
            )
        splits[name] = [part]
    return splits


def _drawn(rows, hours, seed):
    """Rows of as many hours as are wanted, drawn at random."""
    if hours is None:
        return rows
    order = np.random.default_rng(seed).permutation(len(rows))
    seconds = np.cumsum([rows[i]["duration"] for i in order])
    drawn = order[: int(np.searchsorted(seconds, 3600 * hours)) + 1]
    return [rows[i] for i in sorted(drawn)]


def list_part(data_folder, part, alignment_folder=None, aligned=True):
    """Lists a part of the corpus, in the order of its files.

    Arguments
    ---------
    data_folder : Path
        The corpus.
    part : str
        For example ``train-clean-100``; ``train`` for ``train.jsonl``. It
        may also be absolute; paths in its rows are relative to the corpus.
    alignment_folder : str or None
        TextGrid files of LibriSpeech.
    aligned : bool
        Whether alignments are wanted.

    Returns
    -------
    list of Utterance

    Raises
    ------
    FileNotFoundError
        If the part or its alignments are missing.
    ValueError
        If its list of utterances cannot be read.
    """
    for kind, rows_of in (("jsonl", _json_rows), ("csv", _csv_rows)):
        path = data_folder / f"{part}.{kind}"
        if path.is_file():
            return _listed(path, rows_of(path), aligned)
    if (data_folder / part).is_dir():
        if (data_folder / "transcript").is_dir():
            return _aishell(data_folder, part)
        return _librispeech(data_folder, part, alignment_folder, aligned)
    present = sorted(
        path.name
        for path in data_folder.iterdir()
        if path.is_dir() or path.suffix in (".jsonl", ".csv")
    )
    raise FileNotFoundError(
        f"{data_folder} holds neither the folder {part} of a corpus nor "
        f"the file {part}.jsonl or {part}.csv, but {present[:10]}: correct "
        "the folder or the name of the part"
    )


def _librispeech(data_folder, part, alignment_folder, aligned):
    """Lists a part of LibriSpeech."""
    if aligned and alignment_folder is None:
        raise ValueError(
            "frame targets need LibriSpeech's alignments: give "
            "--alignment_folder, or train by CTC with hparams/ctc.yaml"
        )
    if aligned and not Path(alignment_folder).is_dir():
        raise FileNotFoundError(
            f"the alignment folder {alignment_folder} does not exist: correct "
            "--alignment_folder"
        )
    if aligned and importlib.util.find_spec("praatio") is None:
        raise ValueError(
            "reading TextGrid files needs praatio: pip install -r "
            "extra_requirements.txt"
        )
    utterances = []
    transcripts = sorted((data_folder / part).glob("*/*/*.trans.txt"))
    for path in transcripts:
        folder = part / path.parent.relative_to(data_folder / part)
        for line in path.read_text(encoding="utf-8").split("\n"):
            key, _, transcription = line.strip().partition(" ")
            if not key:
                continue
            alignment = None
            if aligned:
                alignment = Path(alignment_folder) / folder / f"{key}.TextGrid"
            audio = (folder / f"{key}.flac").as_posix()
            row = Utterance(key, audio, transcription, None, alignment)
            utterances.append(row)
    if not utterances:
        raise FileNotFoundError(
            f"{data_folder / part} holds no transcripts "
            "<speaker>/<chapter>/*.trans.txt: unpack LibriSpeech again, or "
            "correct the folder"
        )
    return _with_textgrid(utterances, part) if aligned else utterances


def _aishell(data_folder, part):
    """Lists a part of AISHELL-1, such as ``wav/train``.

    Some 500 recordings have no transcript: they are left out.
    """
    texts = {}
    for path in sorted((data_folder / "transcript").glob("*.txt")):
        for line in path.read_text(encoding="utf-8").split("\n"):
            key, _, text = line.strip().partition(" ")
            texts[key] = text.replace(" ", "")  # between words
    audio = sorted((data_folder / part).glob("*/*.wav"))
    utterances = [
        Utterance(
            path.stem,
            path.relative_to(data_folder).as_posix(),
            texts[path.stem],
            None,
            None,
        )
        for path in audio
        if texts.get(path.stem)
    ]
    if not utterances:
        raise FileNotFoundError(
            f"{data_folder / part} holds no <speaker>/*.wav with a transcript: "
            "unpack AISHELL-1, and the archives of its speakers, again"
        )
    if len(utterances) < len(audio):
        logger.warning(
            f"{len(audio) - len(utterances)} of the {len(audio)} recordings of "
            f"{part} have no transcript and are left out."
        )
    return utterances


def _with_textgrid(utterances, part):
    """Leaves out the few utterances that the aligner gave up."""
    kept = [row for row in utterances if row.alignment.is_file()]
    missing = len(utterances) - len(kept)
    if missing > UNALIGNED_SHARE * len(utterances):
        first = next(row for row in utterances if not row.alignment.is_file())
        raise FileNotFoundError(
            f"{missing} of the {len(utterances)} utterances of {part} have no "
            f"TextGrid file (the first would be {first.alignment}): unpack "
            "the alignments again, or correct --alignment_folder"
        )
    if missing:
        logger.warning(
            f"{missing} of the {len(utterances)} utterances of {part} have no "
            "TextGrid file and are left out."
        )
    return kept


def _json_rows(path):
    """Number and reader of each line of a file of JSON lines."""
    lines = path.read_text("utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, partial(json.loads, line)


def _csv_rows(path):
    """The same of a CSV file, such as one of Fluent Speech Commands."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        for row in rows:
            yield rows.line_num, partial(dict, row)


def _listed(path, rows, aligned):
    """Lists the rows of a file."""
    utterances = []
    for number, read in rows:
        try:
            utterances.append(_utterance(read(), aligned))
        except KeyError as error:
            need = " (hparams/ctc.yaml trains without)" * (
                error.args[0] == "alignment"
            )
            raise ValueError(
                f"{path}, line {number} has no {error}: add it{need}"
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}, line {number} cannot be read ({error}): correct the "
                "line"
            ) from error
    if not utterances:
        raise ValueError(f"{path} holds no utterances: make it again")
    return utterances


def _utterance(row, aligned):
    """Builds the Utterance of a row."""
    alignment = None
    if aligned:
        words, phones = [], []
        for *word, parts in row["alignment"]:
            words.append(_interval(*word))
            phones += [_interval(*phone) for phone in parts]
        alignment = {"words": words, "phones": phones}
    duration = row.get("duration") or None
    return Utterance(
        Path(row["path"]).with_suffix("").as_posix(),
        row["path"],
        row["transcription"].strip(),
        duration if duration is None else float(duration),
        alignment,
    )


def _interval(label, start, length):
    """``[label, start, end]`` in seconds."""
    return [str(label), float(start), float(start) + float(length)]


def _check_unique(split, utterances):
    """Raises if two utterances of a split have one id."""
    seen = {}
    for row in utterances:
        first = seen.setdefault(row.id, row)
        if first is not row:
            raise ValueError(
                f"the {split} split has the utterance {row.id} twice "
                f"({first.audio}, {row.audio}): remove one of them, or name "
                "each part once"
            )


# What the files hold


def _manifest(data_folder, utterances, split):
    """The manifest of a split, as text; reads its files in parallel."""
    # Threads, not processes: one that is forked while another thread holds a
    # lock waits for it forever.
    with ThreadPoolExecutor() as threads:
        results = list(
            parallel_map(
                partial(manifest_row, data_folder),
                utterances,
                chunk_size=64,
                executor=threads,
                progress_bar_kwargs={
                    "desc": f"Reading {split}",
                    "mininterval": 1,
                },
            )
        )
    rows, faults = {}, []
    for row, result in zip(utterances, results):
        if isinstance(result, str):
            faults.append(result)
        else:
            rows[row.id] = result
    raise_if_any(
        faults,
        "replace the file by an intact copy, or take the utterance out of "
        "the corpus",
    )
    hours = sum(row["duration"] for row in rows.values()) / 3600
    logger.info(f"{split}: {len(rows)} utterances, {hours:.2f} h.")
    return json.dumps(rows, ensure_ascii=False, indent=0)


def manifest_row(data_folder, utterance):
    """Reads the header and the alignment of an utterance.

    Arguments
    ---------
    data_folder : Path
        The corpus.
    utterance : Utterance
        What the corpus lists.

    Returns
    -------
    dict or str
        Its row of the manifest, or a fault that begins a sentence.
    """
    path = data_folder / utterance.audio
    try:
        duration = read_header(path).duration
    except ValueError as fault:
        return f"the audio {path} {fault}"
    said = utterance.duration
    if said is not None and abs(said - duration) > SLACK:
        return (
            f"the audio {path} is {duration:.2f} s long and its row says "
            f"{said:.2f} s"
        )
    row = {
        "wav": _wav(utterance.audio),
        "duration": duration if said is None else said,
        "transcription": _literal(utterance.transcription.lower()),
    }
    if utterance.alignment is None:
        return row
    alignment = utterance.alignment
    if isinstance(alignment, Path):
        alignment = read_textgrid(alignment)
        if isinstance(alignment, str):
            return alignment
    for tier, name in zip(TIERS, (word_name, phone_name)):
        intervals = [[name(label), *times] for label, *times in alignment[tier]]
        fault = _interval_fault(intervals, duration)
        if fault:
            where = path
            if isinstance(utterance.alignment, Path):
                where = utterance.alignment
            return f"the alignment of the {tier} in {where} {fault}"
        row[tier] = _literal(pack_alignment(intervals))
    return row


def _interval_fault(intervals, duration):
    """Says what is wrong with an alignment, or returns None."""
    end = max((interval[2] for interval in intervals), default=0)
    if end > duration + SLACK:
        return f"ends at {end:.2f} s, and the audio at {duration:.2f} s"
    if any(not 0 <= start <= stop for _, start, stop in intervals):
        return "runs backwards"
    return None


def read_textgrid(path):
    """Reads the tiers of words and phones.

    Arguments
    ---------
    path : Path
        A TextGrid file, in Praat's long or short format.

    Returns
    -------
    dict or str
        ``{"words": intervals, "phones": intervals}``, or a fault that begins
        a sentence.
    """
    # Not openTextgrid: it refuses a file for one empty interval.
    from praatio.utilities.textgrid_io import parseTextgridStr

    try:
        data = path.read_bytes()
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
        content = parseTextgridStr(text, includeEmptyIntervals=True)
        grid = {tier["name"]: tier["entries"] for tier in content["tiers"]}
        for tier in TIERS:
            if tier not in grid:
                return (
                    f"the alignment {path} has no tier '{tier}' but "
                    f"{list(grid)}"
                )
        return {
            tier: [
                [label, float(start), float(end)]
                for start, end, label in grid[tier]
            ]
            for tier in TIERS
        }
    except Exception as error:
        # praatio does not check the text: a damaged file ends in any error.
        reason = " ".join(str(error).split()).rstrip(".")
        return f"the alignment {path} cannot be read ({reason})"


def _wav(audio):
    """The audio's path as the manifest has it."""
    root = "" if Path(audio).is_absolute() else "{data_root}/"
    return root + _literal(audio)


def _literal(text):
    """Doubles braces, which SpeechBrain would fill in."""
    return text.replace("{", "{{").replace("}", "}}")


# What was prepared before


def _sources(data_folder, utterances):
    """Size and time of change of every file, for the fingerprint."""

    def state(path):
        try:
            status = os.stat(path)
        except OSError:
            return None  # reported when the file is read
        return [str(path), status.st_size, status.st_mtime_ns]

    sources = []
    for rows in utterances.values():
        for row in rows:
            alignment = row.alignment
            if isinstance(alignment, Path):
                alignment = state(alignment)
            audio = state(data_folder / row.audio)
            sources.append([row.id, row.transcription, audio, alignment])
    return sources
