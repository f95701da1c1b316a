"""How a run went, kept in its checkpoints."""

import json
from pathlib import Path
from statistics import fmean

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)


@register_checkpoint_hooks
class TrainingHistory:
    """Statistics of every epoch; a resumed run goes on where it was.

    Attributes
    ----------
    epochs : list of dict
        Statistics of each finished epoch.
    sums : dict
        Of the epoch that goes on: (sum, count) of each term.

    Example
    -------
    >>> history = TrainingHistory()
    >>> history.epochs.append({"epoch": 1, "ce": 0.5})
    >>> history.column("ce")
    ([1], [0.5])
    """

    def __init__(self):
        self.epochs = []
        self.sums = {}

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

    def still_learning(self):
        """Whether training ended too early.

        Returns
        -------
        bool
            True if the training error is above 5 % in the last epochs, and it
            or the cross entropy fell by 5 % within the last third.

        Example
        -------
        >>> history = TrainingHistory()
        >>> for epoch, error in enumerate([80.0, 60.0, 50.0, 40.0]):
        ...     history.epochs.append({"epoch": epoch, "train_error": error})
        >>> history.still_learning()
        True
        """
        means = {}
        for name in ("train_error", "train_ce"):
            values = self.column(name)[1]
            last = values[-max(2, len(values) // 3) :]
            half = len(last) // 2
            if half:
                means[name] = fmean(last[:-half]), fmean(last[-half:])
        if "train_error" not in means or means["train_error"][1] <= 5:
            return False
        return any(now < 0.95 * before for before, now in means.values())

    @mark_as_saver
    def save(self, path):
        """Writes the statistics.

        Arguments
        ---------
        path : str or Path
            File in the checkpoint.
        """
        sums = {name: (float(s), n) for name, (s, n) in self.sums.items()}
        content = {"epochs": self.epochs, "sums": sums}
        Path(path).write_text(json.dumps(content), encoding="utf-8")

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
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        self.epochs = content["epochs"]
        self.sums = {k: tuple(pair) for k, pair in content["sums"].items()}
