"""Finished runs as folders that others load in one line.

The layout is that of SpeechBrain's pre-trained models: ``hyperparams.yaml``
(how the model is made and what is loaded into it), the weights (``*.ckpt``)
and ``README.md``, the model card; a student also has ``requirements.txt``, the
wheel that it names, and, where it is asked for, ``custom_interface.py`` for
SpeechBrain's ``foreign_class``.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.comments import TaggedScalar
from ruamel.yaml.tag import Tag

from slu_kd_lobes.data.slots import SlotSchema
from slu_kd_lobes.evaluation.metrics import error_threshold, rejection_threshold
from slu_kd_lobes.inference.classifier import (
    PACKAGE_FORMAT,
    package_hash,
    sealed,
)
from slu_kd_lobes.inference.model_card import (
    markdown_table,
    model_card,
    public_command,
    student_card,
)
from slu_kd_lobes.inference.saved_objects import object_yaml, save_weights
from slu_kd_lobes.inference.templates import (
    ENCODER,
    ENCODER_LIMITS,
    ENCODER_SOURCES,
    FOREIGN_CLASS,
    INTERFACE,
    STUDENT,
    USE,
)
from slu_kd_lobes.training.checkpoints import WholeCheckpointer
from slu_kd_lobes.training.hparams import load_hparams
from slu_kd_lobes.utils.distribution import write_wheel
from slu_kd_lobes.utils.environment import git_commit, package_versions
from slu_kd_lobes.utils.files import check_writable, read_csv, whole, write_text
from slu_kd_lobes.utils.fingerprints import file_fingerprint, module_fingerprint
from slu_kd_lobes.utils.hub import reason_of


def rejection_of(path, schema, keep=None, max_wrong=None):
    """The threshold, and what it does on validation data.

    Arguments
    ---------
    path : str or Path
        The run's predictions on validation data.
    schema : SlotSchema
        Names of the slots.
    keep : float or None
        Share of the right answers that is kept, 0.98 by default.
    max_wrong : float or None
        In place of it, share of the accepted answers that may be wrong.

    Returns
    -------
    float
        The threshold.
    dict
        ``n_valid``, ``accepted``, ``kept`` (percent of the right answers),
        ``wrong`` and ``caught``, the wrong answers and those that are rejected.

    Raises
    ------
    ValueError
        If both shares are given, or one cannot be.
    """
    if keep is not None and max_wrong is not None:
        raise ValueError("give keep or max_wrong: each chooses the threshold")
    rows = read_csv(path)
    probabilities = np.ones(len(rows))
    right = np.ones(len(rows), dtype=bool)
    for name in schema.names:
        probabilities *= [float(row[f"{name}_probability"]) for row in rows]
        right &= [
            row[f"{name}_true"] == row[f"{name}_predicted"] for row in rows
        ]
    if max_wrong is not None:
        threshold = error_threshold(probabilities, right, max_wrong)
    else:
        keep = 0.98 if keep is None else keep
        threshold = rejection_threshold(probabilities, right, keep)
    accepted = probabilities >= threshold
    return threshold, {
        "n_valid": len(rows),
        "accepted": int(accepted.sum()),
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
    if "make_encoder" not in hparams:
        raise ValueError(
            f"{run} is a run of an older version of this recipe: train it "
            "again with this one, or package it with that one"
        )
    best = "valid_error" if hparams["test_epoch"] == "best" else None
    checkpoint = WholeCheckpointer(run / "save").find_checkpoint(min_key=best)
    if checkpoint is None:
        raise ValueError(f"{run}/save has no checkpoint: train again")
    schema = SlotSchema.load(checkpoint.path / "slots.ckpt")
    encoder = hparams["make_encoder"]()
    saved = checkpoint.path / "encoder.ckpt"
    if saved.is_file():
        encoder.load_state_dict(torch.load(saved, weights_only=True))
    else:
        made_from = json.loads((checkpoint.path / "made_from.ckpt").read_text())
        if made_from["encoder"] != module_fingerprint(encoder):
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


def package_run(run, out, keep=None, foreign_class=False, max_wrong=None):
    """Writes the folder of a finished run; whole or not at all.

    Arguments
    ---------
    run : str or Path
        Output folder of a finished run.
    out : str or Path
        The folder to be made.
    keep : float or None
        Share of the right answers on validation data that the rejection
        threshold keeps, above 0 and at most 1; 0.98 by default.
    foreign_class : bool
        Whether the folder gets the Python file that SpeechBrain's
        ``foreign_class`` runs.

    max_wrong : float or None
        In place of `keep`: share of the accepted answers on validation data
        that may be wrong, from 0 to below 1.

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
    if not hasattr(modules["student"], "frame_logits"):
        raise ValueError(
            f"a {type(modules['student']).__name__} cannot be packaged: "
            "only a student with logits of each frame can, IntentClassifier"
        )
    try:
        metrics = json.loads((run / "metrics.json").read_bytes())
        threshold, rejection = rejection_of(
            run / "predictions_valid.csv", schema, keep, max_wrong
        )
    except (UnicodeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"the metrics or the predictions in {run} are damaged "
            f"({reason_of(error)}): run its command again"
        ) from error
    encoder = modules["encoder"]
    tree = YAML().load(resolve_references(text).getvalue())
    encoder_node, copied = _encoder_node(tree, encoder)
    student = {
        "num_logits": schema.num_logits,
        "input_size": encoder.feature_size,
        "layers": encoder.layers,
    }
    # Encoders of others bring their weights; ours are saved here.
    saved = {"student": modules["student"]}
    if not encoder.frozen:
        saved["encoder"] = encoder
    rate = encoder.sample_rate
    hyperparams = STUDENT.format(
        package_format=PACKAGE_FORMAT,
        sample_rate=rate,
        threshold=threshold,
        schema=_json_in_yaml(schema.to_dict()),
        encoder=object_yaml("encoder", encoder_node),
        student=object_yaml("student", tree["student"], **student),
        loadables="\n".join(f"        {name}: !ref <{name}>" for name in saved),
        sha256=package_hash(schema, threshold, rate, modules),
    )
    card = student_card(hparams, metrics, schema, threshold, rejection)
    files = {"hyperparams.yaml": sealed(hyperparams)}
    if foreign_class:
        files["custom_interface.py"] = INTERFACE
        card = card.replace(USE, f"{USE}\n\n{FOREIGN_CLASS}")
    check_writable(out.parent, 100)
    with whole(out) as part:
        part.mkdir()
        if copied is not None:
            shutil.copytree(copied, part / "encoder")
        for name, module in saved.items():
            save_weights(module, part / f"{name}.ckpt")
        files["requirements.txt"] = f"./{write_wheel(part).name}\n"
        files["README.md"] = card
        for name, content in files.items():
            write_text(part / name, content)
    return out


