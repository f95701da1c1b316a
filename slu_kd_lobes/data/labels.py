"""Labels that may be slips of the hand."""

import re
import unicodedata


def look_alike(values):
    """Which values a reader may take for one another.

    Values look alike when they differ by capitals, by white space, by hyphens
    or underscores between letters or by the Unicode form alone; or by one
    letter of a word of at least four. Numbers are never taken for others, and
    scripts without capitals have words of too few letters to compare.

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
        text = unicodedata.normalize("NFKC", value).casefold()
        # The composed form of what lower case has changed.
        text = " ".join(unicodedata.normalize("NFKC", text).split())
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
    """Yields forms that two texts share if one letter tells them apart."""
    for word in re.finditer(r"[^\W\d_]{4,}", text):
        start, end = word.span()
        if word.group() == word.group().upper():  # a script without capitals
            continue
        for i in range(start, end + 1):
            yield f"{text[:i]}\0{text[i:]}"  # one letter more
            if i < end:
                yield f"{text[:i]}\0{text[i + 1 :]}"  # another letter
