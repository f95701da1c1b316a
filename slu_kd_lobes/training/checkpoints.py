"""Checkpoints that are never half-written, and know what they were made from.

`WholeCheckpointer` works around two faults of SpeechBrain 1.1.2,
speechbrain/utils/checkpoints.py; it is not needed any more when
`_save_checkpoint_metafile` is called after the parameters are saved, and
`save_and_keep_only` copies its list `importance_keys`.
"""

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

from slu_kd_lobes.utils.files import unused_name
from slu_kd_lobes.utils.fingerprints import check_made_from

UNFINISHED = f"{METAFNAME}.unfinished"


class WholeCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer, safe against a kill while it saves.

    SpeechBrain knows a checkpoint by its meta file and writes that file
    first, so a process that is killed before the others are written leaves
    one that looks complete and cannot be loaded. Here the meta file gets its
    name last; what a kill leaves behind is ignored, and removed by the next
    save.

    Arguments
    ---------
    *args, **kwargs
        As for `speechbrain.utils.checkpoints.Checkpointer`.

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
            for folder in self.checkpoints_dir.glob("CKPT+*/"):
                if not (folder / METAFNAME).is_file():
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
        part.replace(checkpoint.path / METAFNAME)

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
    checkpointer : speechbrain.utils.checkpoints.Checkpointer
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
    folder = checkpointer.checkpoints_dir
    Checkpointer(folder, recoverables).recover_if_possible()
