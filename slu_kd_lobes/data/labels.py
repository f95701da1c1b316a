"""Labels that may be slips of the hand."""

import re
import unicodedata

# Marks without a shape of their own: soft hyphen, zero widths, emoji variants.
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff]")


def look_alike(values):
    """Which values a reader may take for one another.

    Values look alike when they differ by capitals, by white space, by hyphens
    or underscores between letters or by the Unicode form alone; or when one
    letter of a word of at least four is another, missing, or behind the next.
    Digits count, and in scripts without capitals every letter.

    Arguments
    ---------
    values : list of str
        Of one slot, the most trusted first.

    Returns
    -------
    dict
        Maps a value to one before it that it looks like.

    Example
    -------
    >>> look_alike(["kitchen", "lamp", "kithen", "Lamp", "room 1", "room 2"])
    {'kithen': 'kitchen', 'Lamp': 'lamp'}
    """
    first, alike = {}, {}
    for value in values:
        text = INVISIBLE.sub("", unicodedata.normalize("NFKC", value))
        # Lower case can undo the composed form.
        text = unicodedata.normalize("NFKC", text.casefold())
        text = " ".join(text.split())
        forms = [_joined(text), *_masked(text)]
        known = [first[form] for form in forms if form in first]
        if known:
            alike[value] = known[0]
        for form in forms:
            first.setdefault(form, value)
    return alike


def _joined(text):
    """Removes spaces and the like between letters."""
    return re.sub(r"(?<=[^\W\d_])[-_\s]+(?=[^\W\d_])", "", text)


def _masked(text):
    """Yields forms that two texts share if one letter tells them apart.

    They have a mark before a letter, in its place, or before two in order.
    """
    for word in re.finditer(r"[^\W\d_]{4,}", text):
        start, end = word.span()
        if word.group() == word.group().upper():  # a script without capitals
            continue
        for i in range(start, end + 1):
            yield f"{text[:i]}\0{text[i:]}"
            if i < end:
                yield f"{text[:i]}\0{text[i + 1 :]}"
            if i < end - 1:
                both = "".join(sorted(text[i : i + 2]))
                yield f"{text[:i]}\1{both}{text[i + 2 :]}"
