"""A matrix of runs: systems x conditions x draws x seeds, from a YAML file.

.. code-block:: yaml

    title: Shortage of speech
    reference: no KD          # the system that the others are tested against
    seeds: [1]
    conditions:               # overrides of every system; `draws` is a number
      10 %: {train_fraction: 0.1, draws: 5, number_of_epochs: 100}
    systems:
      no KD: {config: hparams/baseline.yaml}
      KL: {config: hparams/distill_teacher_mse_b05.yaml,
           overrides: {kd_distance: "!new:slu_kd_lobes.losses.KLDistance"},
           paper: {10 %: 2.1}}

Overrides are what would stand on the command line: text is given as it is.
"""

import difflib
import logging
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from slu_kd_lobes.experiments.noise import noisy_corpus
from slu_kd_lobes.experiments.wordings import hold_out_wordings
from slu_kd_lobes.features import sha256

logger = logging.getLogger(__name__)

#: Keys that shape the manifests; runs with the same share one folder.
DATA_KEYS = (
    "data_folder",
    "csv_folder",
    "slots",
    "slot_values",
    "test_splits",
    "train_fraction",
    "subset_seed",
    "sample_rate",
)


@dataclass(frozen=True)
class Run:
    """One cell's run: what is typed, and where it stands in the matrix."""

    system: str
    condition: str
    draw: int
    seed: int
    script: str
    arguments: tuple
    manifests: str  # name of the folder of the manifests


@dataclass
class Matrix:
    """What a YAML file declares.

    Arguments
    ---------
    title : str
    systems : dict
        By name: ``config``, and perhaps ``overrides``, ``script`` (of the
        recipe; ``train.py`` by default), ``conditions`` (where it runs;
        everywhere by default) and ``paper``, the error that a paper reports,
        by condition.
    conditions : dict
        By name: overrides, and perhaps ``draws`` (how many), ``seeds``, and
        ``noise`` with a test ``split`` and ``levels``, signal-to-noise ratios
        in dB and ``room``: copies of it under these are further test sets.
        ``held_out`` is a share of the wordings, others in each draw, that
        training lacks; validation and the test set ``held_out_test`` have them.
    reference : str
        The system that the others are tested against.
    seeds : list of int
    overrides : dict
        Of every run.
    variables : dict
        Texts that stand for ``<name>`` in overrides, and can be replaced.
    tests : list or None
        The test sets that are shown, or ``valid``, to choose on; None shows
        all test sets.
    breakdown : bool
        Whether errors are shown by slot, speaker and length as well.
    about : str
        What the reader should know.
    name : str
        Of the file.
    """

    title: str
    systems: dict
    conditions: dict
    reference: str
    seeds: list
    overrides: dict
    variables: dict
    tests: list
    breakdown: bool
    about: str
    name: str


def as_argument(key, value):
    """An override as it stands on a command line.

    Example
    -------
    >>> as_argument("lr", 0.1), as_argument("teachers", ["teacher"])
    ('--lr=0.1', '--teachers=[teacher]')
    >>> as_argument("ce_loss", {"label_smoothing": 0.1})
    '--ce_loss={label_smoothing: 0.1}'
    """
    if not isinstance(value, str):
        value = yaml.safe_dump(value, default_flow_style=True, width=10**6)
        value = value.removesuffix("\n").removesuffix("\n...")
    return f"--{key}={value}"


def _check_keys(content, known, place):
    if not isinstance(content, dict):
        raise ValueError(f"{place} must consist of 'key: value'")
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else ", ".join(known)
            raise ValueError(f"{place}: there is no key '{key}'; {hint}")


