"""Sentences that somebody typed, and what they mean: lists and templates.

A list is a CSV file with a `transcription` and a column for each slot. A
template is in the notation of Home Assistant, as the package hassil reads it::

    language: en
    intents:
      SetLight:
        data:
          - sentences: ["(turn|switch) on [the] {room} light[s]"]
            slots: {action: activate, object: lights}
    lists:
      room:
        values: [kitchen, {in: "bed[ ]room", out: bedroom}]
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import hassil
import yaml
from hassil.errors import HassilError
from hassil.parser import ParseError

from slu_kd_lobes.data.transcripts import normalise_transcript, plain
from slu_kd_lobes.losses.asr import LETTERS
from slu_kd_lobes.utils.files import read_csv

#: Columns of a list that are no slots.
OTHER_COLUMNS = ("", "path", "speakerId", "transcription")


class Sentence(NamedTuple):
    """A sentence of a list.

    Arguments
    ---------
    text : str
        As it is said, of `LETTERS`.
    slots : dict
        Values by name.
    place : str
        File and row, for messages.
    """

    text: str
    slots: dict
    place: str


def spoken(text):
    """A text as it is said: letters, apostrophes and single spaces.

    Arguments
    ---------
    text : str

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it is empty, or something in it cannot be said.

    Example
    -------
    >>> spoken("Set the café's lamp to 25!")
    "set the cafe's lamp to twenty five"
    >>> spoken("灯")
    Traceback (most recent call last):
    ...
    ValueError: '灯' of '灯' cannot be pronounced: write it in English letters
    """
    said = plain(text)
    for letter in said:
        if letter not in LETTERS:
            raise ValueError(
                f"'{letter}' of '{text}' cannot be pronounced: write it in "
                "English letters"
            )
    if not said:
        raise ValueError("there is no sentence: write one, or delete the line")
    return said


def read_list(path):
    """Reads the sentences of a CSV file.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    list of Sentence

    Raises
    ------
    ValueError
        If a row is empty, cannot be said, or says what another one says.
    """
    found, rows = [], read_csv(path)
    if not rows or "transcription" not in rows[0]:
        raise ValueError(
            f"{path} has no sentences: give it a column 'transcription', and "
            "one for each slot"
        )
    slots = [name for name in rows[0] if name not in OTHER_COLUMNS]
    if not slots:
        raise ValueError(
            f"{path} does not say what its sentences mean: give it a column "
            "for each slot"
        )
    for number, row in enumerate(rows, start=2):
        place = f"{path}, row {number}"
        for name in slots:
            if not row[name]:
                raise ValueError(
                    f"{place}: the slot '{name}' is empty: write a value, "
                    "such as none"
                )
        try:
            text = spoken(row["transcription"])
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        found.append(Sentence(text, {name: row[name] for name in slots}, place))
    check_different(found)
    return found


def check_different(sentences):
    """Refuses sentences that are there twice.

    Arguments
    ---------
    sentences : list of Sentence

    Raises
    ------
    ValueError
        If two are the same to a listener.
    """
    known = {}
    for sentence in sentences:
        first = known.setdefault(sentence.text, sentence)
        if first is sentence:
            continue
        if first.slots == sentence.slots:
            raise ValueError(
                f"{sentence.place}: '{sentence.text}' is there already "
                f"({first.place}): delete one"
            )
        raise ValueError(
            f"{sentence.place}: '{sentence.text}' means {sentence.slots} here "
            f"and {first.slots} in {first.place}: delete one"
        )


def add_list(graph, sentences):
    """Adds sentences to a graph.

    Arguments
    ---------
    graph : slu_kd_lobes.inference.sentence_graph.Graph
    sentences : list of Sentence
    """
    for sentence in sentences:
        end = graph.listed(sentence.text)
        graph.accept(graph.mark(end, sentence.slots))


def read_templates(path, text=None):
    """Reads a file of templates.

    Arguments
    ---------
    path : str or Path
    text : str or None
        What is in the file; None: it is read.

    Returns
    -------
    Templates

    Raises
    ------
    ValueError
        If it cannot be read as such.
    """
    try:
        text = Path(path).read_text("utf-8") if text is None else text
        content = yaml.safe_load(text)
        return Templates(hassil.Intents.from_dict(content), str(path))
    except (
        HassilError,
        ParseError,
        yaml.YAMLError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(
            f"{path} is no file of sentence templates ({error}): see "
            "https://github.com/home-assistant/hassil"
        ) from error


class Templates:
    """Templates of sentences, and the values of their slots.

    Arguments
    ---------
    intents : hassil.Intents
    place : str
        The file, for messages.

    Example
    -------
    >>> from slu_kd_lobes.inference.sentence_graph import Graph
    >>> content = {
    ...     "language": "en",
    ...     "intents": {
    ...         "Light": {"data": [{"sentences": ["[the] {room} light[s] on"]}]}
    ...     },
    ...     "lists": {"room": {"values": ["kitchen", "hall"]}},
    ... }
    >>> templates = Templates(hassil.Intents.from_dict(content), "here")
    >>> templates.add_to(Graph())
    8
    """

    def __init__(self, intents, place):
        self.intents, self.place = intents, place

    def add_to(self, graph):
        """Adds all sentences to a graph.

        Arguments
        ---------
        graph : slu_kd_lobes.inference.sentence_graph.Graph

        Returns
        -------
        int
            How many there are.

        Raises
        ------
        ValueError
            If a part cannot be said, or there is no such list or rule.
        """
        count = 0
        for name, intent in self.intents.intents.items():
            for data in intent.data:
                slots = {"intent": name, **data.slots}
                walk = _Walk(graph, self.intents, data)
                for text in data.sentence_texts:
                    try:
                        whole = hassil.parse_sentence(text, keep_text=True)
                        end, ways = walk(graph.start, whole.expression)
                    except (ValueError, HassilError, ParseError) as error:
                        raise ValueError(
                            f"{self.place}, {name}, '{text}': {error}"
                        ) from error
                    graph.accept(graph.mark(end, slots))
                    count += ways
        return count


class _Walk:
    """Adds an expression to a graph: its end, and how many ways lead there."""

    def __init__(self, graph, intents, data):
        self.graph, self.intents, self.data = graph, intents, data

    def __call__(self, state, part):
        """Adds one part behind a state."""
        if isinstance(part, hassil.TextChunk):
            return self.graph.text(state, _chunk(part.original_text)), 1
        if isinstance(part, hassil.Permutation):
            orders = itertools.permutations(part.items)
            ways = [hassil.Sequence(items=[*items]) for items in orders]
            return self.any_of(state, [(way, None) for way in ways])
        if isinstance(part, hassil.Alternative):
            return self.any_of(state, [(item, None) for item in part.items])
        if isinstance(part, hassil.Sequence):
            count = 1
            for item in part.items:
                state, ways = self(state, item)
                count *= ways
            return state, count
        if isinstance(part, hassil.RuleReference):
            name = part.rule_name
            rules = {
                **self.intents.expansion_rules,
                **self.data.expansion_rules,
            }
            return self(state, _named("rule", name, rules).expression)
        return self.any_of(state, self.values(part))

    def any_of(self, state, ways):
        """Adds parts beside each other, some with a value of a slot."""
        end, count = self.graph.state(), 0
        for part, slots in ways:
            last, number = self(state, part)
            if slots is not None:
                last = self.graph.mark(last, slots)
            self.graph.arc(last, end)
            count += number
        return end, count

    def values(self, part):
        """What may stand for a list, and the value that it means."""
        if part.is_inline_range:
            first, last, step = part.get_inline_range()
            numbers = range(first, last + 1, step)
        else:
            lists = {**self.intents.slot_lists, **self.data.slot_lists}
            found = _named("list", part.list_name, lists)
            if isinstance(found, hassil.TextSlotList):
                for value in found.values:
                    if value.value_out is None:
                        raise ValueError(
                            f"a value of the list '{part.list_name}' does not "
                            "say what it means: write {in: ..., out: ...}"
                        )
                return [
                    (value.text_in, {part.slot_name: str(value.value_out)})
                    for value in found.values
                ]
            if not isinstance(found, hassil.RangeSlotList):
                raise ValueError(
                    f"the list '{part.list_name}' has no values: what is free "
                    "cannot be listed"
                )
            numbers = found.get_numbers()
        return [
            (hassil.TextChunk(str(x)), {part.slot_name: str(x)})
            for x in numbers
        ]


def _named(kind, name, known):
    if name not in known:
        raise ValueError(f"there is no {kind} '{name}': write it down")
    return known[name]


def _chunk(text):
    """A part of a sentence as it is said, with the spaces at its ends."""
    if not normalise_transcript(text):
        return " " if text else ""
    before, after = (" " if x.isspace() else "" for x in (text[0], text[-1]))
    return f"{before}{spoken(text)}{after}"
