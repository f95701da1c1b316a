"""A matrix of runs: systems x conditions x draws x seeds, from a YAML file.

.. code-block:: yaml

    title: Shortage of speech
    reference: baseline       # the system that the others are tested against
    seeds: [1]
    conditions:               # overrides of every system; `draws` is a number
      10 %: {train_fraction: 0.1, draws: 5, number_of_epochs: 100}
    systems:                  # or a list of names
      baseline: {paper: {10 %: 2.1}}
      KL 0.5, T 2: {conditions: [10 %]}

What a system is stands in ``systems.yaml`` beside the matrices, so that it has
one name in all of them:

.. code-block:: yaml

    baseline: {config: hparams/baseline.yaml}
    KL 0.5, T 2:
      config: hparams/distill_teacher_mse_b05.yaml
      overrides: {kd_distance: kl, kd_temperature: 2.0}

A matrix may also define a system of its own in this way. Overrides are what
would stand on the command line: text is given as it is. What must be trained
before a system is its ``first``; ``<first>`` stands for its folder:

.. code-block:: yaml

    aligned, typed wordings:
      script: typed_commands.py
      config: hparams/typed_commands.yaml
      overrides: {alignment: <first>}
      first: {script: align.py, config: hparams/glob.yaml}
"""

import difflib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import get_args

from slu_kd_lobes.experiments.corpora import HOLDING_OUT
from slu_kd_lobes.training.hparams import parse_yaml

#: Names the systems for all matrices of a folder.
SYSTEMS_FILE = "systems.yaml"

#: What defines a system, and what a matrix says of it.
FIRST = {"config": str, "overrides": dict, "script": str}
DEFINITION = {**FIRST, "first": dict}
PLACE = {"conditions": list, "paper": dict}

#: What describes the corpus of a condition; its other keys are overrides.
CONDITION = dict(draws=int, seeds=list, noise=dict, csv_folder=str)
CONDITION |= dict(held_out=float, unspoken=int, first=dict)
NOISE = {"levels": list, "split": str}
KINDS = {
    str: "text (in quotes)",
    dict: "keys and values",
    list: "a list such as [a, b]",
    bool: "True or False",
    int: "a whole number from 1",
    float: "a share such as 0.2",
}


@dataclass
class Matrix:
    """What a YAML file declares.

    Arguments
    ---------
    title : str
    systems : dict
        By name: ``config``; perhaps ``overrides`` and ``script`` (by
        default the first of the recipe); perhaps ``first``, the same of what
        is trained before; perhaps ``conditions`` (where it runs;
        everywhere by default) and ``paper``, the error that a paper reports,
        by condition.
    conditions : dict
        By name: overrides, and perhaps ``draws`` (how many), ``seeds``, and
        ``noise`` with a test ``split`` and ``levels``, signal-to-noise ratios
        in dB and ``room``: copies of it under these are further test sets.
        ``held_out`` is a share of the wordings, others in each draw, that
        training lacks; validation and the test set ``held_out_test`` have them.
        ``unspoken`` is a number of intents, others in each draw, that only test
        sets speak: ``unspoken_test`` and ``typed_test``, not ``spoken_test``.
        ``first`` has overrides of what systems train first.
    reference : str
        The system that the others are tested against.
    seeds : list of int
    name : str
        Of the file.
    overrides : dict
        Of every run.
    variables : dict
        Texts that stand for ``<name>`` in overrides, and can be replaced.
    tests : list
        The test sets that are shown, or ``valid``, to choose on; without any,
        all test sets.
    breakdown : bool
        Whether errors are shown by slot, speaker and length as well.
    about : str
        What the reader should know.
    """

    title: str
    systems: dict | list
    conditions: dict
    reference: str
    seeds: list
    name: str
    overrides: dict = field(default_factory=dict)
    variables: dict = field(default_factory=dict)
    tests: list = field(default_factory=list)
    breakdown: bool = False
    about: str = ""


def _check(content, known, source, others=False):
    """Refuses keys that are unknown, and values of another kind."""
    if not isinstance(content, dict):
        raise ValueError(f"{source} must consist of 'key: value'")
    for key, value in content.items():
        if key not in known:
            if others:
                continue
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else ", ".join(known)
            raise ValueError(f"{source}: there is no key '{key}'; {hint}")
        kinds = get_args(known[key]) or (known[key],)
        fits = isinstance(value, kinds) and value != []
        if not fits or (kinds == (int,) and value < 1):
            wanted = " or ".join(KINDS[kind] for kind in kinds)
            raise ValueError(f"{source}: '{key}' is {value!r}: give {wanted}")


def _check_names(names, source):
    """Refuses what YAML does not read as text: it would be another name."""
    for name in names:
        if not isinstance(name, str):
            raise ValueError(
                f"{source}: the name {name!r} is no text: put it in quotes"
            )


def _read_yaml(path):
    return parse_yaml(path.read_text(encoding="utf-8"), path)