def read_matrix(path):
    """Reads and checks a YAML file.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    Matrix

    Raises
    ------
    FileNotFoundError
        If it is missing.
    ValueError
        If something in it is wrong.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tiny.yaml"
    >>> _ = path.write_text(
    ...     "title: A\\nreference: a\\nseeds: [1, 2]\\n"
    ...     "conditions: {all: {}}\\n"
    ...     "systems: {a: {config: hparams/baseline.yaml}}\\n"
    ... )
    >>> len(runs_of(read_matrix(path), "my_corpus"))
    2
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no matrix of runs {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not valid YAML: {reason}") from error
    defaults = {
        "overrides": {},
        "variables": {},
        "tests": None,
        "breakdown": False,
        "about": "",
        "name": path.stem,
    }
    required = ("title", "systems", "conditions", "reference", "seeds")
    _check_keys(content, (*required, *list(defaults)[:-1]), path)
    for key in required:
        if not content.get(key):
            raise ValueError(f"{path}: the key '{key}' is missing or empty")
    matrix = Matrix(**{**defaults, **content})
    for name, system in matrix.systems.items():
        known = ("config", "overrides", "script", "conditions", "paper")
        _check_keys(system, known, f"{path}: system '{name}'")
        if "config" not in system:
            raise ValueError(f"{path}: system '{name}' has no config")
        for key in ("conditions", "paper"):
            for condition in system.get(key, []):
                if condition not in matrix.conditions:
                    raise ValueError(
                        f"{path}: {key} of system '{name}': there is no "
                        f"condition '{condition}'; there are "
                        f"{', '.join(matrix.conditions)}"
                    )
    for name, condition in matrix.conditions.items():
        noise = condition.get("noise", {})
        _check_keys(noise, ("levels", "split"), f"{path}: noise of '{name}'")
    if matrix.reference not in matrix.systems:
        raise ValueError(
            f"{path}: the reference '{matrix.reference}' is not a system; "
            f"there are {', '.join(matrix.systems)}"
        )
    return matrix


def runs_of(matrix, data_folder, csv_folder=None, overrides=None, made=None):
    """Every run of a matrix.

    Arguments
    ---------
    matrix : Matrix
    data_folder : str
        The corpus. A relative ``csv_folder`` of a condition lies in it.
    csv_folder : str or None
        CSV files of conditions that name none.
    overrides : dict or None
        Of all runs, or variables of the matrix; they win.
    made : str or Path or None
        Where corpora with noisy test sets and held-out wordings go.

    Returns
    -------
    list of Run
        Its arguments lack the output folder. A condition whose ``csv_folder``
        the corpus lacks has none.
    """
    runs, overrides = [], dict(overrides or {})
    variables = {
        name: overrides.pop(name, text)
        for name, text in matrix.variables.items()
    }
    for name, condition in matrix.conditions.items():
        condition = dict(condition)
        draws = range(condition.pop("draws", 1))
        seeds = condition.pop("seeds", matrix.seeds)
        systems = [
            system
            for system, facts in matrix.systems.items()
            if name in facts.get("conditions", matrix.conditions)
        ]
        own = condition.pop("csv_folder", None)
        if own and not (Path(data_folder) / own).is_dir():
            logger.warning(
                f"'{name}' is left out: no folder {own} in the corpus"
            )
            continue
        place = data_folder, Path(data_folder) / own if own else csv_folder
        noise = condition.pop("noise", None)
        if noise:
            folder = Path(made) / "noisy"
            place = noisy_corpus(
                *place, noise["levels"], noise["split"], folder
            )
        held_out = condition.pop("held_out", None)
        places = dict.fromkeys(draws, place)
        if held_out is not None:
            slots = overrides.get("slots", matrix.overrides.get("slots"))
            for draw in draws:
                csvs = hold_out_wordings(
                    *place,
                    _slots(slots),
                    held_out,
                    draw,
                    Path(made) / "held_out",
                )
                places[draw] = place[0], csvs
        for system, draw, seed in product(systems, draws, seeds):
            facts = matrix.systems[system]
            own = zip(("data_folder", "csv_folder"), places[draw])
            condition |= {k: str(v) for k, v in own if v is not None}
            keys = {
                **matrix.overrides,
                **condition,
                **facts.get("overrides", {}),
                "subset_seed": draw,
                "seed": seed,
                **overrides,
            }
            for variable, text in variables.items():
                for key, value in keys.items():
                    if isinstance(value, str):
                        keys[key] = value.replace(f"<{variable}>", text)
            shared = {key: keys[key] for key in DATA_KEYS if key in keys}
            arguments = [facts["config"], f"--config={_word(system)}"]
            arguments += [as_argument(*item) for item in keys.items()]
            folder = sha256(str(shared).encode())[:12]
            runs.append(
                Run(
                    system,
                    name,
                    draw,
                    seed,
                    facts.get("script", "train.py"),
                    tuple(arguments),
                    folder,
                )
            )
    return runs


def check_tests(matrix, folders):
    """Refuses a test set that no run of a matrix has.

    Arguments
    ---------
    matrix : Matrix
    folders : list of Path
        Of the manifests of its runs.

    Raises
    ------
    ValueError
        If one of `matrix.tests` is in none of the folders.
    """
    sets = sorted(
        {p.stem for folder in folders for p in Path(folder).glob("*.csv")}
        - {"train"}
    )
    for name in matrix.tests or []:
        if sets and name not in sets:
            raise ValueError(
                f"{matrix.name}.yaml: tests: no condition has a set '{name}'; "
                f"there are {', '.join(sets)}"
            )


def _slots(given):
    """Names of the slots, of a list or of its text on a command line.

    Example
    -------
    >>> _slots("[drink, size]"), _slots(None)
    (['drink', 'size'], ['action', 'object', 'location'])
    """
    if isinstance(given, str):
        given = yaml.safe_load(given)
    return given or ["action", "object", "location"]


def _word(name):
    """A name as one word, for a folder.

    Example
    -------
    >>> _word("MSE, β = 0.5")
    'MSE_0.5'
    """
    kept = "".join(
        c if c.isascii() and c.isalnum() or c in "._-" else " " for c in name
    )
    return "_".join(kept.split())
