"""A pre-trained encoder as a folder that SpeechBrain loads.

The layout is that of SpeechBrain's models: ``encoder.ckpt`` (weights),
``hyperparams.yaml`` (how to make the encoder and what to load into it) and
``README.md`` (the model card).
"""

import hashlib
import io
import json
import re
import shlex
from pathlib import Path

import torch

from slu_kd_lobes.files import write_bytes_atomically, write_text_atomically
from slu_kd_lobes.provenance import git_commit, package_versions

HYPERPARAMS = """\
# An encoder for spoken language understanding, pre-trained to hear phones (or
# letters) and words. README.md tells how well, and on what.
#
# As a pre-trained model, one vector of {feature_size} every 160 ms:
#   from speechbrain.inference.encoders import WaveformEncoder
#   model = WaveformEncoder.from_hparams(source="path/to/this/folder")
#   features, lengths = model.encode_batch(wavs, wav_lens)
# As the start of another training, in its YAML file:
#   encoder: !new:slu_kd_lobes.sincnet.SincNetEncoder
#   pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
#       loadables:
#           encoder: !ref <encoder>
# and in its script:
#   hparams["pretrainer"].collect_files(default_source="path/to/this/folder")
#   hparams["pretrainer"].load_collected()

sample_rate: {sample_rate}  # Hz

{encoder_yaml}
modules:
    encoder: !ref <encoder>
# Loads encoder.ckpt of this folder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <encoder>
"""

CARD = """\
---
library_name: speechbrain
language: en
tags:
- speechbrain
- spoken-language-understanding
- speech-encoder
---

# SincNet encoder, pre-trained for speech recognition

{description}

A SincNet front end, two bidirectional GRU layers of 40 ms and two of 160 ms
({parameters:,} parameters) turn audio of {sample_rate} Hz into one vector of
{feature_size} values every 160 ms. It is the encoder of Lugosch et al. 2019
and of the student of Cho et al. 2020; `hyperparams.yaml` shows how to load it.

## Training

```
{command}
```

| split | utterances | hours |
|---|---|---|
{data}

Seed {seed}; {epochs} epochs, of which epoch {epoch} is the one with the best
validation word accuracy, and the one that is here.

## Validation accuracy

| what is right | % |
|---|---|
{accuracies}

## What it is not good for

- Writing down speech. The classifiers of the training are not part of it, and
  the accuracies above are not those of a recogniser with a language model.
- Speech unlike its training data: another language, an accent, a microphone,
  a room or a noise that it does not contain. Measure on your own data.
- Audio that is not sampled at {sample_rate} Hz: resample it first.
- Telling who speaks, or how: nothing in the training asks for it.

## Made with

{versions}

SHA-256 of `encoder.ckpt`: `{sha256}`

## Sources

- L. Lugosch et al., "Speech Model Pre-training for End-to-End Spoken Language
  Understanding", Interspeech 2019.
- W. I. Cho et al., "Speech to Text Adaptation: Towards an Efficient
  Cross-Modal Distillation", Interspeech 2020.
"""


def export_encoder(folder, encoder, encoder_yaml, card):
    """Writes a pre-trained folder; each file whole or not at all.

    The model card comes last and states the hash of the weights, so that
    files of two exports are not taken for one.

    Arguments
    ---------
    folder : str or Path
        Made if missing. Other files in it are left alone.
    encoder : torch.nn.Module
        With the weights to be exported, and the attributes ``sample_rate``
        (Hz) and ``feature_size``.
    encoder_yaml : str
        The key ``encoder`` of the run's YAML with its value.
    card : dict
        What the run knows: ``description`` (a sentence on the data),
        ``command`` (its arguments, a list), ``data`` ({split: (utterances,
        hours)}), ``seed``, ``epochs``, ``epoch`` and ``accuracies`` ({name:
        percent}).

    Example
    -------
    >>> import tempfile
    >>> from slu_kd_lobes.sincnet import SincNetEncoder
    >>> encoder, folder = SincNetEncoder(), Path(tempfile.mkdtemp())
    >>> export_encoder(
    ...     folder,
    ...     encoder,
    ...     "encoder: !new:slu_kd_lobes.sincnet.SincNetEncoder",
    ...     {
    ...         "description": "Trained on nothing.",
    ...         "command": ["train.py", "--seed=1"],
    ...         "data": {"train": (0, 0.0)},
    ...         "seed": 1,
    ...         "epochs": 0,
    ...         "epoch": 0,
    ...         "accuracies": {"words": 0.01},
    ...     },
    ... )
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'encoder.ckpt', 'hyperparams.yaml']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: x.detach().cpu() for name, x in encoder.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    weights = buffer.getvalue()
    facts = {
        "sample_rate": encoder.sample_rate,
        "feature_size": encoder.feature_size,
    }
    hyperparams = HYPERPARAMS.format(encoder_yaml=encoder_yaml, **facts)
    versions = dict(package_versions())
    commit = git_commit()
    if commit:
        versions["commit"] = commit
    text = CARD.format(
        **facts,
        description=card["description"],
        parameters=sum(p.numel() for p in encoder.parameters()),
        command=public_command(card["command"]),
        data="\n".join(
            f"| {split} | {utterances:,} | {hours:.2f} |"
            for split, (utterances, hours) in card["data"].items()
        ),
        seed=card["seed"],
        epochs=card["epochs"],
        epoch=card["epoch"],
        accuracies="\n".join(
            f"| {name} | {value:.2f} |"
            for name, value in card["accuracies"].items()
        ),
        versions=", ".join(f"{name} {v}" for name, v in versions.items()) + ".",
        sha256=hashlib.sha256(weights).hexdigest(),
    )
    write_bytes_atomically(folder / "encoder.ckpt", weights)
    write_text_atomically(folder / "hyperparams.yaml", hyperparams)
    write_text_atomically(folder / "README.md", text)


def public_command(arguments):
    """The command of a run without the folders of its machine.

    Arguments
    ---------
    arguments : list of str
        What follows ``python``.

    Returns
    -------
    str
        A line an argument; of an absolute path its last part is kept.

    Example
    -------
    >>> print(public_command(["train.py", "--data_folder=/home/ann/speech"]))
    python train.py \\
        --data_folder=/path/to/speech
    """
    paths = re.compile(r"(?<![\w.~/])~?/(?:[^\s/,\]}]+/)*([^\s/,\]}]+)/?")
    shown = [
        shlex.quote(paths.sub(r"/path/to/\1", argument))
        if re.search(r"[^\w=./:+-]", argument)
        else paths.sub(r"/path/to/\1", argument)
        for argument in arguments
    ]
    return " \\\n    ".join(["python " + shown[0], *shown[1:]])


def manifest_size(path):
    """How much speech a manifest lists.

    Arguments
    ---------
    path : str or Path
        A JSON manifest with durations in seconds.

    Returns
    -------
    utterances : int
    hours : float

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "m.json"
    >>> _ = path.write_text('{"a": {"duration": 1800}}')
    >>> manifest_size(path)
    (1, 0.5)
    """
    rows = json.loads(Path(path).read_text(encoding="utf-8"))
    return len(rows), sum(row["duration"] for row in rows.values()) / 3600
