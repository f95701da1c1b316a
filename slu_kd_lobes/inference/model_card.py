"""The README.md of a model that others load.

Every model card here has the same parts: what the model is, how it is used,
its results, what it is not good for, and what it was made with.
"""

import re
import shlex

from slu_kd_lobes.evaluation.report import results_table, unfinished
from slu_kd_lobes.inference.templates import STUDENT_LIMITS, USE

HEADER = """\
---
library_name: speechbrain
tags:
- speechbrain
- spoken-language-understanding
---
"""


def model_card(title, introduction, sections, limits, versions):
    """Writes a model card.

    Arguments
    ---------
    title : str
    introduction : str
        What the model is.
    sections : dict
        Text by heading: use, training, results.
    limits : list of str
        What the model is not good for.
    versions : dict
        Version of each package, and perhaps the ``commit``.

    Returns
    -------
    str
        Markdown with the header of a model hub.

    Example
    -------
    >>> card = model_card("A model", "It hears.", {"Use": "`hear()`"}, [], {})
    >>> print(card.split("---")[-1].strip())
    # A model
    <BLANKLINE>
    It hears.
    <BLANKLINE>
    ## Use
    <BLANKLINE>
    `hear()`
    <BLANKLINE>
    ## What it is not good for
    <BLANKLINE>
    ## Made with
    """
    made_with = ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    sections = {
        **sections,
        "What it is not good for": "\n".join(f"- {text}" for text in limits),
        "Made with": f"{made_with}." if made_with else "",
    }
    parts = [HEADER, f"# {title}", introduction]
    for heading, text in sections.items():
        parts += [f"## {heading}", text]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def markdown_table(header, rows):
    """Rows as a table in Markdown.

    Arguments
    ---------
    header : list of str
    rows : list of list

    Returns
    -------
    str

    Example
    -------
    >>> print(markdown_table(["slot", "values"], [["object", "lamp, music"]]))
    | slot | values |
    |---|---|
    | object | lamp, music |
    """
    rows = [[_cell(value) for value in row] for row in (header, *rows)]
    lines = [rows[0], ["---"] * len(header), *rows[1:]]
    text = "\n".join("| " + " | ".join(row) + " |" for row in lines)
    return text.replace("| --- ", "|---").replace("--- |", "---|")


def _cell(value):
    """Text that stays in its cell."""
    return " ".join(str(value).replace("|", r"\|").split())


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


def student_card(hparams, metrics, schema, threshold, rejection):
    """The model card of a student, from what its run left.

    Arguments
    ---------
    hparams, metrics : dict
        Of the run.
    schema : SlotSchema
    threshold : float
    rejection : dict
        What the threshold does on validation data; see
        `slu_kd_lobes.inference.package.rejection_of`.

    Returns
    -------
    str
        Markdown.
    """
    main, test = metrics["main_test"], metrics["test"]
    tests = {"valid": metrics["valid"], **metrics["tests"]}
    teaching = "It was trained on the labels alone."
    if hparams["teachers"]:
        teaching = (
            f"Its {' and its '.join(hparams['teachers'])} (a fine-tuned text "
            "model on the\ntranscripts) taught it by knowledge distillation."
        )
    note = ""
    if metrics.get("still_learning"):
        note = f"\nNote: {unfinished(metrics['history'])}."
    accepted = rejection["accepted"]
    accepted_wrong = rejection["wrong"] - rejection["caught"]
    sizes = metrics["parameters"]
    return model_card(
        f"Spoken commands to slots: {metrics['config']}",
        f"A student of {sizes['trained']:,} trained parameters on an encoder "
        f"of {sizes['frozen']:,} frozen\nones ({hparams['encoder']}) hears a "
        f"command and fills {len(schema.names)} slots, without writing it "
        f"down.\n{teaching}",
        {
            "Use": USE,
            "Slots": markdown_table(
                ["slot", "values"],
                [
                    [name, ", ".join(values)]
                    for name, values in schema.values.items()
                ],
            ),
            "Results": (
                f"Trained on {metrics['n_train']:,} utterances, seed "
                f"{metrics['seed']}, the {hparams['test_epoch']} epoch tested."
                f"{note}\n\n```\n{results_table(tests)}\n```\n\n"
                f"Calibration on `{main}`: negative log likelihood "
                f"{test['nll']:.3f}, expected\ncalibration error "
                f"{test['ece']:.3f}."
            ),
            "Rejection": (
                "An answer is rejected when the product of its slots' "
                f"probabilities is below\n{threshold}. On the "
                f"{rejection['n_valid']:,} validation utterances that keeps "
                f"{rejection['kept']:.1f} %\nof the right answers and rejects "
                f"{rejection['caught']} of the {rejection['wrong']} wrong "
                f"ones. Of the {accepted:,} that it\naccepts, {accepted_wrong:,} "
                f"are wrong ({100 * accepted_wrong / accepted:.1f} %)."
            ),
        },
        STUDENT_LIMITS,
        {**metrics["versions"], "commit": metrics["commit"]},
    )
