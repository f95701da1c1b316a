"""Values of a YAML file on a command line."""

import io

from ruamel.yaml import YAML


def typed(value):
    """A value of a YAML file as it stands on a command line.

    Arguments
    ---------
    value
        Text, or what YAML holds.

    Returns
    -------
    str

    Example
    -------
    >>> typed(0.1), typed("kl"), typed(None)
    ('0.1', 'kl', 'null')
    >>> typed({"betas": [0.9, 0.9]})
    '{betas: [0.9, 0.9]}'
    """
    if isinstance(value, str):
        return value
    yaml, text = YAML(), io.StringIO()
    yaml.default_flow_style, yaml.width = True, 10**6
    yaml.dump(_plain(value), text)
    return text.getvalue().removesuffix("\n").removesuffix("\n...")


def _plain(value):
    """Without layout and comments; numbers stay as they were written."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return list(map(_plain, value)) if isinstance(value, list) else value
