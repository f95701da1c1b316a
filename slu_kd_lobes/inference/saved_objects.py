"""What packages are made of: YAML that makes an object, and its weights."""

import io

import torch
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.tag import Tag

from slu_kd_lobes.utils.files import whole


def object_yaml(key, node, **arguments):
    """YAML that makes an object where a configuration made its constructor.

    Arguments
    ---------
    key : str
    node : ruamel.yaml.comments.CommentedMap or TaggedScalar
        A ``!name:`` with its arguments, or without.
    **arguments
        More of these; they win.

    Returns
    -------
    str
        The key with a ``!new:`` of the same.

    Example
    -------
    >>> node = YAML().load("a: !name:x.Y\\n  b: 1")["a"]
    >>> print(object_yaml("a", node, c=2))
    a: !new:x.Y
      b: 1
      c: 2
    """
    own = node if isinstance(node, CommentedMap) else {}
    made = CommentedMap({**own, **arguments})
    tag = node.tag.value.replace("!name:", "!new:", 1)
    made.yaml_set_ctag(Tag(suffix=tag))
    out = io.StringIO()
    YAML().dump({key: made}, out)
    return out.getvalue().rstrip()


def save_weights(module, path, dtype=None):
    """Writes the weights of a module, whole or not at all.

    Arguments
    ---------
    module : torch.nn.Module
    path : str or Path
    dtype : torch.dtype or None
        Of numbers that are no integers; None: as they are.
    """
    state = {name: x.detach().cpu() for name, x in module.state_dict().items()}
    if dtype is not None:
        for name, x in state.items():
            state[name] = x.to(dtype) if x.is_floating_point() else x
    buffer = io.BytesIO()  # a file's name would be part of its content
    torch.save(state, buffer)
    with whole(path) as part:
        part.write_bytes(buffer.getvalue())
