"""Models from folders or from a hub, and what to say when they cannot be had."""

import os
import socket
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, snapshot_download
from speechbrain.utils.parameter_transfer import Pretrainer

from slu_kd_lobes.utils.blocks import RefusedModel, load_pretrained_blocks


def hub_answers(timeout=3.0):
    """Whether the hub can be connected to; True behind a proxy.

    Arguments
    ---------
    timeout : float
        In seconds.

    Returns
    -------
    bool
    """
    if any(os.environ.get(f"{s}_proxy") for s in ("HTTPS", "https", "all")):
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or {"http": 80}.get(address.scheme, 443)
    try:
        socket.create_connection((address.hostname, port), timeout).close()
    except OSError:
        return False
    return True


@contextmanager
def no_long_retries(source):
    """Takes a hub name from the cache alone where the hub does not answer.

    The hub's client tries again for most of a minute otherwise.

    Arguments
    ---------
    source : str
        Folder or hub name.
    """
    offline = constants.HF_HUB_OFFLINE
    if not Path(source).is_dir() and not offline:
        constants.HF_HUB_OFFLINE = not hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def reason_of(error):
    """The kind of an error and the first line of what it says.

    Arguments
    ---------
    error : Exception

    Returns
    -------
    str

    Example
    -------
    >>> reason_of(OSError("offline\\nmore"))
    'OSError: offline'
    """
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    return f"{type(error).__name__}: {reason}"


REMEDY = "check the name and the network, or give the folder of a copy"


@contextmanager
def readable_source(kind, source, remedy=REMEDY):
    """Turns whatever goes wrong while a model loads into one sentence, at once.

    Arguments
    ---------
    kind : str
        What is loaded, for instance ``text encoder``.
    source : str
        Folder or hub name.
    remedy : str
        What to do.

    Raises
    ------
    ValueError
        With the reason as its cause.

    Example
    -------
    >>> with readable_source("text encoder", "no/such", "check the name"):
    ...     raise OSError("offline")
    Traceback (most recent call last):
    ...
    ValueError: the text encoder 'no/such' is neither a folder with a model \
nor a hub name that can be reached now (OSError: offline): check the name
    """
    try:
        with no_long_retries(source):
            yield
    except RefusedModel:
        raise
    except Exception as error:  # the hub client's errors have no one base
        raise ValueError(
            f"the {kind} '{source}' is neither a folder with a model nor a hub "
            f"name that can be reached now ({reason_of(error)}): {remedy}"
        ) from error


def model_folder(source, savedir=None):
    """The folder of a model; one of the hub is fetched.

    Arguments
    ---------
    source : str
        Folder or hub name.
    savedir : str, Path or None
        Where models of the hub are kept, each in a folder of its own; None is
        the hub's cache.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If there is neither.

    Example
    -------
    >>> model_folder(".")
    '.'
    """
    if Path(source).is_dir():
        return source
    target = Path(savedir) / source.replace("/", "--") if savedir else None
    with readable_source("model", source):
        return snapshot_download(source, local_dir=target)


def load_interface(kind, source, interface, interfaces, device="cpu"):
    """A pre-trained SpeechBrain model through one of SpeechBrain's classes.

    Arguments
    ---------
    kind : str
        What it serves as, for instance ``speech encoder``.
    source : str
        Folder or hub name.
    interface : str
        Name of the class.
    interfaces : dict
        The classes that can serve so, by name.
    device : str

    Returns
    -------
    speechbrain.inference.interfaces.Pretrained

    Raises
    ------
    ValueError
        If there is no such class, the model cannot be had, or it consists of
        other things than building blocks.

    Example
    -------
    >>> load_interface("speech encoder", "no/such", "VAD", {"EncoderASR": None})
    Traceback (most recent call last):
    ...
    ValueError: interface 'VAD' is no speech encoder: choose one of EncoderASR
    """
    if interface not in interfaces:
        raise ValueError(
            f"interface '{interface}' is no {kind}: choose one of "
            f"{', '.join(interfaces)}"
        )
    remedy = f"{REMEDY}, or choose another interface than {interface}"
    with readable_source(kind, source, remedy):
        return load_pretrained_blocks(
            interfaces[interface], source, run_opts={"device": device}
        )


def load_pretrained(modules, source):
    """Loads weights by SpeechBrain's Pretrainer.

    Arguments
    ---------
    modules : dict
        Module by name; its weights are ``<name>.ckpt``.
    source : str
        Folder or hub name.

    Raises
    ------
    ValueError
        If there are no such weights, or they do not fit.

    Example
    -------
    >>> import torch
    >>> load_pretrained({"encoder": torch.nn.Linear(1, 1)}, "no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder has no weights that can be loaded \
(HFValidationError: ...): give a folder or hub name with encoder.ckpt
    """
    pretrainer = Pretrainer(loadables=modules)
    try:
        with no_long_retries(source):
            pretrainer.collect_files(default_source=source)
            pretrainer.load_collected()
    except Exception as error:  # the hub client's errors have no one base
        names = ", ".join(f"{name}.ckpt" for name in modules)
        raise ValueError(
            f"{source} has no weights that can be loaded "
            f"({reason_of(error)}): give a folder or hub name with {names}"
        ) from error
