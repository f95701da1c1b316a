"""Corpora made from another: noisy test sets, held-out wordings and intents.

Noisy and reverberant copies of a test set are further test sets of a corpus
whose other audio is that of the original, by links. So students are trained on
clean speech and tested on both in one run.

What is chosen for unseen wordings must not be chosen on the test set. Where
wordings are held out, validation has wordings that training lacks, and each
draw holds out others. Where intents are, nobody speaks them before the test.
"""

import hashlib
import random
from collections import Counter
from pathlib import Path

import torch
from speechbrain.augment.time_domain import AddNoise
from speechbrain.dataio import audio_io
from speechbrain.processing.signal_processing import reverberate
from tqdm import tqdm

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.data.manifests import main_test_first
from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.utils.files import (
    check_writable,
    read_csv,
    whole,
    write_csv,
    write_json,
)
from slu_kd_lobes.utils.fingerprints import file_fingerprint, fingerprint

SUFFIX = "_data.csv"
NOISY_CSV_FOLDER = "csv_with_noise"  # in the corpus with the copies
HELD_OUT = "held_out_test"


def csv_files(data_folder, csv_folder=None):
    """The CSV files of a corpus.

    Arguments
    ---------
    data_folder : str or Path
        The corpus.
    csv_folder : str or Path or None
        Where its CSV files are; None: ``<data_folder>/data``.

    Returns
    -------
    folder : Path
        Where they are.
    paths : dict
        Path by split, in the order of the names.

    Example
    -------
    >>> corpus = getfixture("tmp_path")
    >>> write_csv(corpus / "data" / "test_data.csv", [{"path": "a.wav"}])
    >>> folder, paths = csv_files(corpus)
    >>> folder.name, list(paths)
    ('data', ['test'])
    """
    folder = Path(csv_folder or Path(data_folder) / "data").resolve()
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    return folder, {path.name.removesuffix(SUFFIX): path for path in paths}


def _content(paths):
    """What CSV files hold, for a fingerprint."""
    return {split: file_fingerprint(path) for split, path in paths.items()}


# Noise


def room_response(seconds=0.5, direct=1.0, sample_rate=16000, seed=0):
    """Impulse response of a made-up room: a direct path and a noisy decay.

    Source: J. D. Polack, "La transmission de l'energie sonore dans les
    salles", 1988: Gaussian noise that decays exponentially.

    Arguments
    ---------
    seconds : float
        Reverberation time: the decay by 60 dB.
    direct : float
        Energy of the direct path, relative to that of the decay.
    sample_rate : int
        In Hz.
    seed : int
        Of the noise.

    Returns
    -------
    torch.Tensor
        [samples].

    Example
    -------
    >>> response = room_response(seconds=0.1)
    >>> response.shape, response[0]
    (torch.Size([1600]), tensor(1.))
    """
    generator = torch.Generator().manual_seed(seed)
    size = round(seconds * sample_rate)
    decay = torch.randn(size, generator=generator)
    decay *= 10 ** (-3 * torch.arange(size) / size)
    decay[0] = 0
    decay /= decay.square().sum().mul(direct).sqrt()
    decay[0] = 1
    return decay


def corrupt(wav, condition, key):
    """One utterance under a condition.

    Arguments
    ---------
    wav : torch.Tensor
        Waveform, [samples], 16 kHz.
    condition : int, float or str
        The signal-to-noise ratio of white noise in dB, or ``room``.
    key : str
        Name of the utterance: each has its own noise, always the same.

    Returns
    -------
    torch.Tensor
        [samples], at most 1 in size.

    Example
    -------
    >>> wav = torch.sin(torch.arange(16000) / 10)
    >>> noisy = corrupt(wav, 0, "a")
    >>> bool((corrupt(wav, 0, "a") == noisy).all())
    True
    >>> corrupt(wav, "room", "a").shape
    torch.Size([16000])
    """
    wav = wav.unsqueeze(0)
    if condition == "room":
        wav = reverberate(wav, room_response().unsqueeze(0), rescale_amp="avg")
    else:
        digest = hashlib.sha256(f"{condition} {key}".encode()).digest()
        generator = torch.Generator().manual_seed(
            int.from_bytes(digest[:7], "big")
        )
        add = AddNoise(
            snr_low=condition,
            snr_high=condition,
            noise_funct=lambda x: torch.randn(x.shape, generator=generator),
        )
        wav = add(wav, torch.ones(1))
    return (wav / wav.abs().max().clamp(min=1.0)).squeeze(0)


