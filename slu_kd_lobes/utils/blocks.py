"""Models of strangers: YAML that can make nothing but known building blocks.

HyperPyYAML calls whatever a tag such as ``!apply:os.system`` names. The file
of a model that somebody else made is therefore read here: a tag may name only
what `BLOCKS` lists, at any depth and through any spelling of a tag.
"""

import pydoc
import re

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml
from hyperpyyaml.core import resolve_references
from speechbrain.utils.fetching import fetch

#: What may be made: modules of classes and functions, or one of these itself.
#: A script whose models need more adds names of code that it trusts.
BLOCKS = {
    "slu_kd_lobes.data.text_units.TextUnits",
    "slu_kd_lobes.data.text_units.join_characters",
    "slu_kd_lobes.data.text_units.join_pieces",
    "slu_kd_lobes.students",
    "sentencepiece.SentencePieceProcessor",
    "speechbrain.dataio.encoder",
    "speechbrain.decoders",
    "speechbrain.integrations.huggingface.hubert",
    "speechbrain.integrations.huggingface.wav2vec2",
    "speechbrain.integrations.huggingface.wavlm",
    "speechbrain.integrations.huggingface.whisper",
    "speechbrain.lobes.features",
    "speechbrain.lobes.models.CRDNN",
    "speechbrain.lobes.models.ContextNet",
    "speechbrain.lobes.models.RNNLM",
    "speechbrain.lobes.models.VanillaNN",
    "speechbrain.lobes.models.convolution",
    "speechbrain.lobes.models.transformer",
    "speechbrain.nnet",
    "speechbrain.processing.features",
    "speechbrain.utils.parameter_transfer.Pretrainer",
    "torch.nn.modules",
}

#: What may also be called with arguments of the file.
FUNCTIONS = {
    "slu_kd_lobes.data.slots.SlotSchema.from_dict",
    "slu_kd_lobes.utils.environment.bundled",
}

_CORE = re.compile(
    r"tag:yaml\.org,2002:(null|bool|int|float|str|seq|map|merge|timestamp)"
)
_NUMBERS = re.compile(r"\([-+.,eE\d\s]*\)")  # HyperPyYAML parses what is inside


class RefusedModel(ValueError):
    """A model that is not used: it would run code, or was changed."""


def is_block(name):
    """Whether a class or function may be made, or handed on, by a model.

    Arguments
    ---------
    name : str
        Its full name. Where it was defined counts, not through which module
        it is reached.

    Returns
    -------
    bool

    Example
    -------
    >>> is_block("torch.nn.LeakyReLU")
    True
    >>> is_block("speechbrain.nnet.linear.torch.hub.load")
    False
    """
    if name in FUNCTIONS:
        return True
    if name.split(".")[0] not in {block.split(".")[0] for block in BLOCKS}:
        return False  # and do not even import it
    try:
        found = pydoc.locate(name)
        home = f"{found.__module__}.{found.__qualname__}"
    except (AttributeError, pydoc.ErrorDuringImport):
        return False
    parts = home.split(".")
    return any(".".join(parts[:n]) in BLOCKS for n in range(1, len(parts) + 1))


def _check_node(node):
    """Refuses a node of a YAML file whose tag could run code."""
    tag = str(node.tag)
    kind, _, name = tag.partition(":")
    if tag == "!tuple":
        allowed = _NUMBERS.fullmatch(str(node.value))
    elif kind in ("!new", "!name"):
        allowed = is_block(name)
    elif kind == "!apply":
        allowed = name in FUNCTIONS
    else:
        allowed = tag in ("!ref", "!copy") or _CORE.fullmatch(tag)
    if node.value == "trust_remote_code":
        tag, allowed = node.value, False
    if not allowed:
        raise RefusedModel(
            f"line {node.start_mark.line + 1} would run {tag!r}, which is none "
            "of the building blocks that a model may consist of: do not use "
            "it, or, if you trust whoever made it, add the name to "
            "slu_kd_lobes.utils.blocks.BLOCKS in a script of your own"
        )


class _Loader(ruamel.yaml.SafeLoader):
    """Looks at each node before anything is made of it."""

    def construct_object(self, node, deep=True):
        """As ruamel.yaml's, for a node that may be made."""
        _check_node(node)
        return super().construct_object(node, deep)


# As HyperPyYAML's loader has it, also before its first file.
_Loader.add_implicit_resolver("!tuple", re.compile(r"^\(.*\)$"), first="(")


def _check_tree(node, seen):
    """Checks a node and all below it, each once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    _check_node(node)
    if isinstance(node.value, list):
        for part in node.value:  # a pair in a mapping
            for child in part if isinstance(part, tuple) else [part]:
                _check_tree(child, seen)


def _check_text(text):
    loader = _Loader(text)
    try:
        _check_tree(loader.get_single_node(), set())
    finally:
        loader.dispose()


def load_blocks(text, overrides=None):
    """Makes the objects of a model's YAML, if all are building blocks.

    Arguments
    ---------
    text : str
        The file, in HyperPyYAML's syntax.
    overrides : dict or None
        Other values for its keys.

    Returns
    -------
    dict

    Raises
    ------
    RefusedModel
        If it asks for anything else; nothing has been made then.

    Example
    -------
    >>> load_blocks("size: 2\\nlayer: !new:torch.nn.Linear [!ref <size>, 1]")
    {'size': 2, 'layer': Linear(in_features=2, out_features=1, bias=True)}
    >>> load_blocks("x: !apply:os.system [ls]")
    Traceback (most recent call last):
    ...
    slu_kd_lobes.utils.blocks.RefusedModel: line 1 would run \
'!apply:os.system', which is none of the building blocks ...
    """
    _check_text(text)
    text = resolve_references(text, overrides, True).getvalue()
    _check_text(text)  # what the references put together
    return load_hyperpyyaml(text, loader=_Loader)


def load_pretrained_blocks(cls, source, text=None, overrides=None, **kwargs):
    """As SpeechBrain's ``from_hparams``, for a model of a stranger.

    Arguments
    ---------
    cls : type
        A subclass of `speechbrain.inference.interfaces.Pretrained`.
    source : str
        Folder or hub name.
    text : str or None
        Its ``hyperparams.yaml``; None: read from the source.
    overrides : dict or None
        Other values for its keys.
    **kwargs
        For the class.

    Returns
    -------
    Pretrained

    Raises
    ------
    RefusedModel
        If it consists of other things than building blocks.
    """
    if text is None:
        with open(fetch("hyperparams.yaml", source), encoding="utf-8") as file:
            text = file.read()
    try:
        hparams = load_blocks(text, overrides)
    except RefusedModel as error:
        raise RefusedModel(f"{source}/hyperparams.yaml, {error}") from None
    hparams["pretrainer"].set_collect_in(None)
    hparams["pretrainer"].collect_files(default_source=source)
    hparams["pretrainer"].load_collected()
    return cls(modules=hparams["modules"], hparams=hparams, **kwargs)
