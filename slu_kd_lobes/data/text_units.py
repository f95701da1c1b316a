"""What a recogniser writes: letters, or the pieces of a text model.

A teacher of token vectors has one vector for each piece, so a recogniser that
writes these pieces has one target for each of its tokens.

Source: Han et al. 2023, "Knowledge Transfer from Pre-trained Language Models to
Cif-based Speech Recognizers via Hierarchical Distillation", whose symbols are
Chinese characters; pieces for other languages are ours.
"""

from transformers import AutoTokenizer

from slu_kd_lobes.data.transcripts import normalise_transcript, plain
from slu_kd_lobes.utils.fingerprints import fingerprint
from slu_kd_lobes.utils.hub import readable_source

#: The blank of CTC, the end of an utterance, and what training did not have.
MARKS = ("<blank>", "<eos>", "<unk>")
BLANK, END, UNKNOWN = range(len(MARKS))


def join_pieces(pieces):
    """The text of WordPieces, its words between spaces.

    Arguments
    ---------
    pieces : list of str

    Returns
    -------
    str

    Example
    -------
    >>> join_pieces(["it", "'", "s", "un", "##fat", "##hom", "##able"])
    "it's unfathomable"
    """
    text = " ".join(pieces).replace(" ##", "").replace(" ' ", "'")
    return normalise_transcript(text)


def join_characters(pieces):
    """The text of characters, without spaces."""
    return "".join(pieces)


class WordPieces:
    """Cuts text as a BERT does.

    Arguments
    ---------
    text_encoder : str
        By folder or hub name.

    Raises
    ------
    ValueError
        If the model cannot be had, or cuts text in another way.
    """

    join = staticmethod(join_pieces)

    def __init__(self, text_encoder):
        with readable_source("text encoder", text_encoder):
            self.tokenizer = AutoTokenizer.from_pretrained(text_encoder)
        if self.tokenizer.convert_tokens_to_string(["a", "##b"]) != "ab":
            raise ValueError(
                f"the text encoder '{text_encoder}' does not cut text into "
                "WordPieces such as '##s': choose a BERT, or write characters"
            )

    def cut(self, texts):
        """Returns the pieces of each transcript, a list of list of str."""
        texts = [normalise_transcript(text) for text in texts]
        numbers = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [self.tokenizer.convert_ids_to_tokens(row) for row in numbers]


class Characters:
    """Cuts text into characters; spaces are none.

    Example
    -------
    >>> Characters().cut(["我们 去"])
    [['我', '们', '去']]
    """

    join = staticmethod(join_characters)

    def cut(self, texts):
        """Returns the characters of each transcript, a list of list of str."""
        return [[*normalise_transcript(x).replace(" ", "")] for x in texts]


class Letters:
    """Cuts text into English letters, with the space between words.

    Numbers are spelled, and accents left out; what else is no letter, is
    unknown.

    Example
    -------
    >>> Letters().cut(["Up 2!"])
    [['u', 'p', ' ', 't', 'w', 'o']]
    """

    join = staticmethod(join_characters)

    def cut(self, texts):
        """Returns the letters of each transcript, a list of list of str."""
        return [[*plain(text)] for text in texts]


class TextUnits:
    """Numbers of the symbols that a recogniser writes.

    Arguments
    ---------
    names : list of str
        Symbols, without the marks, which come before them.
    join : callable
        Makes text of symbols.

    Example
    -------
    >>> units = TextUnits.of([["light", "##s"], ["light"]], join_pieces)
    >>> units.numbers(["light", "##s", "on"])
    [4, 3, 2, 1]
    >>> units.decode_ids([4, 3])
    'lights'
    """

    def __init__(self, names, join):
        self.names = [*MARKS, *names]
        self.join = join
        self._numbers = {name: i for i, name in enumerate(self.names)}
        self.fingerprint = fingerprint([self.names, join.__name__])

    @classmethod
    def of(cls, sentences, join):
        """The symbols of sentences, in the order of their names.

        Arguments
        ---------
        sentences : list of list of str
        join : callable

        Returns
        -------
        TextUnits
        """
        names = {piece for pieces in sentences for piece in pieces}
        return cls(sorted(names), join)

    def __len__(self):
        return len(self.names)

    def numbers(self, pieces):
        """Numbers of the pieces of a sentence, and the mark of its end."""
        known = [self._numbers.get(piece, UNKNOWN) for piece in pieces]
        return [*known, END]

    def decode_ids(self, numbers):
        """The text of symbols, by the name that SpeechBrain calls."""
        return self.join([self.names[number] for number in numbers])