def condition_name(condition):
    """Name of the test set of a condition.

    Arguments
    ---------
    condition : int, float or str
        A signal-to-noise ratio in dB, or ``room``.

    Returns
    -------
    str

    Example
    -------
    >>> condition_name(20), condition_name("room")
    ('noise_20_test', 'room_test')
    """
    if condition == "room":
        return "room_test"
    return f"noise_{condition:g}_test".replace("-", "minus_")


def noisy_corpus(data_folder, csv_folder, conditions, split, folder):
    """A corpus with corrupted copies of a test set as further test sets.

    Arguments
    ---------
    data_folder : str or Path
        The corpus.
    csv_folder : str or Path or None
        Its CSV files; None: ``<data_folder>/data``.
    conditions : list
        Signal-to-noise ratios in dB, and ``room``.
    split : str
        The test set that is copied.
    folder : str or Path
        Where such corpora go, each named after what it is made from.

    Returns
    -------
    data_folder, csv_folder : str
        Of the corpus with the copies.

    Raises
    ------
    ValueError
        If a condition is neither a number nor ``room``.
    FileNotFoundError
        If the test set is missing.
    """
    for condition in conditions:
        if condition != "room" and not isinstance(condition, (int, float)):
            raise ValueError(
                f"noise '{condition}' is unknown: give a signal-to-noise "
                "ratio in dB, or room"
            )
    data_folder = Path(data_folder).resolve()
    csv_folder, paths = csv_files(data_folder, csv_folder)
    if split not in paths:
        raise FileNotFoundError(
            f"there is no test set {csv_folder / split}{SUFFIX} to add noise to"
        )
    rows = read_csv(paths[split])
    stats = []
    for number, row in enumerate(rows, 2):
        path = data_folder / row.get("path", "")
        if not path.is_file():
            raise FileNotFoundError(
                f"{paths[split]}, row {number}: there is no audio file {path}: "
                "check data_folder and the column path"
            )
        stat = path.stat()
        stats.append((stat.st_size, stat.st_mtime_ns))
    facts = [str(data_folder), list(map(str, conditions)), split, stats]
    target = Path(folder) / fingerprint([*facts, _content(paths)])[:16]
    if not target.is_dir():
        # Sixteen bits a sample, and FLAC saves a part of them.
        seconds = sum(size for size, _ in stats) / 8000
        check_writable(folder, megabytes=len(conditions) * seconds * 0.032)
        with whole(target) as part:
            _write_noisy(part, data_folder, paths, rows, conditions)
    return str(target), str(target / NOISY_CSV_FOLDER)


def _write_noisy(folder, data_folder, paths, rows, conditions):
    (folder / NOISY_CSV_FOLDER).mkdir(parents=True)
    for path in paths.values():
        copy = folder / NOISY_CSV_FOLDER / path.name
        copy.write_bytes(path.read_bytes())
    for entry in data_folder.iterdir():
        (folder / entry.name).symlink_to(entry)
    for condition in conditions:
        name = condition_name(condition)
        copies = []
        for row in tqdm(rows, name, ncols=79):
            wav = read_waveform(data_folder / row["path"], 16000)
            path = (Path(name) / row["path"]).with_suffix(".flac")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            wav = corrupt(wav, condition, row["path"])
            audio_io.save(folder / path, wav.unsqueeze(0), 16000)
            copies.append({**row, "path": str(path)})
        write_csv(folder / NOISY_CSV_FOLDER / f"{name}{SUFFIX}", copies)


# Held-out wordings and intents


def _wording(row):
    return normalise_transcript(row["transcription"] or "")


def _intent(row, slots):
    return tuple((row[slot] or "").strip() for slot in slots)


