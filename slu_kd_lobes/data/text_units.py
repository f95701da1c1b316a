"""What a recogniser writes: characters, or the pieces of a text model.

A teacher of token vectors has one vector for each piece, so a recogniser that
writes these pieces has one target for each of its tokens.

Source: Han et al. 2023, "Knowledge Transfer from Pre-trained Language Models to
Cif-based Speech Recognizers via Hierarchical Distillation", whose symbols are
Chinese characters; pieces for other languages are ours.
"""

from transformers import AutoTokenizer

from slu_kd_lobes.data.transcripts import normalise_transcript
from slu_kd_lobes.utils.fingerprints import fingerprint
from slu_kd_lobes.utils.hub import readable_source

#: The blank of CTC, the end of an utterance, and what training did not have.
MARKS = ("<blank>", "<eos>", "<unk>")
BLANK, END, UNKNOWN = range(len(MARKS))


class WordPieces:
    """Cuts text as a text model does.

    Arguments
    ---------
    text_encoder : str
        Any BERT-like model, by folder or hub name.

    Raises
    ------
    ValueError
        If the model cannot be had.
    """

    def __init__(self, text_encoder):
        with readable_source("text encoder", text_encoder):
            self.tokenizer = AutoTokenizer.from_pretrained(text_encoder)

    def cut(self, texts):
        """Returns the pieces of each transcript, a list of list of str."""
        texts = [normalise_transcript(text) for text in texts]
        numbers = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [self.tokenizer.convert_ids_to_tokens(row) for row in numbers]

    def join(self, pieces):
        """Returns the text of pieces, its words between spaces."""
        text = self.tokenizer.convert_tokens_to_string(pieces)
        return normalise_transcript(text.replace(" ' ", "'"))


class Characters:
    """Cuts text into characters; spaces are none.

    Example
    -------
    >>> Characters().cut(["我们 去"]), Characters().join(["我", "们"])
    ([['我', '们', '去']], '我们')
    """

    def cut(self, texts):
        """Returns the characters of each transcript, a list of list of str."""
        return [[*normalise_transcript(x).replace(" ", "")] for x in texts]

    def join(self, pieces):
        """Returns the text of characters."""
        return "".join(pieces)


class TextUnits:
    """Numbers of the symbols that a recogniser writes.

    Arguments
    ---------
    names : list of str
        Symbols, without the marks, which come before them.

    Example
    -------
    >>> units = TextUnits.of([["light", "##s"], ["light"]])
    >>> units.numbers(["light", "##s", "on"])
    [4, 3, 2, 1]
    >>> units.write([4, 3])
    ['light', '##s']
    """

    def __init__(self, names):
        self.names = [*MARKS, *names]
        self._numbers = {name: i for i, name in enumerate(self.names)}
        self.fingerprint = fingerprint(self.names)

    @classmethod
    def of(cls, sentences):
        """The symbols of sentences, in the order of their names.

        Arguments
        ---------
        sentences : list of list of str

        Returns
        -------
        TextUnits
        """
        return cls(sorted({piece for pieces in sentences for piece in pieces}))

    def __len__(self):
        return len(self.names)

    def numbers(self, pieces):
        """Numbers of the pieces of a sentence, and the mark of its end."""
        known = [self._numbers.get(piece, UNKNOWN) for piece in pieces]
        return [*known, END]

    def write(self, numbers):
        """Names of symbols."""
        return [self.names[number] for number in numbers]