def read_systems(folder):
    """The systems that all matrices of a folder can name.

    Arguments
    ---------
    folder : str or Path
        With ``systems.yaml``, or without.

    Returns
    -------
    dict
        Their definitions, by name.

    Raises
    ------
    ValueError
        If something in the file is wrong.
    """
    path = Path(folder) / SYSTEMS_FILE
    if not path.is_file():
        return {}
    systems = _read_yaml(path) or {}
    if not isinstance(systems, dict):
        raise ValueError(f"{path} must consist of 'name: definition'")
    _check_names(systems, path)
    for name, facts in systems.items():
        _check(facts, DEFINITION, f"{path}: system '{name}'")
        if "config" not in facts:
            raise ValueError(f"{path}: system '{name}' has no config")
        _check_first(facts, f"{path}: system '{name}'")
    return systems


def _check_first(facts, source):
    """Refuses a wrong definition of what a system trains first."""
    if "first" in facts:
        _check(facts["first"], FIRST, f"{source}: first")
        if "config" not in facts["first"]:
            raise ValueError(f"{source}: first has no config")


def _defined(name, facts, systems, path):
    """A system of a matrix, with its definition from wherever it stands."""
    source = f"{path}: system '{name}'"
    facts = {} if facts is None else facts
    _check(facts, {**DEFINITION, **PLACE}, source)
    defining = [key for key in DEFINITION if key in facts]
    if name in systems:
        if defining:
            raise ValueError(
                f"{source} has the key '{defining[0]}', and {SYSTEMS_FILE} says "
                "what it is: choose another name, or leave the key out"
            )
        return {**systems[name], **facts}
    if "config" not in facts:
        near = difflib.get_close_matches(str(name), systems, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(
            f"{source} has no config, and {SYSTEMS_FILE} has no such name{hint}"
        )
    _check_first(facts, source)
    return facts


def read_matrix(path):
    """Reads and checks a YAML file.

    Arguments
    ---------
    path : str or Path
        The names of its systems are looked up in ``systems.yaml`` beside it.

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
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "systems.yaml").write_text(
    ...     "baseline: {config: hparams/baseline.yaml}\\n"
    ... )
    >>> _ = (folder / "tiny.yaml").write_text(
    ...     "title: Tiny\\nreference: baseline\\nseeds: [1, 2]\\n"
    ...     "conditions: {all: {}}\\nsystems: [baseline]\\n"
    ... )
    >>> read_matrix(folder / "tiny.yaml").systems
    {'baseline': {'config': 'hparams/baseline.yaml'}}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no matrix of runs {path}")
    content = _read_yaml(path)
    keys = {key.name: key for key in fields(Matrix) if key.name != "name"}
    _check(content, {name: key.type for name, key in keys.items()}, path)
    for name, key in keys.items():
        optional = (key.default, key.default_factory) != (MISSING, MISSING)
        if not (optional or content.get(name)):
            raise ValueError(f"{path}: the key '{name}' is missing or empty")
    matrix = Matrix(**content, name=path.stem)
    for names in (matrix.systems, matrix.conditions, matrix.tests):
        _check_names(names, path)
    if isinstance(matrix.systems, list):
        matrix.systems = dict.fromkeys(matrix.systems)
    for name, facts in matrix.conditions.items():
        source = f"{path}: condition '{name}'"
        matrix.conditions[name] = facts = facts or {}
        _check(facts, CONDITION, source, others=True)
        if "noise" in facts:
            _check(facts["noise"], NOISE, source)
            for key in NOISE.keys() - facts["noise"].keys():
                raise ValueError(f"{source}: noise has no {key}")
        if HOLDING_OUT.keys() <= facts.keys():
            keys = " and ".join(HOLDING_OUT)
            raise ValueError(f"{source} has {keys}: leave one of them out")
    systems = read_systems(path.parent)
    for name, facts in matrix.systems.items():
        matrix.systems[name] = facts = _defined(name, facts, systems, path)
        for key in PLACE:
            for condition in facts.get(key, []):
                if condition not in matrix.conditions:
                    raise ValueError(
                        f"{path}: {key} of system '{name}': there is no "
                        f"condition '{condition}'; there are "
                        f"{', '.join(matrix.conditions)}"
                    )
    if matrix.reference not in matrix.systems:
        raise ValueError(
            f"{path}: the reference '{matrix.reference}' is not a system; "
            f"there are {', '.join(matrix.systems)}"
        )
    return matrix


def check_tests(matrix, sets):
    """Refuses a test set that no run of a matrix has.

    Arguments
    ---------
    matrix : Matrix
    sets : set of str
        Of its runs; empty where none is there.

    Raises
    ------
    ValueError
        If one of `matrix.tests` is not among them.
    """
    sets = sorted(sets - {"train"})
    for name in matrix.tests:
        if sets and name not in sets:
            raise ValueError(
                f"{matrix.name}.yaml: tests: no condition has a set '{name}'; "
                f"there are {', '.join(sets)}"
            )
