"""Models from folders or from a hub, and what to say when they cannot be had."""

from contextlib import contextmanager


@contextmanager
def readable_source(kind, source, remedy):
    """Turns whatever goes wrong while a model loads into one sentence.

    Arguments
    ---------
    kind : str
        What is loaded, for instance ``text encoder``.
    source : str
        Folder or hub name.
    remedy : str
        What to do.

    Raises
    ------
    ValueError
        With the reason as its cause.

    Example
    -------
    >>> with readable_source("text encoder", "no/such", "check the name"):
    ...     raise OSError("offline")
    Traceback (most recent call last):
    ...
    ValueError: the text encoder 'no/such' is neither a folder with a model \
nor a hub name that can be reached now (OSError: offline): check the name
    """
    try:
        yield
    except Exception as error:  # the hub client's errors have no one base
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ValueError(
            f"the {kind} '{source}' is neither a folder with a model nor a hub "
            f"name that can be reached now ({type(error).__name__}: {reason}): "
            f"{remedy}"
        ) from error
