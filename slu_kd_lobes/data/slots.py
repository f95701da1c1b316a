"""The slot schema: which slots there are, and which values each can take.

An utterance's meaning is one value for every slot: in Fluent Speech Commands
an action, an object and a location. Student and teacher write their logits
for all slots side by side (6 | 14 | 4 for Fluent Speech Commands), so that one
distance between two vectors compares them. The schema is the only place that
knows which logit means what.

Authors
 * slu_kd_lobes authors
"""

import hashlib
import json
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from slu_kd_lobes.utils.files import write_text


@register_checkpoint_hooks
class SlotSchema:
    """Ordered slots and their ordered values: the one label map.

    Student, teacher and files all take it from here.

    It is also a recoverable of SpeechBrain's Checkpointer: every checkpoint
    carries its schema, and a checkpoint of another schema refuses to load, in
    place of loading and predicting the wrong values.

    Source: the slot-wise logits of Lugosch et al. (2019), "Speech model
    pre-training for end-to-end spoken language understanding", which Cho et
    al. (2020) distil into; here for any slots.

    Arguments
    ---------
    slots : dict
        Maps each slot's name to the list of its values. The order of both is
        the order of the logits.

    Raises
    ------
    ValueError
        If there is no slot, a slot has no value or one value twice, or a name
        or value is not a non-empty string.

    Example
    -------
    >>> schema = SlotSchema(
    ...     {"action": ["activate", "deactivate"], "object": ["lamp", "music"]}
    ... )
    >>> schema.encode({"action": "activate", "object": "music"})
    [0, 1]
    >>> schema.decode([0, 1])
    {'action': 'activate', 'object': 'music'}
    >>> schema.slices["object"]
    slice(2, 4, None)
    """

    def __init__(self, slots):
        self._values = _checked_slots(slots)
        self._indices = {
            name: {value: index for index, value in enumerate(values)}
            for name, values in self._values.items()
        }

    @classmethod
    def from_rows(cls, rows, names):
        """Collects each slot's values from rows of a corpus, in sorted order.

        The order does not depend on the order of the rows, so that two
        machines, or two releases of a corpus, agree on it.

        Arguments
        ---------
        rows : iterable of dict
            Each maps slot names (and any other column) to values.
        names : list of str
            The slots, in order.

        Returns
        -------
        SlotSchema
            The schema of all values seen.

        Example
        -------
        >>> rows = [{"object": "music"}, {"object": "lamp"}]
        >>> SlotSchema.from_rows(rows, ["object"]).values
        {'object': ['lamp', 'music']}
        """
        names = list(names)
        if len(set(names)) < len(names):
            raise ValueError(f"A slot is named twice in {names}.")
        seen = {name: set() for name in names}
        for row in rows:
            for name in names:
                seen[name].add(row[name])
        return cls({name: sorted(seen[name]) for name in names})

    @property
    def names(self):
        """The slots in order, a list of str."""
        return list(self._values)

    @property
    def values(self):
        """The values of each slot in order, a dict of lists of str."""
        return {name: list(values) for name, values in self._values.items()}

    @property
    def sizes(self):
        """How many values each slot has, a list of int in slot order."""
        return [len(values) for values in self._values.values()]

    @property
    def num_logits(self):
        """How many logits a model of this schema has: one a value."""
        return sum(self.sizes)

    @property
    def slices(self):
        """Each slot's place in the last dimension, a dict of slice."""
        ends = accumulate(self.sizes)
        return {
            name: slice(end - len(values), end)
            for (name, values), end in zip(self._values.items(), ends)
        }

    @property
    def fingerprint(self):
        """A sha256 of names, values and their order, 64 hexadecimal digits."""
        content = json.dumps(
            [[name, values] for name, values in self._values.items()],
            ensure_ascii=True,
            separators=(",", ":"),
        )
        return hashlib.sha256(content.encode("ascii")).hexdigest()

    def encode(self, row):
        """Turns the values of an utterance into label indices.

        Arguments
        ---------
        row : dict
            Maps each slot's name to its value; other keys are ignored.

        Returns
        -------
        list of int
            One index a slot, in slot order.

        Raises
        ------
        ValueError
            If a slot is missing or has a value that the schema lacks.
        """
        return [self._encode_slot(name, row) for name in self._values]

    def _encode_slot(self, name, row):
        """Returns the index of the value that a row gives one slot."""
        if name not in row:
            raise ValueError(
                f"The row has no slot '{name}': it has {sorted(row)} and the "
                f"schema needs {self.names}."
            )
        value = row[name]
        if value not in self._indices[name]:
            raise ValueError(
                f"The slot '{name}' has no value '{value}': its values are "
                f"{self._values[name]}."
            )
        return self._indices[name][value]

    def decode(self, indices):
        """Turns label indices into the values they stand for.

        Arguments
        ---------
        indices : sequence of int, or integer tensor
            One index a slot, in slot order, shape [slots].

        Returns
        -------
        dict
            Maps each slot's name to its value.

        Raises
        ------
        ValueError
            If there are not as many indices as slots, or one is out of range.
        """
        indices = [int(index) for index in indices]
        if len(indices) != len(self._values):
            raise ValueError(
                f"{len(indices)} indices were given for the "
                f"{len(self._values)} slots {self.names}."
            )
        for (name, values), index in zip(self._values.items(), indices):
            # A negative index would silently count from the end.
            if not 0 <= index < len(values):
                raise ValueError(
                    f"The slot '{name}' has no index {index}: it has "
                    f"{len(values)} values."
                )
        return {
            name: values[index]
            for (name, values), index in zip(self._values.items(), indices)
        }

    def split(self, logits):
        """Cuts concatenated logits into one view a slot.

        Arguments
        ---------
        logits : torch.Tensor
            Shape [..., num_logits], for example [batch, num_logits].

        Returns
        -------
        list of torch.Tensor
            Views of shape [..., size] in slot order.

        Raises
        ------
        ValueError
            If the last dimension is not `num_logits`.

        Example
        -------
        >>> import torch
        >>> schema = SlotSchema({"action": ["on", "off"], "object": ["lamp"]})
        >>> [part.tolist() for part in schema.split(torch.tensor([[5, 6, 7]]))]
        [[[5, 6]], [[7]]]
        """
        if logits.shape[-1] != self.num_logits:
            raise ValueError(
                f"The logits have a last dimension of {logits.shape[-1]}, but "
                f"the slots {self.names} need {self.num_logits}."
            )
        return list(logits.split(self.sizes, dim=-1))

    def to_dict(self):
        """Returns the schema as plain lists and strings, for JSON or YAML.

        Returns
        -------
        dict
            "slots": a list of {"name", "values"} in order; "fingerprint".
        """
        slots = [
            {"name": name, "values": list(values)}
            for name, values in self._values.items()
        ]
        return {"slots": slots, "fingerprint": self.fingerprint}

    @classmethod
    def from_dict(cls, content):
        """Builds the schema that `to_dict` described.

        Arguments
        ---------
        content : dict or str
            What `to_dict` returned, or that as JSON.

        Returns
        -------
        SlotSchema
            An equal schema.

        Raises
        ------
        ValueError
            If the content has another form, or its fingerprint is not that of
            its slots.
        """
        if isinstance(content, str):
            content = json.loads(content)
        try:
            pairs = [
                (slot["name"], slot["values"]) for slot in content["slots"]
            ]
            fingerprint = content["fingerprint"]
        except (TypeError, KeyError) as error:
            raise ValueError("This is not a slot schema.") from error
        names = [name for name, _ in pairs]
        schema = cls(dict(pairs))
        if len(set(names)) < len(names) or schema.fingerprint != fingerprint:
            raise ValueError(
                "The slots do not match their fingerprint: they were changed "
                "after they were saved."
            )
        return schema

    @mark_as_saver
    def save(self, path):
        """Writes the schema as JSON, whole or not at all.

        Arguments
        ---------
        path : str or Path
            The file to write, for example "slots.json".

        Example
        -------
        >>> path = getfixture("tmp_path") / "slots.json"
        >>> schema = SlotSchema({"action": ["activate", "deactivate"]})
        >>> schema.save(path)
        >>> SlotSchema.load(path) == schema
        True
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path):
        """Reads a schema that `save` wrote.

        Arguments
        ---------
        path : str or Path
            The JSON file.

        Returns
        -------
        SlotSchema
            The schema.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged or was edited.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no slot schema at {path}: prepare the data first."
            )
        try:
            return cls.from_dict(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"The slot schema {path} is damaged, restore it or prepare "
                f"the data again: {error}"
            ) from error

    @mark_as_loader
    def _compare_with_checkpoint(self, path, end_of_epoch):
        """Refuses a checkpoint that was saved with another schema."""
        del end_of_epoch  # The schema does not change as training goes on.
        saved = type(self).load(path)
        if saved != self:
            raise ValueError(
                f"The checkpoint {Path(path).parent} was trained with other "
                f"slots: {_first_difference(saved, self)}; prepare the data "
                "with the checkpoint's slots, or train into a new "
                "output_folder."
            )

    def __eq__(self, other):
        """Schemas are equal when names, values and their order are."""
        if not isinstance(other, SlotSchema):
            return NotImplemented
        return self.fingerprint == other.fingerprint

    def __hash__(self):
        """Equal schemas hash alike."""
        return hash(self.fingerprint)

    def __repr__(self):
        """Shows the slots as the constructor takes them."""
        return f"SlotSchema({self._values})"


