"""A trained recogniser as a folder that SpeechBrain's `EncoderASR` loads."""

import json
from pathlib import Path

import torch
from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.tag import Tag

from slu_kd_lobes.data.text_units import MARKS
from slu_kd_lobes.inference.saved_objects import object_yaml, save_weights
from slu_kd_lobes.utils.files import write_text

#: Says that a folder comes with the project.
BUNDLED = Tag(suffix="!apply:slu_kd_lobes.utils.environment.bundled")

RECOGNISER = """\
# A speech recogniser. As a pre-trained model of SpeechBrain:
#   from speechbrain.inference.ASR import EncoderASR
#   model = EncoderASR.from_hparams(source="path/to/this/folder")
#   model.transcribe_file("speech.wav")
# As the encoder of a student (TokenEncoder: its vectors of tokens in place of
# frames), or as the recogniser of a cascade, on the command line of the recipe:
#   --encoder=speechbrain --encoder_interface=EncoderASR
#   --encoder_source=path/to/this/folder
#   --recogniser=speechbrain --recogniser_interface=EncoderASR
#   --recogniser_source=path/to/this/folder

sample_rate: {sample_rate}  # Hz
beam_size: {beam_size}

{front_end}
{encoder}
{recogniser}
modules:
    encoder: !new:slu_kd_lobes.students.cif_recogniser.WaveformEncoder
        front_end: !ref <front_end>
        encoder: !ref <encoder>
    recogniser: !ref <recogniser>
decoding_function: !name:slu_kd_lobes.students.cif_recogniser.decode
    recogniser: !ref <recogniser>
    beam_size: !ref <beam_size>
tokenizer: !new:slu_kd_lobes.data.text_units.TextUnits
    names: {names}
    join: !name:{join}
# Loads recogniser.ckpt of this folder, and weights of the front end
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
{loadables}
"""


def package_recogniser(folder, front_end, recogniser, units, text):
    """Writes a recogniser; the YAML comes last.

    Weights are in half precision, and computed with in single.

    Arguments
    ---------
    folder : str or Path
        Made if missing. Other files in it are left alone.
    front_end : torch.nn.Module
        A filter bank, or an encoder that is frozen; its weights are written
        unless it comes with the project, or is another maker's.
    recogniser : CTCRecogniser
        Or one of its subclasses, with the weights.
    units : TextUnits
        What it writes.
    text : str
        The YAML of its run.
    """
    tree = YAML().load(resolve_references(text).getvalue())
    chosen = {
        kind: tree[menu][tree[kind]]
        for kind, menu in (
            ("front_end", "front_ends"),
            ("encoder", "encoders"),
            ("recogniser", "recognisers"),
        )
    }
    saved = {"recogniser": recogniser}
    source = chosen["front_end"].get("source")
    if not front_end.frozen and getattr(source, "tag", None) != BUNDLED:
        saved["front_end"] = front_end
        del chosen["front_end"]["source"]
    size = front_end.feature_size * front_end.layers
    node = object_yaml(
        "recogniser", chosen["recogniser"], num_symbols=len(units)
    )
    join = units.join
    folder = Path(folder)
    for name, module in saved.items():
        save_weights(module, folder / f"{name}.ckpt", torch.float16)
    hyperparams = RECOGNISER.format(
        sample_rate=tree["sample_rate"],
        beam_size=tree["beam_size"],
        front_end=object_yaml("front_end", chosen["front_end"]),
        encoder=object_yaml("encoder", chosen["encoder"], input_size=size),
        recogniser=f"{node}\n  encoder: !ref <encoder>",
        names=json.dumps(units.names[len(MARKS) :], ensure_ascii=False),
        join=f"{join.__module__}.{join.__qualname__}",
        loadables="\n".join(f"        {name}: !ref <{name}>" for name in saved),
    )
    write_text(folder / "hyperparams.yaml", hyperparams)
