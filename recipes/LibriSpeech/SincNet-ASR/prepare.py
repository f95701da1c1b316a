"""Manifests of aligned speech for the pre-training of the encoder.

Two sources: LibriSpeech with TextGrid alignments, and a folder of
``<split>.jsonl`` files whose rows carry their alignment.

Authors
 * slu_kd_lobes authors
"""

import json
from pathlib import Path

from slu_kd_lobes.text import write_text_atomically


def prepare_aligned_speech(
    data_folder, manifests, splits, alignment_folder=None
):
    """Writes one JSON manifest a split.

    Arguments
    ---------
    data_folder : str
        LibriSpeech, or a folder of ``<split>.jsonl`` files.
    manifests : dict
        Path of the manifest to write, by split.
    splits : dict
        Names of the corpus' parts that make up each split.
    alignment_folder : str or None
        TextGrid files of LibriSpeech; None for a folder of JSON lines.
    """
    for split, path in manifests.items():
        rows = {}
        for part in splits[split]:
            rows.update(jsonl_rows(Path(data_folder), part))
        write_text_atomically(path, json.dumps(rows))


def jsonl_rows(folder, part):
    """Manifest rows of a file of JSON lines.

    Arguments
    ---------
    folder : Path
        Folder of the corpus.
    part : str
        Name of the file, without ``.jsonl``.

    Returns
    -------
    dict
        Manifest rows by utterance id.
    """
    rows = {}
    with open(folder / f"{part}.jsonl", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            rows[Path(row["path"]).with_suffix("").as_posix()] = {
                "wav": str(folder / row["path"]),
                "duration": row["duration"],
                "transcription": row["transcription"].lower(),
                "phones": [
                    [silence_name(phone), start, start + length]
                    for *_, phones in row["alignment"]
                    for phone, start, length in phones
                ],
                "words": [
                    [word_name(word), start, start + length]
                    for word, start, length, _ in row["alignment"]
                ],
            }
    return rows


def silence_name(phone):
    """The phone without stress digits, silence as ``sil``."""
    phone = phone.rstrip("0123456789")
    return "sil" if phone == "SIL" else phone


def word_name(word):
    """The word without a pronunciation number, silence as an empty word."""
    return "" if word.startswith("<") else word.split("(")[0].lower()
