"""Transcripts as keys.

Authors
 * slu_kd_lobes authors
"""

import functools
import re
import unicodedata

import unicode_rbnf

# Marks that people and recognisers type for an apostrophe. They are mapped
# before NFKC, which would turn the acute accent into a space and a combining
# mark.
_APOSTROPHES = dict.fromkeys(
    map(ord, "\u2019\u2018\u201b\u02bc\u2032\u00b4`"), "'"
)

# Characters of no width: a byte order mark or a soft hyphen is not a word
# boundary.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))


# A corpus says the same few things many times.
@functools.lru_cache(maxsize=2**16)
def normalise_transcript(text):
    """Writes a transcript the one way in which it is looked up.

    Text is in Unicode NFKC form and lower case; every punctuation mark becomes
    a word boundary, except an apostrophe inside a word; curly apostrophes
    become straight; white space collapses to single spaces. Two wordings that
    differ in these respects only share one entry of the teacher's table.

    Arguments
    ---------
    text : str
        A transcript as the corpus writes it.

    Returns
    -------
    str
        The normalised transcript; empty if `text` holds no word. Normalising
        it again changes nothing.

    Example
    -------
    >>> normalise_transcript("It\u2019s too loud,  turn it DOWN!")
    "it's too loud turn it down"
    >>> normalise_transcript("a 'light-roast' coffee?")
    'a light roast coffee'
    """
    text = text.translate(_INVISIBLE).translate(_APOSTROPHES)
    text = unicodedata.normalize("NFKC", text).lower()
    # Lower case can undo the composed form (a dotted capital I), and NFKC can
    # bring out apostrophes (a full-width one).
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    text = "".join(" " if _ends_word(char) else char for char in text)
    words = (word.strip("'") for word in text.split())
    return " ".join(word for word in words if word)


@functools.cache
def _ends_word(char):
    """Tells whether a character separates words: punctuation or a control."""
    if char == "'":
        return False
    category = unicodedata.category(char)
    return category.startswith("P") or category == "Cc"


_NUMBERS = unicode_rbnf.RbnfEngine.for_language("en")


def plain(text):
    """Writes a transcript as it is said in English: no digits, no accents.

    Arguments
    ---------
    text : str

    Returns
    -------
    str
        Normalised.

    Example
    -------
    >>> plain("Set the café's lamp to 25!")
    "set the cafe's lamp to twenty five"
    """
    said = re.sub(r"\d+", _in_words, normalise_transcript(text))
    letters = unicodedata.normalize("NFKD", normalise_transcript(said))
    return "".join(x for x in letters if not unicodedata.combining(x))


def _in_words(match):
    return f" {_NUMBERS.format_number(int(match[0])).text} "
