"""Checkpoints that are never half-written, and pre-trained weights."""

from speechbrain.utils.checkpoints import METAFNAME, Checkpointer
from speechbrain.utils.distributed import ddp_barrier

from slu_kd_lobes.hub import no_long_retries, reason_of

UNFINISHED = f"{METAFNAME}.unfinished"


class WholeCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer, safe against a kill while it saves.

    SpeechBrain knows a checkpoint by its meta file and writes that file
    first, so a process that is killed before the others are written leaves
    one that looks complete and cannot be loaded. Here the meta file gets its
    name last, and what a kill leaves behind is ignored.

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


def load_pretrained(pretrainer, source):
    """Loads what a Pretrainer names from a folder or a hub repository.

    Arguments
    ---------
    pretrainer : speechbrain.utils.parameter_transfer.Pretrainer
        Its loadables are found as ``<name>.ckpt``.
    source : str
        Folder or hub name.

    Raises
    ------
    ValueError
        If there are no such weights, or they do not fit.

    Example
    -------
    >>> import torch
    >>> from speechbrain.utils.parameter_transfer import Pretrainer
    >>> pretrainer = Pretrainer(loadables={"encoder": torch.nn.Linear(1, 1)})
    >>> load_pretrained(pretrainer, "no/such/folder")
    Traceback (most recent call last):
    ...
    ValueError: no/such/folder has no weights that can be loaded \
(HFValidationError: ...): give a folder or hub name with encoder.ckpt
    """
    try:
        with no_long_retries(source):
            pretrainer.collect_files(default_source=source)
            pretrainer.load_collected()
    except Exception as error:  # the hub client's errors have no one base
        names = ", ".join(f"{name}.ckpt" for name in pretrainer.loadables)
        raise ValueError(
            f"{source} has no weights that can be loaded "
            f"({reason_of(error)}): give a folder or hub name with {names}"
        ) from error
