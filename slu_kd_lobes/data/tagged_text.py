"""Transcripts with the slots marked in them, as labels of CTC and back."""

import re

from slu_kd_lobes.data.transcripts import normalise_transcript


class TaggedText:
    """What a model of CTC slot filling writes: letters, and marks round slots.

    A value that the transcript says word for word is marked where it stands,
    one that it says otherwise ("turn on" for "activate") is written at the end.

    Source: Yang et al. 2021, "SUPERB: Speech processing Universal PERformance
    Benchmark", section 2.2.3, slot filling.

    Arguments
    ---------
    slots : list of str
    characters : str
        Those that can be written; the others of a text are left out.
    absent : str
        The value of a slot that is not in an utterance.

    Example
    -------
    >>> text = TaggedText(["size", "milk"], "acefgiklmors ")
    >>> row = {"size": "large", "milk": "none"}
    >>> labels = text.encode("Large, for me", row)
    >>> text.show(labels)
    '<size>large</size> for me'
    >>> text.decode(labels)
    {'size': ['large']}
    """

    def __init__(self, slots, characters, absent="none"):
        self.slots = list(slots)
        self.absent = absent
        marks = [mark for slot in slots for mark in (f"<{slot}>", f"</{slot}>")]
        #: What each label stands for; 0 is the blank of CTC.
        self.symbols = ["", *sorted(characters), *marks]
        self.labels = {name: i for i, name in enumerate(self.symbols) if name}

    @classmethod
    def of(cls, rows, slots, absent="none"):
        """The symbols that some utterances need.

        Arguments
        ---------
        rows : list of dict
            With ``transcription`` and a value for each slot.
        slots : list of str
        absent : str

        Returns
        -------
        TaggedText
        """
        text = cls(slots, "", absent)
        seen = {" "}
        for row in rows:
            for _, words in text.parts(row["transcription"], row):
                seen.update(*words)
        return cls(slots, seen, absent)

    def values(self, row):
        """What an utterance holds.

        Arguments
        ---------
        row : dict
            A value by slot.

        Returns
        -------
        dict
            The normalised values, [one], by slot, of those that are there.
        """
        return {
            slot: [normalise_transcript(row[slot])]
            for slot in self.slots
            if row[slot] != self.absent
        }

    def parts(self, transcript, row):
        """Runs of words, each with its slot.

        Arguments
        ---------
        transcript : str
        row : dict
            A value by slot.

        Returns
        -------
        list of tuple
            A slot, or None for words beside the slots, and a list of words.
        """
        words = normalise_transcript(transcript).split()
        owners = [None] * len(words)
        values = [(slot, v.split()) for slot, [v] in self.values(row).items()]
        unsaid = []
        # The longest first: "soy milk" is no "milk".
        for slot, value in sorted(values, key=lambda pair: -len(pair[1])):
            size = len(value)
            for i in range(len(words) - size + 1):
                free = not any(owners[i : i + size])
                if free and words[i : i + size] == value:
                    owners[i : i + size] = [slot] * size
                    break
            else:
                unsaid.append((slot, value))
        parts = []
        for owner, word in zip(owners, words):
            if not parts or parts[-1][0] != owner:
                parts.append((owner, []))
            parts[-1][1].append(word)
        return parts + sorted(unsaid, key=lambda p: self.slots.index(p[0]))

    def encode(self, transcript, row):
        """Writes an utterance as labels.

        Arguments
        ---------
        transcript : str
        row : dict
            A value by slot.

        Returns
        -------
        list of int
        """
        symbols = []
        for slot, words in self.parts(transcript, row):
            letters = list(" ".join(words))
            if slot is not None:
                letters = [f"<{slot}>", *letters, f"</{slot}>"]
            symbols += [" "] * bool(symbols) + letters
        return [self.labels[s] for s in symbols if s in self.labels]

    def show(self, labels):
        """Text of labels, with the marks.

        Arguments
        ---------
        labels : list of int

        Returns
        -------
        str
        """
        return "".join(self.symbols[label] for label in labels)

    def decode(self, labels):
        """Finds the slots in labels.

        Arguments
        ---------
        labels : list of int

        Returns
        -------
        dict
            The values by slot, in their order; a mark without its partner
            marks nothing.
        """
        found, slot, letters = {}, None, []
        for symbol in map(self.symbols.__getitem__, labels):
            mark = re.fullmatch("<(/?)(.+)>", symbol)
            if mark is None:
                letters.append(symbol)
                continue
            if mark[1] and mark[2] == slot:
                value = " ".join("".join(letters).split())
                found.setdefault(slot, []).append(value)
            slot, letters = (None if mark[1] else mark[2]), []
        return found
