"""Training sets without some wordings, to choose on unseen ones.

What is chosen for unseen wordings must not be chosen on the test set: here
validation has wordings that training lacks, and each draw holds out others.
"""

import json
import random
from collections import Counter
from pathlib import Path

from slu_kd_lobes.features import sha256
from slu_kd_lobes.files import read_csv, write_csv
from slu_kd_lobes.text import normalise_transcript

HELD_OUT = "held_out_test_data.csv"


def wording(row):
    """The normalised transcript of a row."""
    return normalise_transcript(row["transcription"])


def choose_wordings(intents, share, seed):
    """Wordings to hold out; each intent keeps one at least.

    Arguments
    ---------
    intents : dict
        Intent of each wording.
    share : float
        How many of the wordings, above 0 and below 1.
    seed : int

    Returns
    -------
    set of str
        Fewer than asked for, where intents have few wordings.

    Example
    -------
    >>> intents = {"louder": "up", "volume up": "up", "lights on": "on"}
    >>> choose_wordings(intents, 0.99, seed=0) < {"louder", "volume up"}
    True
    """
    left, held = Counter(intents.values()), set()
    order = sorted(intents)
    random.Random(seed).shuffle(order)
    for text in order:
        if len(held) == round(share * len(intents)):
            break
        if left[intents[text]] > 1:
            left[intents[text]] -= 1
            held.add(text)
    return held


def hold_out_wordings(data_folder, csv_folder, slots, share, seed, folder):
    """CSV files whose validation has only wordings that training lacks.

    What the training voices say in these wordings is a test set
    ``held_out_test``. The other test sets stay as they are.

    Arguments
    ---------
    data_folder : str or Path
        The corpus.
    csv_folder : str or Path or None
        Its CSV files; None: ``<data_folder>/data``.
    slots : list of str
        Columns that make up the intent.
    share : float
        How many of the wordings are held out, above 0 and below 1.
    seed : int
        Which ones.
    folder : str or Path
        Where such files go, in a folder named after what they hold.

    Returns
    -------
    str
        Folder of the CSV files.

    Raises
    ------
    ValueError
        If the share is impossible, a column is missing, or nothing is left
        to validate on.
    FileNotFoundError
        If there are no files to train and validate on.
    """
    if not 0 < share < 1:
        raise ValueError(f"held_out is {share}: give a share from 0 to 1")
    source = Path(csv_folder or Path(data_folder) / "data").resolve()
    paths = {path.name: path for path in source.glob("*_data.csv")}
    train, valid = "train_data.csv", "valid_data.csv"
    for name in (train, valid):
        if name not in paths:
            raise FileNotFoundError(f"there is no {source / name}")
    rows = {name: read_csv(paths[name]) for name in (train, valid)}
    for name, own in rows.items():
        for column in ("transcription", *slots):
            if not own or column not in own[0]:
                raise ValueError(f"{paths[name]} has no column '{column}'")
    intents = {
        wording(r): tuple(r[slot] for slot in slots) for r in rows[train]
    }
    held = choose_wordings(intents, share, seed)
    kept = {
        train: [row for row in rows[train] if wording(row) not in held],
        valid: [row for row in rows[valid] if wording(row) in held],
        HELD_OUT: [row for row in rows[train] if wording(row) in held],
    }
    if not kept[valid]:
        raise ValueError(
            f"{paths[valid]} has none of the {len(held)} wordings that "
            f"held_out = {share} takes from training: raise it"
        )
    contents = [path.read_bytes() for _, path in sorted(paths.items())]
    made_from = [sorted(paths), list(map(sha256, contents)), sorted(held)]
    target = Path(folder) / sha256(json.dumps(made_from).encode())[:16]
    for name in {**paths, **kept}:
        write_csv(target / name, kept.get(name) or read_csv(paths[name]))
    return str(target)
