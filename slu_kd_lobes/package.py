"""A finished run as a folder that others load in one line.

The layout is that of SpeechBrain's pre-trained models: ``hyperparams.yaml``,
the weights (``*.ckpt``), ``custom_interface.py`` for SpeechBrain's
``foreign_class``, ``requirements.txt`` and ``README.md``, the model card.
"""

import io
import json
import re
import shutil
import uuid
from pathlib import Path

import numpy as np
import torch

from slu_kd_lobes.checkpoints import WholeCheckpointer, load_pretrained
from slu_kd_lobes.features import module_fingerprint
from slu_kd_lobes.files import check_writable, read_csv
from slu_kd_lobes.hparams import load_hparams, object_yaml, plain_values
from slu_kd_lobes.interface import package_hash
from slu_kd_lobes.metrics import rejection_threshold
from slu_kd_lobes.report import results_table
from slu_kd_lobes.slots import SlotSchema

HYPERPARAMS = """\
# Spoken commands to slots; README.md tells how well, and on what.
#   from slu_kd_lobes.interface import SpokenIntentClassifier
#   model = SpokenIntentClassifier.from_hparams(source="path/to/this/folder")
#   model.classify_file("command.wav")
package_folder: .

sample_rate: {sample_rate}  # Hz
threshold: {threshold}  # an answer with a lower probability is rejected
schema: !apply:slu_kd_lobes.slots.SlotSchema.from_dict
    content: {schema}

{encoder}
{student}
modules:
    encoder: !ref <encoder>
    student: !ref <student>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
{loadables}
# Of weights, slots, threshold and rate: a changed model is refused.
sha256: {sha256}
"""

INTERFACE = '''\
"""The class for SpeechBrain's foreign_class; it comes with slu_kd_lobes."""

from slu_kd_lobes.interface import SpokenIntentClassifier

__all__ = ["SpokenIntentClassifier"]
'''

CARD = """\
---
library_name: speechbrain
tags:
- speechbrain
- spoken-language-understanding
---

# Spoken commands to slots: {config}

A student of {trained:,} trained parameters on an encoder of {frozen:,} frozen
ones ({encoder_name}) hears a command and fills {count} slots, without writing
it down. {teaching}

```python
from slu_kd_lobes.interface import SpokenIntentClassifier

model = SpokenIntentClassifier.from_hparams(source="path/to/this/folder")
print(model.classify_file("command.wav"))
```

On the command line: `slu-kd classify command.wav --model path/to/this/folder`.
With SpeechBrain's own loader:

```python
from speechbrain.inference.interfaces import foreign_class

model = foreign_class(
    source="path/to/this/folder",
    pymodule_file="custom_interface.py",
    classname="SpokenIntentClassifier",
    overrides={{"package_folder": "path/to/this/folder"}},
)
```

It needs Python and what `requirements.txt` names.

## Slots

| slot | values |
|---|---|
{slots}

## Results

Trained on {n_train:,} utterances, seed {seed}, the {epoch} epoch tested.

```
{results}
```

Calibration on `{main_test}`: negative log likelihood {nll:.3f}, expected
calibration error {ece:.3f}.

## Rejection

An answer is rejected when the product of its slots' probabilities is below
{threshold}. On the {n_valid:,} validation utterances that keeps
{kept:.1f} % of the right answers and rejects {caught} of the {wrong} wrong ones.

## What it is not good for

- Commands that mean something else: the nearest known one is answered, or the
  answer is rejected. Rejection was chosen on commands, not on other speech.
- Voices, microphones, rooms and noises unlike those of its training data.
  Measure on your own recordings.
- Long audio: it was trained on single commands.

## Made with

{versions}
"""


def rejection_of(path, schema, keep):
    """The threshold, and what it does on validation data.

    Arguments
    ---------
    path : str or Path
        The run's predictions on validation data.
    schema : SlotSchema
        Names of the slots.
    keep : float
        Share of the right answers that is kept.

    Returns
    -------
    float
        The threshold.
    dict
        ``n_valid``, ``kept`` (percent of the right answers), ``wrong`` and
        ``caught``, the wrong answers and those that are rejected.
    """
    rows = read_csv(path)
    probabilities = np.ones(len(rows))
    right = np.ones(len(rows), dtype=bool)
    for name in schema.names:
        probabilities *= [float(row[f"{name}_probability"]) for row in rows]
        right &= [
            row[f"{name}_true"] == row[f"{name}_predicted"] for row in rows
        ]
    threshold = rejection_threshold(probabilities, right, keep)
    accepted = probabilities >= threshold
    return threshold, {
        "n_valid": len(rows),
        "kept": 100 * float(accepted[right].mean()) if right.any() else 0.0,
        "wrong": int((~right).sum()),
        "caught": int((~right & ~accepted).sum()),
    }