def _checked_slots(slots):
    """Copies the slots, or says which of them cannot be one."""
    if not isinstance(slots, Mapping) or not slots:
        raise ValueError(
            "A slot schema needs at least one slot, as a mapping from slot "
            f"name to list of values, not {slots!r}."
        )
    checked = {}
    for name, values in slots.items():
        _check_text(name, "slot name")
        if isinstance(values, str) or not values:
            raise ValueError(
                f"The slot '{name}' needs a list of at least one value, not "
                f"{values!r}."
            )
        values = list(values)
        for value in values:
            _check_text(value, f"value of slot '{name}'")
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise ValueError(f"The slot '{name}' has '{twice}' twice.")
        checked[name] = values
    return checked


def _check_text(text, what):
    """Raises unless `text` is a non-empty string."""
    if not isinstance(text, str) or not text.strip():
        # YAML reads a bare on, off, yes, no or number as something else.
        raise ValueError(
            f"A {what} must be a non-empty string, not {text!r} (in YAML, "
            "quote it)."
        )


def _first_difference(saved, current):
    """Describes the first way in which a checkpoint's schema differs."""
    if saved.names != current.names:
        return f"it has {saved.names} and this model {current.names}"
    for name in saved.names:
        ours, theirs = current.values[name], saved.values[name]
        if ours == theirs:
            continue
        missing = [value for value in theirs if value not in ours]
        added = [value for value in ours if value not in theirs]
        if missing or added:
            return (
                f"in slot '{name}' the model has lost the values {missing} "
                f"and gained {added}"
            )
        return f"slot '{name}' has {theirs} there and {ours} here"
    raise AssertionError("The schemas do not differ.")
