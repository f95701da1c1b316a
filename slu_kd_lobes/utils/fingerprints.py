"""What a file, a model or a setting is: hashes that tell one from another.

A *fingerprint* is a hash. *made_from* maps the name of each thing that shapes
a result to its fingerprint; a result that was made from other things is
refused.
"""

import hashlib
import json
from pathlib import Path


def fingerprint(content):
    """SHA-256 of bytes, or of what JSON can hold.

    Arguments
    ---------
    content : bytes-like, or anything that JSON can hold
        The order of the keys of a mapping does not matter.

    Returns
    -------
    str
        64 hexadecimal digits.

    Example
    -------
    >>> fingerprint(b"abc")[:8]
    'ba7816bf'
    >>> fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    True
    """
    if not isinstance(content, (bytes, bytearray, memoryview)):
        content = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def file_fingerprint(path):
    """SHA-256 of the content of a file.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    str
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def model_fingerprint(source):
    """What identifies a model of others: its files' hash, or its hub name.

    Arguments
    ---------
    source : str
        Folder or hub name.

    Returns
    -------
    str
        Of a folder, a hash of configuration, vocabulary and weights.

    Example
    -------
    >>> model_fingerprint("bert-base-uncased")
    'bert-base-uncased'
    """
    folder = Path(source)
    if not folder.is_dir():
        return source
    kinds = (".json", ".safetensors", ".bin", ".txt")
    files = sorted(path for path in folder.iterdir() if path.suffix in kinds)
    return fingerprint([file_fingerprint(path) for path in files])


def weights_fingerprint(module, prefix=""):
    """SHA-256 of a module's weights and their names.

    Arguments
    ---------
    module : torch.nn.Module
    prefix : str
        Text that is hashed before them.

    Returns
    -------
    str

    Example
    -------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> before = weights_fingerprint(layer)
    >>> _ = layer.weight.data.add_(1)
    >>> before == weights_fingerprint(layer)
    False
    """
    digest = hashlib.sha256(prefix.encode())
    for name, value in module.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def module_fingerprint(module):
    """Hash of a module's class, settings and weights.

    Arguments
    ---------
    module : torch.nn.Module

    Returns
    -------
    str

    Example
    -------
    >>> import torch
    >>> mean, maximum = torch.nn.AvgPool1d(2), torch.nn.MaxPool1d(2)
    >>> module_fingerprint(mean) == module_fingerprint(maximum)
    False
    """
    name = f"{type(module).__module__}.{module!r}"
    return weights_fingerprint(module, name)


def joined(made_from, pretrained):
    """What a run is made from, with what its pre-trained part was made from.

    Arguments
    ---------
    made_from, pretrained : dict
        Fingerprints by name; None where it is not known.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If both name a thing, and it is not the same one.

    Example
    -------
    >>> joined({"data": 1}, {"model": 2})
    {'model': 2, 'data': 1}
    >>> joined({"encoder": 1}, {"encoder": 2})
    Traceback (most recent call last):
    ...
    ValueError: what is pre-trained was made with another encoder: choose that
    """
    for name in made_from.keys() & pretrained.keys():
        if pretrained[name] not in (None, made_from[name]):
            raise ValueError(
                f"what is pre-trained was made with another {name}: choose that"
            )
    return pretrained | made_from


def check_made_from(what, made_from, expected, remedy):
    """Refuses what was made from other things than are at hand.

    Arguments
    ---------
    what : str
        The result, for the message.
    made_from : dict
        Fingerprints of what it was made from, by name.
    expected : dict
        Those of what is at hand.
    remedy : str
        What to do.

    Raises
    ------
    ValueError
        If one differs, or is on one side only.

    Example
    -------
    >>> check_made_from("the table", {"text": 1}, {"text": 2}, "delete it")
    Traceback (most recent call last):
    ...
    ValueError: the table was made from another text: delete it
    """
    names = sorted(made_from.keys() | expected.keys())
    other = [n for n in names if made_from.get(n) != expected.get(n)]
    if other:
        raise ValueError(
            f"{what} was made from another {', '.join(other)}: {remedy}"
        )