def load_run(run):
    """The modules of a finished run, as it tested them.

    Arguments
    ---------
    run : Path
        Output folder of the run.

    Returns
    -------
    hparams : dict
    text : str
        The complete YAML.
    modules : dict
        ``encoder`` and ``student``.
    schema : SlotSchema

    Raises
    ------
    ValueError
        If the run is not finished, or its encoder is not there any more.
    """
    for name in ("hyperparams.yaml", "metrics.json", "predictions_valid.csv"):
        if not (run / name).is_file():
            raise ValueError(
                f"{run} is not the folder of a finished run: it has no {name}; "
                "run its command again to the end"
            )
    hparams, text = load_hparams(run / "hyperparams.yaml")
    best = "valid_error" if hparams["test_epoch"] == "best" else None
    checkpoint = WholeCheckpointer(run / "save").find_checkpoint(min_key=best)
    if checkpoint is None:
        raise ValueError(f"{run}/save has no checkpoint: train again")
    schema = SlotSchema.load(checkpoint.path / "slots.ckpt")
    encoder = hparams["encoder"]
    saved = checkpoint.path / "encoder.ckpt"
    if saved.is_file():
        encoder.load_state_dict(torch.load(saved, weights_only=True))
    else:
        if not encoder.pretrained:
            load_pretrained(hparams["pretrainer"], hparams["encoder_source"])
        sources = json.loads((checkpoint.path / "provenance.ckpt").read_text())
        if sources["encoder"] != module_fingerprint(encoder):
            raise ValueError(
                f"the encoder of {run} has changed since it was trained: "
                "restore it, or train again"
            )
    student = hparams["student"](
        num_logits=schema.num_logits,
        input_size=encoder.feature_size,
        layers=encoder.layers,
    )
    weights = torch.load(checkpoint.path / "student.ckpt", weights_only=True)
    student.load_state_dict(weights)
    modules = {"encoder": encoder.eval(), "student": student.eval()}
    return hparams, text, modules, schema


def package_run(run, out, keep=0.98):
    """Writes the folder of a finished run; whole or not at all.

    Arguments
    ---------
    run : str or Path
        Output folder of a finished run.
    out : str or Path
        The folder to be made.
    keep : float
        Share of the right answers on validation data that the rejection
        threshold keeps, above 0 and at most 1.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the run is not finished, or the folder is there already.
    """
    run, out = Path(run), Path(out)
    if out.exists():
        raise ValueError(f"{out} exists: choose another folder, or delete it")
    hparams, text, modules, schema = load_run(run)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    threshold, rejection = rejection_of(
        run / "predictions_valid.csv", schema, keep
    )
    rate = hparams["sample_rate"]
    values = plain_values(text)
    encoder_yaml, folder = _with_own_folder(values["encoder"])
    # Encoders of others bring their weights; ours are saved here.
    saved = {"student": modules["student"]}
    if not modules["encoder"].pretrained:
        saved["encoder"] = modules["encoder"]
    student = {
        "num_logits": schema.num_logits,
        "input_size": modules["encoder"].feature_size,
        "layers": modules["encoder"].layers,
    }
    hyperparams = HYPERPARAMS.format(
        sample_rate=rate,
        threshold=threshold,
        schema=json.dumps(schema.to_dict()),
        encoder=encoder_yaml,
        student=object_yaml("student", values["student"], student),
        loadables="\n".join(f"        {name}: !ref <{name}>" for name in saved),
        sha256=package_hash(schema, threshold, rate, modules),
    )
    check_writable(out.parent, 100)
    part = out.parent / f".{out.name}.{uuid.uuid4().hex}.part"
    try:
        part.mkdir()
        if folder is not None:
            shutil.copytree(folder, part / "encoder")
        for name, module in saved.items():
            buffer = io.BytesIO()
            torch.save(module.state_dict(), buffer)
            (part / f"{name}.ckpt").write_bytes(buffer.getvalue())
        files = {
            "hyperparams.yaml": hyperparams,
            "custom_interface.py": INTERFACE,
            "requirements.txt": f"slu-kd-lobes=={_version(metrics)}\n",
            "README.md": _card(hparams, metrics, schema, threshold, rejection),
        }
        for name, content in files.items():
            (part / name).write_text(content, encoding="utf-8")
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _with_own_folder(encoder_yaml):
    """The YAML of an encoder, and the folder that must be copied with it."""
    found = re.search(r"^\s*source:\s*(.+)$", encoder_yaml, re.M)
    source = found and found[1].strip().strip("'\"")
    if not source or not Path(source).is_dir():
        return encoder_yaml, None
    line = found[0].replace(found[1], "!ref <package_folder>/encoder")
    return encoder_yaml.replace(found[0], line), source


def _version(metrics):
    return metrics["versions"]["slu_kd_lobes"]


def _card(hparams, metrics, schema, threshold, rejection):
    """The model card, from what the run left."""
    main = metrics["main_test"]
    tests = {
        main if name == "test" else name: block
        for name, block in metrics.items()
        if isinstance(block, dict) and "intent_error" in block
    }
    teachers = hparams["teachers"]
    teaching = "It was trained on the labels alone."
    if teachers:
        teaching = (
            f"Its {' and its '.join(teachers)} (a fine-tuned text model on the "
            "transcripts) taught it by knowledge distillation."
        )
    versions = {**metrics["versions"]}
    if metrics["commit"]:
        versions["commit"] = metrics["commit"]
    return CARD.format(
        config=metrics["config"],
        **metrics["parameters"],
        encoder_name=type(hparams["encoder"]).__name__,
        count=len(schema.names),
        teaching=teaching,
        slots="\n".join(
            f"| {name} | {', '.join(values)} |"
            for name, values in schema.values.items()
        ),
        n_train=metrics["n_train"],
        seed=metrics["seed"],
        epoch=hparams["test_epoch"],
        results=results_table(tests),
        main_test=main,
        nll=metrics["test"]["nll"],
        ece=metrics["test"]["ece"],
        threshold=threshold,
        **rejection,
        versions=", ".join(f"{name} {v}" for name, v in versions.items()) + ".",
    )
