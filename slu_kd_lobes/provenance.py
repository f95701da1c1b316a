"""What a run was made from and how it went, kept in its checkpoints."""

import json
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)


@register_checkpoint_hooks
class Provenance:
    """Hashes of all that shapes a checkpoint; another checkpoint is refused.

    Arguments
    ---------
    sources : dict
        Hash of each source, by name.

    Example
    -------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/provenance"
    >>> Provenance({"encoder": "5f", "train": "a0"}).save(path)
    >>> Provenance({"encoder": "5f", "train": "b1"}).load(path, True)
    Traceback (most recent call last):
    ...
    ValueError: the checkpoint .../provenance was made from another train: \
choose another --output_folder, or delete the checkpoints
    """

    def __init__(self, sources):
        self.sources = dict(sources)

    @mark_as_saver
    def save(self, path):
        """Writes the hashes.

        Arguments
        ---------
        path : str or Path
            File in the checkpoint.
        """
        Path(path).write_text(json.dumps(self.sources), encoding="utf-8")

    @mark_as_loader
    def load(self, path, end_of_epoch):
        """Compares the hashes of a checkpoint with these.

        Arguments
        ---------
        path : str or Path
            File in the checkpoint.
        end_of_epoch : bool
            Not used.

        Raises
        ------
        ValueError
            If one differs.
        """
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        keys = sorted(saved.keys() | self.sources.keys())
        other = [k for k in keys if saved.get(k) != self.sources.get(k)]
        if other:
            raise ValueError(
                f"the checkpoint {path} was made from another "
                f"{', '.join(other)}: choose another --output_folder, or "
                "delete the checkpoints"
            )


@register_checkpoint_hooks
class TrainingHistory:
    """Statistics of every epoch; a resumed run goes on where it was.

    Example
    -------
    >>> history = TrainingHistory()
    >>> history.epochs.append({"epoch": 1, "ce": 0.5})
    >>> history.column("ce")
    ([1], [0.5])
    """

    def __init__(self):
        self.epochs = []

    def column(self, name):
        """One statistic in the epochs that have it.

        Arguments
        ---------
        name : str
            Name of the statistic.

        Returns
        -------
        epochs : list of int
        values : list of float
        """
        rows = [row for row in self.epochs if name in row]
        return [row["epoch"] for row in rows], [row[name] for row in rows]

    @mark_as_saver
    def save(self, path):
        """Writes the statistics.

        Arguments
        ---------
        path : str or Path
            File in the checkpoint.
        """
        Path(path).write_text(json.dumps(self.epochs), encoding="utf-8")

    @mark_as_loader
    def load(self, path, end_of_epoch):
        """Reads the statistics.

        Arguments
        ---------
        path : str or Path
            File in the checkpoint.
        end_of_epoch : bool
            Not used.
        """
        self.epochs = json.loads(Path(path).read_text(encoding="utf-8"))


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
    here = Path(__file__).resolve().parent
    try:
        commit, changes = (
            subprocess.run(
                ["git", *arguments],
                cwd=here,
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
