"""Configuration files that state only what differs from a complete one.

A short file names its base (``base: base.yaml``, relative to itself) and
replaces some of its keys. HyperPyYAML alone cannot do this: an include works
only below a key, overrides do not reach inside it, and an overridden object
keeps its old class.
"""

import difflib
import io
import logging
from contextlib import contextmanager
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean
from ruamel.yaml.tag import Tag

from slu_kd_lobes.files import write_text_atomically

logger = logging.getLogger(__name__)


def _yaml():
    yaml = YAML()  # round trip: keeps tags, order and comments
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def _parse(text, source):
    try:
        content = _yaml().load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(
            f"{source} is not valid YAML{place}: {reason}"
        ) from error
    if content is None:
        return CommentedMap()
    if not isinstance(content, CommentedMap):
        raise ValueError(f"{source} must consist of lines 'key: value'")
    return content


def _tag(value):
    tag = getattr(value, "tag", None)
    return getattr(tag, "value", None) if tag is not None else None


def _check_type(key, old, new, source):
    """Refuses a word where the base has a number, and the like."""
    plain = (bool, int, float)
    if isinstance(old, CommentedSeq) and not (_tag(old) or _tag(new)):
        if not isinstance(new, CommentedSeq):
            raise ValueError(
                f"{source}: '{key}' must be a list such as [{new}]; it is "
                f"{str(new)!r}"
            )
    if isinstance(old, ScalarBoolean):
        old = bool(old)
    if not isinstance(old, plain) or new is None or _tag(new):
        return
    is_bool = isinstance(new, (bool, ScalarBoolean))
    fits = (
        is_bool
        if isinstance(old, bool)
        else isinstance(new, (int, float)) and not is_bool
    )
    if not fits:
        kind = "True or False" if isinstance(old, bool) else "a number"
        raise ValueError(
            f"{source}: '{key}' must be {kind}, as {old} is; it is {str(new)!r}"
        )


def _plain(value):
    """A copy without comments, quotes and layout: what is said, not how."""
    if isinstance(value, CommentedMap):
        copy = CommentedMap((key, _plain(v)) for key, v in value.items())
    elif isinstance(value, CommentedSeq):
        copy = CommentedSeq(_plain(v) for v in value)
    elif isinstance(value, (ScalarBoolean, bool)):
        return bool(value)
    elif isinstance(value, TaggedScalar):
        return value
    else:
        return next(
            (
                kind(value)
                for kind in (int, float, str)
                if isinstance(value, kind)
            ),
            value,
        )
    if _tag(value):
        copy.yaml_set_ctag(value.tag)
    return copy


def _is_bare_object(value):
    """Whether it is an object without arguments, such as ``!new:x.Y``."""
    bare = isinstance(value, TaggedScalar) and not value.value
    return bare and str(_tag(value)).startswith(("!new:", "!name:"))


def _update(base, changes, source, path=""):
    """Writes the changes into the base, in place."""
    for key, new in changes.items():
        name = f"{path}{key}"
        if key not in base:
            near = difflib.get_close_matches(str(key), map(str, base), n=1)
            hint = f"did you mean '{near[0]}'?" if near else "see the base file"
            raise ValueError(f"{source}: there is no key '{name}'; {hint}")
        old = base[key]
        if (
            isinstance(old, CommentedMap)
            and isinstance(new, CommentedMap)
            and new
            and _tag(new) in (None, _tag(old))
        ):
            # Arguments of an object are checked when it is made.
            if _tag(old) or not old:
                old.update(new)
            else:
                _update(old, new, source, f"{name}.")
        elif _is_bare_object(old) and isinstance(new, CommentedMap):
            if not _tag(new):  # arguments for the class that stands there
                new.yaml_set_ctag(old.tag)
            base[key] = new
        else:
            _check_type(name, old, new, source)
            base[key] = new


def resolve_yaml(hparams_file, overrides=""):
    """One complete YAML text from a configuration, its base and overrides.

    A key of the configuration replaces that of the base. Where both are
    mappings their keys are merged, unless the class of an object changes.

    Arguments
    ---------
    hparams_file : str or Path
        A complete file, or a short one with the key ``base``.
    overrides : str
        YAML lines from the command line; they win.

    Returns
    -------
    str
        The complete YAML; references are not resolved yet.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a key does not exist in the base, or a value is of another type.

    Example
    -------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "base.yaml").write_text("lr: 0.1\\nepochs: 3\\n")
    >>> _ = (folder / "fast.yaml").write_text("base: base.yaml\\nlr: 1.0\\n")
    >>> print(resolve_yaml(folder / "fast.yaml", "epochs: 1"), end="")
    lr: 1.0
    epochs: 1
    >>> resolve_yaml(folder / "fast.yaml", "epoch: 1")
    Traceback (most recent call last):
    ...
    ValueError: command line: there is no key 'epoch'; did you mean 'epochs'?
    """
    path = Path(hparams_file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}")
    content = _parse(path.read_text(encoding="utf-8"), path)
    if "base" in content:
        base_path = path.parent / content.pop("base")
        if not base_path.is_file():
            raise FileNotFoundError(
                f"{path}: its base {base_path} does not exist"
            )
        base = _parse(base_path.read_text(encoding="utf-8"), base_path)
        _update(base, content, path)
        content = base
    if overrides:
        _update(content, _parse(overrides, "command line"), "command line")
    text = io.StringIO()
    _yaml().dump(content, text)
    return text.getvalue()


