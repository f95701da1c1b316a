"""The README.md of a model that others load.

Every model card here has the same parts: what the model is, how it is used,
its results, what it is not good for, and what it was made with.
"""

import re
import shlex

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
    lines = [header, ["---"] * len(header), *rows]
    text = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in lines)
    return text.replace("| --- ", "|---").replace("--- |", "---|")


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
