"""Configurations: one complete YAML, and short ones that replace its values.

A short file names the complete one (``base: base.yaml``, relative to itself)
and gives other values for some of its keys; so does the command line.
"""

import difflib
import io
import logging
import os
from functools import partial
from inspect import isclass, signature
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean

from slu_kd_lobes.training.ranges import check_range, is_number

# A run draws without torchvision; SpeechBrain would say that it cannot.
logging.getLogger("speechbrain.utils.train_logger").addFilter(
    lambda record: "torchvision" not in record.getMessage()
)

COMMAND_LINE = "command line"

#: Tag of a key whose value is what another key names on a menu.
CHOICE = "!apply:operator.getitem"


def _yaml():
    yaml = YAML()  # round trip: keeps tags, order and comments
    yaml.width = 4096
    return yaml


def parse_yaml(text, source):
    """What YAML 1.2 says, with its tags; ``no`` and ``12:30`` are text.

    Arguments
    ---------
    text : str
    source : str or Path
        Where it stands, for the message.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If it is no YAML.

    Example
    -------
    >>> parse_yaml("[on, 012]", "a.yaml")
    ['on', 12]
    """
    try:
        return _yaml().load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(
            f"{source} is not valid YAML{line}: {reason}"
        ) from error


def _mapping(text, source):
    content = parse_yaml(text, source)
    if not isinstance(content, CommentedMap):
        raise ValueError(f"{source} must consist of lines 'key: value'")
    return content


def _read(path):
    return _mapping(path.read_text(encoding="utf-8"), path)


def _tag(value):
    return getattr(getattr(value, "tag", None), "value", None)


def _is_text(default):
    """Whether a key takes text: a name, a path, or nothing so far."""
    tag = str(_tag(default) or "")
    is_plain = isinstance(default, str) and not isinstance(
        default, TaggedScalar
    )
    tags = ("!apply:", "!ref", "!PLACEHOLDER")
    return default is None or is_plain or tag.startswith(tags)


def typed_value(key, text, default):
    """What a text on the command line stands for.

    Arguments
    ---------
    key : str
    text : str
        As it was typed.
    default
        The value of the key in the complete YAML, which says of what kind the
        new one must be. For names and paths the text is used as it is;
        ``null`` is None.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If it is of another kind.

    Example
    -------
    >>> typed_value("data_folder", "My Corpus #2", "data")
    'My Corpus #2'
    >>> typed_value("output_folder", "20240101", "results")
    '20240101'
    >>> typed_value("lr", "1e-3", 0.1)
    0.001
    >>> typed_value("lr", "fast", 0.1)
    Traceback (most recent call last):
    ...
    ValueError: command line: 'lr' must be a number, as 0.1 is; it is 'fast'
    """
    if text == "null":
        return None
    if is_number(key) or not _is_text(default):
        value = parse_yaml(text, f"{COMMAND_LINE}: '{key}'")
    elif _may_be_list(key, text, default):
        value = parse_yaml(text, f"{COMMAND_LINE}: '{key}'")
    else:
        # HyperPyYAML would look for a key of that name, or make a tuple.
        if "<" in text and ">" in text or text[:1] + text[-1:] == "()":
            raise ValueError(
                f"{COMMAND_LINE}: '{key}' cannot hold both < and >, or begin "
                f"with ( and end with ), as {text!r} does: choose another name"
            )
        value = text
    check_kind(key, value, default, COMMAND_LINE)
    return value


def _may_be_list(key, text, default):
    """Whether a key that holds nothing so far gets a list or a mapping."""
    brackets = text[:1] + text[-1:] in ("[]", "{}")
    return default is None and brackets and not key.endswith("_folder")