def _read_splits(csv_folder, paths, slots, *splits):
    """Rows of some splits, whose columns are checked."""
    rows = {}
    for split in splits:
        if split not in paths:
            raise FileNotFoundError(f"there is no {csv_folder / split}{SUFFIX}")
        rows[split] = read_csv(paths[split])
        for column in ("transcription", *slots):
            if not rows[split] or column not in rows[split][0]:
                raise ValueError(f"{paths[split]} has no column '{column}'")
    return rows


def _write_splits(folder, facts, paths, kept, **more):
    """Writes what is kept of splits, the others as they are, and JSON files."""
    target = Path(folder) / fingerprint(facts)[:16]
    if not target.is_dir():
        with whole(target) as part:
            for split in {**paths, **kept}:
                copies = kept.get(split) or read_csv(paths[split])
                write_csv(part / f"{split}{SUFFIX}", copies)
            for name, content in more.items():
                write_json(part / f"{name}.json", content)
    return str(target)


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
        Decides on the wordings.
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
    csv_folder, paths = csv_files(data_folder, csv_folder)
    rows = _read_splits(csv_folder, paths, slots, "train", "valid")
    intents = {_wording(row): _intent(row, slots) for row in rows["train"]}
    held = choose_wordings(intents, share, seed)
    kept = {
        "train": [row for row in rows["train"] if _wording(row) not in held],
        "valid": [row for row in rows["valid"] if _wording(row) in held],
        HELD_OUT: [row for row in rows["train"] if _wording(row) in held],
    }
    if not kept["valid"]:
        raise ValueError(
            f"{paths['valid']} has none of the {len(held)} wordings that "
            f"held_out = {share} takes from training: raise it"
        )
    return _write_splits(folder, [_content(paths), sorted(held)], paths, kept)


def hold_out_intents(data_folder, csv_folder, slots, count, seed, folder):
    """CSV files whose training and validation lack all speech of some intents.

    In place of the main test set there are ``unspoken_test``, its utterances
    of these intents, and ``spoken_test``, the others. A third, ``typed_test``,
    has one utterance of each wording that training and validation lost: who
    types the wordings of all splits types these as well. It is scored like any
    test set. The others stay, and ``unspoken_intents.json`` lists the intents.

    Arguments
    ---------
    data_folder, csv_folder, slots
        See `hold_out_wordings`.
    count : int
        How many intents of the training set are held out.
    seed : int
        Decides on the intents.
    folder : str or Path
        Where such files go, in a folder named after what they hold.

    Returns
    -------
    str
        Folder of the CSV files.

    Raises
    ------
    ValueError
        If the count is impossible, a column is missing, or nothing is left to
        validate or test on.
    FileNotFoundError
        If there are no files to train, validate and test on.
    """
    csv_folder, paths = csv_files(data_folder, csv_folder)
    main = next(iter(main_test_first(paths)), "test")
    rows = _read_splits(csv_folder, paths, slots, "train", "valid", main)
    intents = sorted({_intent(row, slots) for row in rows["train"]})
    if count not in range(1, len(intents)):
        raise ValueError(
            f"unspoken is {count}, and {paths['train']} has {len(intents)} "
            "intents: hold out one at least, and leave one at least"
        )
    held = sorted(random.Random(seed).sample(intents, count))
    kept, lost = {}, {}
    for split, part in rows.items():
        kept[split] = [row for row in part if _intent(row, slots) not in held]
        lost[split] = [row for row in part if _intent(row, slots) in held]
    kept["spoken_test"], kept["unspoken_test"] = kept.pop(main), lost.pop(main)
    typed = {_wording(row): row for part in lost.values() for row in part}
    kept["typed_test"] = list(typed.values())
    for split, part in kept.items():
        if not part:
            raise ValueError(
                f"draw {seed} of unspoken = {count} leaves no {split}{SUFFIX}: "
                f"{paths['valid']} and {paths[main]} need all intents"
            )
    facts = [_content(paths), slots, held]
    del paths[main]
    return _write_splits(folder, facts, paths, kept, unspoken_intents=held)


#: What takes a part out of training, by the key of a matrix' condition.
HOLDING_OUT = {"held_out": hold_out_wordings, "unspoken": hold_out_intents}
