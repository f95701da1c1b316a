"""Texts of the files in a package; see :mod:`slu_kd_lobes.inference.package`.

What stands in braces in `STUDENT` and `ENCODER` is filled in.
"""

STUDENT = """\
# Spoken commands to slots; README.md tells how well, and on what.
#   from slu_kd_lobes.inference.classifier import SpokenIntentClassifier
#   model = SpokenIntentClassifier.from_hparams(source="path/to/this/folder")
#   model.classify_file("command.wav")
package_format: {package_format}
package_folder: .

sample_rate: {sample_rate}  # Hz
threshold: {threshold}  # an answer with a lower probability is rejected
schema: !apply:slu_kd_lobes.data.slots.SlotSchema.from_dict
    content: {schema}

{encoder}
{student}
modules:
    encoder: !ref <encoder>
    student: !ref <student>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
{loadables}
# Of weights, slots, threshold and rate; and of all the lines before the last:
# a changed model is refused.
sha256: {sha256}
"""

ENCODER = """\
# An encoder for spoken language understanding, pre-trained to hear phones (or
# letters) and words. README.md tells how well, and on what.
#
# As a pre-trained model, one vector of {feature_size} every 160 ms:
#   from speechbrain.inference.encoders import WaveformEncoder
#   model = WaveformEncoder.from_hparams(source="path/to/this/folder")
#   features, lengths = model.encode_batch(wavs, wav_lens)
# As the encoder of a student, on the command line of its recipe:
#   --encoder_source=path/to/this/folder

sample_rate: {sample_rate}  # Hz

{encoder}
modules:
    encoder: !ref <encoder>
# Loads encoder.ckpt of this folder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <encoder>
"""

INTERFACE = '''\
"""The class for SpeechBrain's foreign_class; it comes with slu_kd_lobes."""

from slu_kd_lobes.inference.classifier import SpokenIntentClassifier

__all__ = ["SpokenIntentClassifier"]
'''

USE = """\
```python
from slu_kd_lobes.inference.classifier import SpokenIntentClassifier

model = SpokenIntentClassifier.from_hparams(source="path/to/this/folder")
print(model.classify_file("command.wav"))
```

On the command line: `slu-kd classify command.wav --model path/to/this/folder`.

It needs Python and what `requirements.txt` names: in this folder, `pip install
-r requirements.txt`."""

FOREIGN_CLASS = """\
With SpeechBrain's own loader, which runs `custom_interface.py` of this folder:

```python
from speechbrain.inference.interfaces import foreign_class

model = foreign_class(
    source="path/to/this/folder",
    pymodule_file="custom_interface.py",
    classname="SpokenIntentClassifier",
    overrides={"package_folder": "path/to/this/folder"},
)
```"""

STUDENT_LIMITS = [
    "Commands that mean something else: the nearest known one is answered, or "
    "the answer\n  is rejected. Rejection was chosen on commands, not on other "
    "speech.",
    "Voices, microphones, rooms and noises unlike those of its training "
    "data.\n  Measure on your own recordings.",
    "Long audio: it was trained on single commands.",
]

ENCODER_LIMITS = [
    "Writing down speech. The classifiers of the training are not part of it, "
    "and the\n  accuracies above are not those of a recogniser with a language "
    "model.",
    "Speech unlike its training data: another language, an accent, a "
    "microphone, a\n  room or a noise that it does not contain. Measure on your "
    "own data.",
    "Audio at another sampling rate: resample it first.",
    "Telling who speaks, or how: nothing in the training asks for it.",
]

ENCODER_SOURCES = """\
- L. Lugosch et al., "Speech Model Pre-training for End-to-End Spoken Language
  Understanding", Interspeech 2019.
- W. I. Cho et al., "Speech to Text Adaptation: Towards an Efficient
  Cross-Modal Distillation", Interspeech 2020."""