def check_kind(key, value, default, source):
    """Refuses a word where the complete YAML has a number, and the like.

    Arguments
    ---------
    key : str
    value, default
        New and old value, as ruamel.yaml gives them.
    source : str
        Where the new one stands, for the message.

    Raises
    ------
    ValueError
        If they are of different kinds.
    """
    is_list = isinstance(default, CommentedSeq) and not _tag(default)
    is_section = isinstance(default, CommentedMap) and not _tag(default)
    needed = is_list or is_section or str(_tag(default)).startswith("!name:")
    if _tag(value) or (value is None and not needed):
        return
    wanted = None
    if _tag(default) == CHOICE:
        wanted = f"left as it is: '{default[1].value.strip('<>')}' chooses it"
    elif str(_tag(default)).startswith(("!new:", "!name:")):
        if not isinstance(value, dict):
            wanted = f"an object, as {_tag(default)} is, or its arguments"
    elif isinstance(default, (bool, ScalarBoolean)):
        if not isinstance(value, (bool, ScalarBoolean)):
            wanted = f"True or False, as {bool(default)} is"
    elif isinstance(default, (int, float)):
        is_bool = isinstance(value, (bool, ScalarBoolean))
        if not isinstance(value, (int, float)) or is_bool:
            wanted = f"a number, as {default} is"
    elif is_list:
        if not isinstance(value, list):
            wanted = f"a list such as [{value}]"
        elif default:
            for number, item in enumerate(value, 1):
                if item is None:
                    raise ValueError(f"{source}: '{key}, {number}' is null")
                check_kind(f"{key}, {number}", item, default[0], source)
    elif isinstance(default, CommentedMap) and not isinstance(value, dict):
        first = next(iter(default), "key")
        wanted = f"keys and values such as {{{first}: ...}}"
    elif _is_text(default) and default is not None:
        if not isinstance(value, str):
            wanted = f"text (in quotes where YAML needs them: '{value}')"
    if wanted:
        raise ValueError(
            f"{source}: '{key}' must be {wanted}; it is {str(value)!r}"
        )


def _check_ranges(tree, source_of, place=""):
    """Checks all that has no tag: what a tag gives is not known yet."""
    for name, value in tree.items():
        key = f"{place}{name}"
        if isinstance(value, dict):
            _check_ranges(value, source_of, f"{key}.")
        elif not _tag(value) and not isinstance(value, (bool, ScalarBoolean)):
            check_range(key, value, source_of(key))


def _check_keys(keys, base, source):
    for key in keys:
        if key not in base:
            near = difflib.get_close_matches(str(key), map(str, base), n=1)
            hint = f"did you mean '{near[0]}'?" if near else "see the base file"
            raise ValueError(f"{source}: there is no key '{key}'; {hint}")


def _check_nested(key, value, default, source, tree):
    """Checks the keys of a section that is no object's arguments."""
    if _tag(default) == "!ref" and default.value.strip("<>") in tree:
        default = tree[default.value.strip("<>")]
    if isinstance(value, CommentedMap) and isinstance(default, CommentedMap):
        if default and not _tag(default):
            _check_keys(value, default, f"{source}: {key}")
        for name, part in value.items():
            if name in default:
                nested = f"{key}.{name}", part, default[name]
                _check_nested(*nested, source, tree)
    else:
        check_kind(key, value, default, source)


def _replace(tree, key, value):
    """Puts a value in the place of another; keys of mappings are merged.

    HyperPyYAML's own update would keep the class of an object that another
    one replaces, and give it the arguments of both.
    """
    old, tag = tree.get(key), _tag(value)
    if not isinstance(value, dict) or tag not in (None, _tag(old)):
        tree[key] = value
    elif isinstance(old, dict):
        for name, part in value.items():
            _replace(old, name, part)
    else:
        if _tag(old) and tag is None:  # arguments of an object without any
            value.yaml_set_ctag(old.tag)
        tree[key] = value


def _check_choices(tree, source):
    """Refuses a choice that is on no menu; see hparams/base.yaml."""
    for value in tree.values():
        if _tag(value) != CHOICE:
            continue
        menu, key = (str(part.value).strip("<>") for part in value)
        if tree[key] not in tree[menu]:
            raise ValueError(
                f"{source}: '{key}' is '{tree[key]}', which is not one of "
                f"{', '.join(tree[menu])}"
            )