def load_hparams(hparams_file, overrides=""):
    """Objects of a configuration, and the complete YAML they come from.

    Arguments
    ---------
    hparams_file : str or Path
        A complete file, or a short one with the key ``base``.
    overrides : str
        YAML lines from the command line.

    Returns
    -------
    hparams : dict
        What HyperPyYAML made of the YAML.
    text : str
        The complete YAML.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a key, a value or the making of an object is wrong.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "base.yaml"
    >>> _ = path.write_text("lr: 0.1\\nhalf: !ref <lr> / 2\\n")
    >>> load_hparams(path, "lr: 0.4")[0]["half"]
    0.2
    """
    text = resolve_yaml(hparams_file, overrides)
    try:
        return load_hyperpyyaml(text), text
    except (TypeError, ImportError, AttributeError, YAMLError) as error:
        # HyperPyYAML appends its own explanation after the first line.
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{hparams_file}: {reason}") from error


def plain_values(text):
    """Every key of a complete YAML with its value, as text of one style.

    Equal values give equal text, however they are laid out or quoted.

    Arguments
    ---------
    text : str
        The YAML.

    Returns
    -------
    dict
        YAML text of the value of each top-level key.

    Example
    -------
    >>> plain_values("a: 1  # one\\nb: !new:x.Y\\n  c: 2\\n")
    {'a': 'a: 1', 'b': 'b: !new:x.Y\\n  c: 2'}
    >>> plain_values('a: ["b", null]') == plain_values("a:\\n  - b\\n  -\\n")
    True
    """
    values = {}
    for key, value in _parse(text, "the YAML").items():
        out = io.StringIO()
        _yaml().dump(CommentedMap({key: _plain(value)}), out)
        values[key] = out.getvalue().rstrip()
    return values


def object_yaml(key, value, arguments):
    """YAML that makes an object where another made its constructor.

    Arguments
    ---------
    key : str
        The key.
    value : str
        YAML of a ``!name:``, as `plain_values` gives it.
    arguments : dict
        More arguments of the constructor; they win.

    Returns
    -------
    str
        The key with a ``!new:`` of the same.

    Example
    -------
    >>> print(object_yaml("a", "a: !name:x.Y\\n  b: 1", {"c": 2}))
    a: !new:x.Y
      b: 1
      c: 2
    """
    made = _plain(_parse(value, "the YAML")[key])
    made.update(arguments)
    made.yaml_set_ctag(Tag(suffix=_tag(made).replace("!name:", "!new:", 1)))
    out = io.StringIO()
    _yaml().dump(CommentedMap({key: made}), out)
    return out.getvalue().rstrip()


def split_overrides(arguments, own):
    """Keys of the configuration among the arguments of a program.

    argparse would take a value with a space in it for something else.

    Arguments
    ---------
    arguments : list of str
    own : list of str
        Options of the program itself, such as ``--seeds``.

    Returns
    -------
    arguments : list of str
        Those of the program.
    overrides : list of str
        The others, each ``--key=value``.

    Example
    -------
    >>> split_overrides(
    ...     ["--seeds", "1", "--lr=0.1", "--slots=[a, b]"], ["--seeds"]
    ... )
    (['--seeds', '1'], ['--lr=0.1', '--slots=[a, b]'])
    """
    rest = [
        argument
        for argument in arguments
        if argument.startswith("--")
        and "=" in argument
        and argument.split("=")[0] not in own
    ]
    return [a for a in arguments if a not in rest], rest


def save_yaml(folder, text):
    """Saves the complete YAML of a run, which can itself be run.

    Arguments
    ---------
    folder : str or Path
        Output folder of the run.
    text : str
        The complete YAML.

    Example
    -------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> save_yaml(folder, "lr: 0.1\\nhalf: !ref <lr> / 2\\n")
    >>> print((folder / "hyperparams.yaml").read_text(), end="")
    lr: 0.1
    half: 0.05
    """
    resolved = resolve_references(text).getvalue()
    write_text_atomically(Path(folder) / "hyperparams.yaml", resolved)


#: Keys that may change when a run goes on: they shape no number.
FREE_KEYS = ("num_workers", "skip_prep", "test_epoch")


def differing_keys(first, second, free):
    """Keys whose values differ between two configurations.

    Arguments
    ---------
    first : dict
        As `plain_values` gives it.
    second : dict
        As `plain_values` gives it.
    free : tuple
        Keys that may differ.

    Returns
    -------
    list

    Example
    -------
    >>> differing_keys({"a": "1", "b": "2"}, {"b": "3"}, free=("a",))
    ['b']
    """
    return [
        key
        for key in {**first, **second}
        if first.get(key) != second.get(key) and key not in free
    ]


def check_same_run(folder, text):
    """Refuses to go on with a run that another configuration began.

    Arguments
    ---------
    folder : str or Path
        Output folder of the run.
    text : str
        The complete YAML of this run.

    Raises
    ------
    ValueError
        If the folder holds the configuration of another run.
    """
    saved = Path(folder) / "hyperparams.yaml"
    if not saved.is_file():
        return
    old = plain_values(saved.read_text(encoding="utf-8"))
    # The saved copy has its references resolved.
    new = plain_values(resolve_references(text).getvalue())
    differing = differing_keys(new, old, FREE_KEYS)
    if differing:
        raise ValueError(
            f"{folder} holds a run of another configuration (different: "
            f"{', '.join(differing)}): choose another --output_folder, or "
            "delete that folder"
        )


@contextmanager
def one_sentence_errors():
    """Ends the program with one sentence when an input is wrong.

    For the part of a script before training. The traceback goes to the log
    at debug level.

    Example
    -------
    >>> with one_sentence_errors():
    ...     raise ValueError("train_data.csv is empty")
    Traceback (most recent call last):
    ...
    SystemExit: error: train_data.csv is empty
    """
    try:
        yield
    except (ValueError, OSError) as error:
        logger.debug("Bad input", exc_info=True)
        raise SystemExit(f"error: {error}") from None
