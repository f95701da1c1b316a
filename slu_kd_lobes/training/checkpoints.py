"""Checkpoints that are whole, and know what they were made from.

`WholeCheckpointer` works around two faults of SpeechBrain 1.1.2,
speechbrain/utils/checkpoints.py; it is not needed any more when
`_save_checkpoint_metafile` is called after the parameters are saved, and
`save_and_keep_only` copies its list `importance_keys`.
"""

import contextlib
import json
import shlex
import shutil
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import (
    METAFNAME,
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger

from slu_kd_lobes.utils.files import unused_name
from slu_kd_lobes.utils.fingerprints import check_made_from, file_fingerprint

logger = get_logger(__name__)

UNFINISHED = f"{METAFNAME}.unfinished"
CHECKSUMS = "CHECKSUMS.json"


class WholeCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer, safe against kills and damaged files.

    SpeechBrain knows a checkpoint by its meta file and writes that file
    first, so a process that is killed before the others are written leaves
    one that looks complete and cannot be loaded. Here the meta file gets its
    name last; what a kill leaves behind is left out, and removed by the next
    save. A checkpoint also holds the hashes of its files, and is refused when
    one has changed: a flipped bit would pass for a weight.

    Arguments
    ---------
    *args, **kwargs
        As for `speechbrain.utils.checkpoints.Checkpointer`.

    Raises
    ------
    ValueError
        When checkpoints are looked for and one is damaged.

    Example
    -------
    >>> import tempfile, torch
    >>> class Killed(torch.nn.Module):
    ...     def state_dict(self):
    ...         raise KeyboardInterrupt
    >>> checkpointer = WholeCheckpointer(tempfile.mkdtemp())
    >>> checkpointer.add_recoverable("model", torch.nn.Linear(1, 1))
    >>> _ = checkpointer.save_checkpoint(meta={"accuracy": 1.0})
    >>> checkpointer.add_recoverable("model", Killed())
    >>> try:
    ...     _ = checkpointer.save_checkpoint(meta={"accuracy": 2.0})
    ... except KeyboardInterrupt:
    ...     checkpointer.find_checkpoint().meta["accuracy"]
    1.0
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._intact = set()

    def save_checkpoint(self, *args, **kwargs):
        """Saves a checkpoint; see SpeechBrain's.

        Arguments
        ---------
        *args, **kwargs
            As for `Checkpointer.save_checkpoint`.

        Returns
        -------
        Checkpoint or None
            None on all processes but the main one.
        """
        if if_main_process():
            whole = self._list_checkpoint_dirs()
            for folder in self.checkpoints_dir.glob("CKPT+*/"):
                if folder not in whole:
                    shutil.rmtree(folder)
        checkpoint = super().save_checkpoint(*args, **kwargs)
        if checkpoint is not None:
            self.name_checkpoint(checkpoint)
        # Otherwise a process that does not see it yet deletes other ones than
        # the main process does, and they wait for each other forever.
        ddp_barrier()
        return checkpoint

    def name_checkpoint(self, checkpoint):
        """Gives the meta file of a complete checkpoint its name."""
        part = checkpoint.path / UNFINISHED
        sums = checksums(checkpoint.path)
        sums[METAFNAME] = sums.pop(UNFINISHED)
        (checkpoint.path / CHECKSUMS).write_text(json.dumps(sums))
        self._intact.add(checkpoint.path)
        part.replace(checkpoint.path / METAFNAME)

    def _list_checkpoint_dirs(self):
        folders = super()._list_checkpoint_dirs()
        return [folder for folder in folders if self._is_whole(folder)]

    def _is_whole(self, folder):
        """Whether all files of a checkpoint are there, each as it was saved."""
        if folder in self._intact:
            return True
        found, saved = checksums(folder), {}
        with contextlib.suppress(OSError, ValueError):
            saved = dict(json.loads((folder / CHECKSUMS).read_bytes()))
        lacking = saved.keys() - found.keys()
        if lacking or not (folder / CHECKSUMS).exists():
            lacking = ", ".join(sorted(lacking)) or CHECKSUMS
            logger.warning(f"{folder} is left out: it lacks {lacking}.")
            return False
        other = [name for name in found if found[name] != saved.get(name)]
        if other:
            raise ValueError(
                f"the checkpoint {folder} is damaged ({other[0]}): delete "
                f"{folder.parent}, and the same command starts again"
            )
        self._intact.add(folder)
        return True

    def save_and_keep_only(self, *args, importance_keys=(), **kwargs):
        """Saves a checkpoint and deletes others; see SpeechBrain's.

        There, every call appends to the default list of keys, and every key
        reads all checkpoints: the hundredth call in a process takes a hundred
        times as long as the first.

        Arguments
        ---------
        importance_keys : iterable of callable
        *args, **kwargs
            As for `Checkpointer.save_and_keep_only`.
        """
        keys = list(importance_keys)
        super().save_and_keep_only(*args, importance_keys=keys, **kwargs)

    def _save_checkpoint_metafile(self, fpath, *args, **kwargs):
        part = fpath.with_name(UNFINISHED)
        return super()._save_checkpoint_metafile(part, *args, **kwargs)


def checksums(folder):
    """Hash of each file of a checkpoint.

    Arguments
    ---------
    folder : Path

    Returns
    -------
    dict
        By name.
    """
    return {
        path.name: file_fingerprint(path)
        for path in folder.iterdir()
        if path.name != CHECKSUMS and path.is_file()
    }


@register_checkpoint_hooks
class MadeFrom:
    """Fingerprints of all that shapes a checkpoint; another one is refused.

    Arguments
    ---------
    made_from : dict
        Fingerprint of each source, by name.

    Example
    -------
    >>> path = getfixture("tmp_path") / "made_from"
    >>> MadeFrom({"encoder": "5f", "train data": "a0"}).save(path)
    >>> MadeFrom({"encoder": "5f", "train data": "b1"}).load(path, True)
    Traceback (most recent call last):
    ...
    ValueError: the run in ... was made from another train data: give \
--output_folder=..., or delete that folder
    """

    def __init__(self, made_from):
        self.made_from = dict(made_from)

    @mark_as_saver
    def save(self, path):
        """Writes the fingerprints.

        Arguments
        ---------
        path : str or Path
            File in the checkpoint.
        """
        Path(path).write_text(json.dumps(self.made_from), encoding="utf-8")

    @mark_as_loader
    def load(self, path, end_of_epoch):
        """Compares the fingerprints of a checkpoint with these.

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
        run = Path(path).resolve().parents[2]  # <run>/save/CKPT.../made_from
        what = f"the run in {run}"
        check_made_from(what, saved, self.made_from, beside(run))


def beside(run):
    """What to do when a run cannot go on: the words that end a message.

    Arguments
    ---------
    run : str or Path
        Its folder.

    Returns
    -------
    str

    Example
    -------
    >>> beside("no/such/run")
    'give --output_folder=no/such/run-2, or delete that folder'
    """
    option = shlex.quote(f"--output_folder={unused_name(run)}")
    return f"give {option}, or delete that folder"


@register_checkpoint_hooks
class RandomState:
    """Where random numbers go on, for training that no step seeds.

    Arguments
    ---------
    generator : torch.Generator
        One beside those of torch.

    Example
    -------
    >>> path = getfixture("tmp_path") / "random"
    >>> state = RandomState(torch.Generator())
    >>> state.save(path)
    >>> first = torch.rand(1)
    >>> state.load(path, True)
    >>> bool(torch.rand(1) == first)
    True
    """

    def __init__(self, generator):
        self.generator = generator

    @mark_as_saver
    def save(self, path):
        """Writes the states.

        Arguments
        ---------
        path : str or Path
            File in the checkpoint.
        """
        cuda = torch.cuda.is_available()
        state = {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if cuda else [],
            "generator": self.generator.get_state(),
        }
        torch.save(state, path)

    @mark_as_loader
    def load(self, path, end_of_epoch):
        """Goes on from the states of a checkpoint.

        Arguments
        ---------
        path : str or Path
            File in the checkpoint.
        end_of_epoch : bool
            Not used.
        """
        state = torch.load(path, weights_only=True)
        torch.set_rng_state(state["cpu"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])
        self.generator.set_state(state["generator"])


def check_origin(checkpointer, made_from, **recoverables):
    """Refuses to go on from checkpoints of another origin, before any work.

    Arguments
    ---------
    checkpointer : WholeCheckpointer
        Of the run.
    made_from : dict
        Fingerprints of all that shapes it.
    **recoverables
        What else refuses a checkpoint of another kind, such as a SlotSchema.

    Raises
    ------
    ValueError
        If the newest checkpoint is of another origin.
    """
    recoverables["made_from"] = MadeFrom(made_from)
    other = WholeCheckpointer(checkpointer.checkpoints_dir, recoverables)
    other._intact = checkpointer._intact  # to hash each only once
    other.recover_if_possible()