def complete_yaml(hparams_file, overrides=None):
    """The complete YAML of a configuration, with its references.

    A leading ``~`` is expanded to the home folder.

    Arguments
    ---------
    hparams_file : str or Path
        A complete file, or a short one with the key ``base``.
    overrides : dict or None
        From the command line: what was typed, by key.

    Returns
    -------
    str

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a key does not exist in the complete YAML, or a value is of another
        kind.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "base.yaml").write_text("lr: 0.1\\nepochs: 3\\n")
    >>> _ = (folder / "fast.yaml").write_text("base: base.yaml\\nlr: 1.0\\n")
    >>> print(complete_yaml(folder / "fast.yaml", {"epochs": "1"}), end="")
    lr: 1.0
    epochs: 1
    >>> complete_yaml(folder / "fast.yaml", {"epoch": "1"})
    Traceback (most recent call last):
    ...
    ValueError: command line: there is no key 'epoch'; did you mean 'epochs'?
    """
    path = Path(hparams_file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}")
    tree, any_keys = _read(path), ()
    if "base" in tree:
        short = tree
        base = path.parent / short.pop("base")
        if not base.is_file():
            raise FileNotFoundError(f"{path}: its base {base} does not exist")
        tree = _read(base)
        if "base" in tree:
            hint = f"has a base, {tree['base']}: name that one"
            raise ValueError(f"{path}: its base {base} {hint}")
        _check_keys(short, tree, path)
        # An empty mapping takes any keys, from here and from the command line.
        any_keys = [k for k, v in tree.items() if v == {} and not _tag(v)]
        for key, value in short.items():
            _check_nested(key, value, tree[key], path, tree)
            _replace(tree, key, value)
    overrides = overrides or {}
    _check_keys(overrides, tree, COMMAND_LINE)
    for key, text in overrides.items():
        default = CommentedMap() if key in any_keys else tree[key]
        value = typed_value(key, text, default)
        _check_nested(key, value, default, COMMAND_LINE, tree)
        _replace(tree, key, value)
    for key, value in tree.items():
        if isinstance(value, str) and value.startswith("~"):
            tree[key] = os.path.expanduser(value)
    _check_choices(tree, path)
    _check_ranges(
        tree,
        lambda key: COMMAND_LINE if key.split(".")[0] in overrides else path,
    )
    text = io.StringIO()
    _yaml().dump(tree, text)
    return text.getvalue()


def _check_arguments(objects):
    """Refuses arguments of what is made later; makes each optimiser once."""
    for name, part in objects.items():
        try:
            if isinstance(part, partial) and isclass(part.func):
                signature(part.func).bind_partial(*part.args, **part.keywords)
            if name == "opt_class":
                part([torch.nn.Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:
            raise ValueError(f"'{name}': {error}") from error
        if isinstance(part, dict):
            _check_arguments(part)


def load_hparams(hparams_file, overrides=None):
    """Objects of a configuration, and the complete YAML they come from.

    Arguments
    ---------
    hparams_file : str or Path
        A complete file, or a short one with the key ``base``.
    overrides : dict or None
        From the command line: what was typed, by key.

    Returns
    -------
    hparams : dict
        What HyperPyYAML made of the YAML.
    text : str
        The complete YAML, with its references.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a key, a value or the making of an object is wrong.

    Example
    -------
    >>> path = getfixture("tmp_path") / "base.yaml"
    >>> _ = path.write_text("lr: 0.1\\nhalf: !ref <lr> / 2\\n")
    >>> load_hparams(path, {"lr": "0.4"})[0]["half"]
    0.2
    """
    text = complete_yaml(hparams_file, overrides)
    try:
        hparams = load_hyperpyyaml(text)
        _check_arguments(hparams)
        return hparams, text
    except (TypeError, ImportError, AttributeError, YAMLError) as error:
        # HyperPyYAML appends its own explanation after the first line.
        reason = ": ".join(map(str, error.args)).strip().splitlines()[0]
        raise ValueError(f"{hparams_file}: {reason}") from error


def settings(text, source="the YAML"):
    """What a complete YAML says, however it is laid out.

    Arguments
    ---------
    text : str
    source : str or Path
        Where it stands, for the message.

    Returns
    -------
    dict
        Plain values by key; that of an object is ``[tag, arguments]``.

    Raises
    ------
    ValueError
        If it is no YAML of keys and values.

    Example
    -------
    >>> settings("a: 1  # one\\nb: !new:x.Y\\n  c: 2\\n")
    {'a': 1, 'b': ['!new:x.Y', {'c': 2}]}
    >>> settings('a: ["b", null]') == settings("a:\\n  - b\\n  -\\n")
    True
    """
    return _plain(_mapping(text, source))


def _plain(value):
    if isinstance(value, dict):
        plain = {key: _plain(part) for key, part in value.items()}
    elif isinstance(value, list):
        plain = [_plain(part) for part in value]
    elif isinstance(value, TaggedScalar):
        plain = value.value
    elif isinstance(value, (bool, ScalarBoolean)):
        plain = bool(value)
    else:
        kinds = (kind for kind in (int, float, str) if isinstance(value, kind))
        plain = next((kind(value) for kind in kinds), value)
    return [_tag(value), plain] if _tag(value) else plain
