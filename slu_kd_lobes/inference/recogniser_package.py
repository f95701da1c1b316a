"""A trained recogniser as a folder that SpeechBrain's `EncoderASR` loads."""

import json
from pathlib import Path

from hyperpyyaml import resolve_references
from ruamel.yaml import YAML

from slu_kd_lobes.data.text_units import MARKS
from slu_kd_lobes.inference.saved_objects import object_yaml, save_weights
from slu_kd_lobes.utils.files import write_text

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

{filter_bank}
{encoder}
{recogniser}
modules:
    encoder: !new:slu_kd_lobes.students.filter_bank.WaveformEncoder
        filter_bank: !ref <filter_bank>
        encoder: !ref <encoder>
    recogniser: !ref <recogniser>
decoding_function: !name:slu_kd_lobes.students.cif_recogniser.decode
    recogniser: !ref <recogniser>
    beam_size: !ref <beam_size>
tokenizer: !new:slu_kd_lobes.data.text_units.TextUnits
    names: {names}
    join: !name:{join}
# Loads recogniser.ckpt of this folder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        recogniser: !ref <recogniser>
"""


def package_recogniser(folder, recogniser, units, text):
    """Writes a recogniser; the YAML comes last.

    Arguments
    ---------
    folder : str or Path
        Made if missing. Other files in it are left alone.
    recogniser : CTCRecogniser
        Or one of its subclasses, with the weights.
    units : TextUnits
        What it writes.
    text : str
        The YAML of its run.
    """
    tree = YAML().load(resolve_references(text).getvalue())
    chosen = tree["recognisers"][tree["recogniser"]]
    node = object_yaml("recogniser", chosen, num_symbols=len(units))
    join = units.join
    folder = Path(folder)
    save_weights(recogniser, folder / "recogniser.ckpt")
    hyperparams = RECOGNISER.format(
        sample_rate=tree["sample_rate"],
        beam_size=tree["beam_size"],
        filter_bank=object_yaml("filter_bank", tree["filter_bank"]),
        encoder=object_yaml("encoder", tree["encoder"]),
        recogniser=f"{node}\n  encoder: !ref <encoder>",
        names=json.dumps(units.names[len(MARKS) :], ensure_ascii=False),
        join=f"{join.__module__}.{join.__qualname__}",
    )
    write_text(folder / "hyperparams.yaml", hyperparams)
