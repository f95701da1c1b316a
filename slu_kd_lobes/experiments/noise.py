"""Noisy and reverberant copies of a corpus' test set.

The copies are further test sets of a corpus whose other audio is that of the
original, by links, so students are trained on clean speech and tested on both
in one run.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from speechbrain.augment.time_domain import AddNoise
from speechbrain.dataio import audio_io
from speechbrain.processing.signal_processing import reverberate
from tqdm import tqdm

from slu_kd_lobes.audio import read_waveform
from slu_kd_lobes.features import sha256
from slu_kd_lobes.files import check_writable, read_csv, write_csv

SUFFIX = "_data.csv"
TABLES = "csv_with_noise"  # folder of the CSV files


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
        Where the corpora go, each under a hash of what it is made from.

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
    csv_folder = Path(csv_folder or data_folder / "data").resolve()
    source = csv_folder / f"{split}{SUFFIX}"
    if not source.is_file():
        raise FileNotFoundError(
            f"there is no test set {source} to add noise to"
        )
    rows = read_csv(source)
    stats = []
    for number, row in enumerate(rows, 2):
        path = data_folder / row.get("path", "")
        if not path.is_file():
            raise FileNotFoundError(
                f"{source}, row {number}: there is no audio file {path}: "
                "check data_folder and the column path"
            )
        stat = path.stat()
        stats.append((stat.st_size, stat.st_mtime_ns))
    texts = {p.name: p.read_bytes() for p in csv_folder.glob(f"*{SUFFIX}")}
    made_from = [str(data_folder), list(map(str, conditions)), split, stats]
    made_from.append({name: sha256(texts[name]) for name in sorted(texts)})
    target = Path(folder) / sha256(json.dumps(made_from).encode())[:16]
    if not target.is_dir():
        # Sixteen bits a sample, and FLAC saves a part of them.
        seconds = sum(size for size, _ in stats) / 8000
        check_writable(folder, megabytes=len(conditions) * seconds * 0.032)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            _write_corpus(part, data_folder, texts, rows, conditions)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return str(target), str(target / TABLES)


def _write_corpus(folder, data_folder, texts, rows, conditions):
    (folder / TABLES).mkdir(parents=True)
    for name, text in texts.items():
        (folder / TABLES / name).write_bytes(text)
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
        write_csv(folder / TABLES / f"{name}{SUFFIX}", copies)
