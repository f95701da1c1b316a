"""The runs of a matrix: what is typed for each."""

import logging
import os
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from slu_kd_lobes.experiments.corpora import HOLDING_OUT, noisy_corpus
from slu_kd_lobes.training.hparams import parse_yaml
from slu_kd_lobes.utils.command_line import typed

logger = logging.getLogger(__name__)

#: The slots of a matrix that names none.
SLOTS = ["action", "object", "location"]


@dataclass(frozen=True)
class Run:
    """One run of a matrix: what is typed, and where it stands in the matrix.

    Arguments
    ---------
    system, condition : str
    draw, seed : int
    script : str or None
        Of the recipe; None is its first one.
    config : str
        The configuration, relative to the recipe.
    overrides : dict
        Typed text by key. ``<first>`` in it is the folder of `first`.
    first : Run or None
        What must have been trained.
    """

    system: str
    condition: str
    draw: int
    seed: int
    script: str
    config: str
    overrides: dict
    first: "Run | None" = None


def runs_of(matrix, data_folder, csv_folder=None, overrides=None, made=None):
    """Every run of a matrix.

    Arguments
    ---------
    matrix : slu_kd_lobes.experiments.matrix.Matrix
    data_folder : str
        The corpus. A relative ``csv_folder`` of a condition lies in it.
    csv_folder : str or None
        CSV files of conditions that name none.
    overrides : dict or None
        Of all runs, or variables of the matrix; they win.
    made : str or Path or None
        Where corpora with noisy test sets and held-out parts go.

    Returns
    -------
    list of Run
        A condition whose ``csv_folder`` the corpus lacks has none.
    """
    runs, overrides = [], dict(overrides or {})
    variables = {
        name: typed(overrides.pop(name, value))
        for name, value in matrix.variables.items()
    }
    keys = {"slots": SLOTS, **matrix.overrides, **overrides}
    slots = parse_yaml(typed(keys["slots"]), "slots")
    for name, condition in matrix.conditions.items():
        condition = dict(condition)
        draws = range(condition.pop("draws", 1))
        seeds = condition.pop("seeds", matrix.seeds)
        before = condition.pop("first", {})
        corpora = _corpora(
            name, condition, draws, data_folder, csv_folder, slots, made
        )
        if corpora is None:
            continue
        for system, draw, seed in product(matrix.systems, draws, seeds):
            facts = matrix.systems[system]
            if name not in facts.get("conditions", matrix.conditions):
                continue
            keys = {
                "config": "_".join(re.findall(r"[A-Za-z0-9._-]+", system)),
                **matrix.overrides,
                **condition,
                **facts.get("overrides", {}),
                **corpora[draw],
                "subset_seed": draw,
                "seed": seed,
                **overrides,
            }
            place = system, name, draw, seed
            first = facts.get("first")
            if first is not None:
                corpus = {"csv_folder": Path(data_folder) / "data"}
                corpus |= corpora[draw]
                places = {k: os.path.abspath(v) for k, v in corpus.items()}
                known = {**variables, **places}
                given = {**first.get("overrides", {}), **before, "seed": seed}
                script = first.get("script"), first["config"]
                first = Run(*place, *script, _texts(given, known))
            script = facts.get("script"), facts["config"]
            runs.append(Run(*place, *script, _texts(keys, variables), first))
    return runs


def _texts(overrides, variables):
    """Overrides as typed text, with what stands for the variables."""
    return {k: typed(_filled(v, variables)) for k, v in overrides.items()}


def _filled(value, variables):
    """A value with variables replaced in all its texts."""
    if isinstance(value, dict):
        return {k: _filled(part, variables) for k, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, variables) for part in value]
    if isinstance(value, str):
        for name, text in variables.items():
            value = value.replace(f"<{name}>", str(text))
    return value


def _corpora(name, condition, draws, data_folder, csv_folder, slots, made):
    """Overrides by draw: where a condition's corpus is.

    What describes it is taken out of the condition. None where the corpus
    lacks the CSV files.
    """
    splits = condition.pop("csv_folder", None)
    noise = condition.pop("noise", None)
    held = {k: condition.pop(k) for k in HOLDING_OUT if k in condition}
    if splits:
        csv_folder = Path(data_folder) / splits
        if not csv_folder.is_dir():
            logger.warning(f"'{name}' is left out: the corpus has no {splits}")
            return None
    if noise:
        folder = Path(made) / "noisy"
        data_folder, csv_folder = noisy_corpus(
            data_folder, csv_folder, noise["levels"], noise["split"], folder
        )
    corpora = {}
    for draw in draws:
        corpora[draw] = {"data_folder": str(data_folder)}
        csvs = csv_folder
        for key, amount in held.items():
            chosen = slots, amount, draw, Path(made) / key
            csvs = HOLDING_OUT[key](data_folder, csv_folder, *chosen)
        if csvs is not None:
            corpora[draw]["csv_folder"] = str(csvs)
    return corpora
