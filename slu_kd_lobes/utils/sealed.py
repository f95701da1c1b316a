"""Tensors in a file that says what they are of, and whether it is damaged."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from slu_kd_lobes.utils.files import whole
from slu_kd_lobes.utils.fingerprints import fingerprint


def _checksum(tensors, facts):
    """Hash of all that a file says."""
    content = json.dumps(facts, sort_keys=True).encode()
    for name in sorted(tensors):
        content += name.encode() + tensors[name].numpy().tobytes()
    return fingerprint(content)


def save_sealed(path, tensors, **facts):
    """Writes tensors and facts, whole or not at all.

    Arguments
    ---------
    path : str or Path
        A ``.safetensors`` file.
    tensors : dict
        By name.
    **facts
        What JSON can hold.
    """
    tensors = {k: x.detach().cpu().contiguous() for k, x in tensors.items()}
    facts = {key: json.dumps(value) for key, value in facts.items()}
    seal = {"sha256": _checksum(tensors, facts)}
    with whole(Path(path)) as part:
        save_file(tensors, part, facts | seal)


def load_sealed(path, remedy):
    """Reads what `save_sealed` wrote.

    Arguments
    ---------
    path : str or Path
    remedy : str
        What to do if it is damaged.

    Returns
    -------
    tensors : dict
    facts : dict

    Raises
    ------
    ValueError
        If it is damaged.

    Example
    -------
    >>> import torch
    >>> path = getfixture("tmp_path") / "a.safetensors"
    >>> save_sealed(path, {"x": torch.ones(2)}, rate=16000)
    >>> load_sealed(path, "make it again")
    ({'x': tensor([1., 1.])}, {'rate': 16000})
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if facts.pop("sha256") != _checksum(tensors, facts):
            raise ValueError("wrong checksum")
        return tensors, {key: json.loads(x) for key, x in facts.items()}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {remedy}") from error