def _json_in_yaml(content):
    """JSON as one text of YAML; what YAML cannot hold is escaped in the JSON.

    As lists and texts of YAML it would not come back: HyperPyYAML writes its
    file anew, where `?off` becomes a key, and a next line (U+0085) a space.
    """
    text = re.sub(
        "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]",
        lambda match: f"\\u{ord(match[0]):04x}",
        json.dumps(content, ensure_ascii=False),
    )
    return "'" + text.replace("'", "''") + "'"


def _encoder_node(tree, encoder):
    """How the encoder is made, and the folder that must go with it."""
    node = tree["encoders"][tree["encoder"]]
    if not encoder.frozen:
        del node["source"]
        return node, None
    source = node["source"]
    if not Path(source).is_dir():
        return node, None
    node["source"] = TaggedScalar(
        "<package_folder>/encoder", style=None, tag=Tag(suffix="!ref")
    )
    return node, source


def package_encoder(folder, encoder, facts):
    """Writes a pre-trained encoder; each file whole or not at all.

    The model card comes last and states the hash of the weights, so that
    files of two exports are not taken for one.

    Arguments
    ---------
    folder : str or Path
        Made if missing. Other files in it are left alone.
    encoder : SincNetEncoder
        With the weights.
    facts : dict
        What the run knows: ``encoder``, how the encoder is made (an object's
        YAML with its key); ``description`` (a sentence on the data),
        ``command`` (its arguments, a list), ``data`` ({split: (utterances,
        hours)}), ``seed``, ``epochs``, ``epoch`` and ``accuracies`` ({name:
        percent}).

    Example
    -------
    >>> from slu_kd_lobes.students.sincnet import SincNetEncoder
    >>> encoder, folder = SincNetEncoder(), getfixture("tmp_path")
    >>> package_encoder(
    ...     folder,
    ...     encoder,
    ...     {
    ...         "encoder": "encoder: "
    ...         "!new:slu_kd_lobes.students.sincnet.SincNetEncoder",
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
    save_weights(encoder, folder / "encoder.ckpt")
    hyperparams = ENCODER.format(
        feature_size=encoder.feature_size,
        sample_rate=encoder.sample_rate,
        encoder=facts["encoder"],
    )
    write_text(folder / "hyperparams.yaml", hyperparams)
    parameters = sum(p.numel() for p in encoder.parameters())
    data = [
        [split, f"{utterances:,}", f"{hours:.2f}"]
        for split, (utterances, hours) in facts["data"].items()
    ]
    accuracies = [[k, f"{v:.2f}"] for k, v in facts["accuracies"].items()]
    digest = file_fingerprint(folder / "encoder.ckpt")
    card = model_card(
        "SincNet encoder, pre-trained for speech recognition",
        f"{facts['description']}\n\nA SincNet front end, two bidirectional GRU "
        f"layers of 40 ms and two of 160 ms\n({parameters:,} parameters) turn "
        f"audio of {encoder.sample_rate} Hz into one vector of\n"
        f"{encoder.feature_size} values every 160 ms. It is the encoder of "
        "Lugosch et al. 2019 and of the\nstudent of Cho et al. 2020; "
        "`hyperparams.yaml` shows how to load it.",
        {
            "Training": (
                f"```\n{public_command(facts['command'])}\n```\n\n"
                + markdown_table(["split", "utterances", "hours"], data)
                + f"\n\nSeed {facts['seed']}; {facts['epochs']} epochs, of "
                f"which epoch {facts['epoch']} is the one with the best\n"
                "validation word accuracy, and the one that is here."
            ),
            "Validation accuracy": markdown_table(
                ["what is right", "%"], accuracies
            ),
            "Weights": f"SHA-256 of `encoder.ckpt`: `{digest}`",
            "Sources": ENCODER_SOURCES,
        },
        ENCODER_LIMITS,
        {**package_versions(), "commit": git_commit()},
    )
    write_text(folder / "README.md", card)
