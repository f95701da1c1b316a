"""Which answers of listed sentences are rejected.

Every second sentence of read speech is listed. What is said of the others is
nothing that was listed, so each answer to it is a false accept.
"""

import numpy as np

from slu_kd_lobes.data.transcripts import plain
from slu_kd_lobes.inference.sentence_graph import Graph

#: How sure an answer is, of what `SentenceSearch` found and the frames.
STATISTICS = {
    "letter": lambda found, frames: found.ratio / len(found.text),
    "frame": lambda found, frames: found.ratio / frames,
    "sum": lambda found, frames: found.ratio,
}


def graph_of_texts(texts):
    """A graph of sentences that mean themselves."""
    graph = Graph()
    for text in dict.fromkeys(texts):
        graph.accept(graph.listed(text))
    return graph


def answers_of_halves(texts, log_probs, search):
    """Asks each of two halves of the sentences for all that is said.

    Arguments
    ---------
    texts : list of str
        What is said, of the letters of the graph.
    log_probs : list of numpy.ndarray
        [frames, symbols] of each utterance.
    search : callable
        Makes a `SentenceSearch` of a graph.

    Returns
    -------
    right : dict
        Values of right answers to what was listed, by statistic.
    wrong : dict
        Of all answers to what was not.
    share : float
        Of the listed ones that are answered right.
    """
    right, wrong = ({name: [] for name in STATISTICS} for _ in range(2))
    number = 0
    for half in range(2):
        listed = set(texts[half::2])
        finder = search(graph_of_texts(texts[half::2]))
        for text, likely in zip(texts, log_probs):
            found = finder(likely)
            number += text in listed
            if found is None:
                continue
            if text not in listed:
                note(wrong, found, likely)
            elif found.text == text:
                note(right, found, likely)
    return right, wrong, len(right["sum"]) / max(number, 1)


def note(values, found, log_probs):
    """Adds how sure an answer is to the values of each statistic."""
    for name, value in STATISTICS.items():
        values[name].append(value(found, len(log_probs)))


def false_accepts(right, wrong, keep):
    """Thresholds that keep a share of what is right, and what they accept.

    Arguments
    ---------
    right, wrong : dict
        See `answers_of_halves`.
    keep : float
        Share of the right answers.

    Returns
    -------
    dict
        ``threshold`` and ``accepted``, the share of wrong answers above it, by
        statistic.

    Raises
    ------
    ValueError
        If nothing is right.

    Example
    -------
    >>> right = {"sum": [-3.0, -2.0, -1.0, -0.5]}
    >>> false_accepts(right, {"sum": [-2.5, -1.5, -9.0, -8.0]}, 0.75)
    {'sum': {'threshold': -2.0, 'accepted': 0.25}}
    """
    found = {}
    for name, values in right.items():
        if not values:
            raise ValueError(
                "no validation sentence is answered right: train the CTC head "
                "longer, or on more speech"
            )
        order = np.sort(values)
        threshold = float(order[int((1 - keep) * len(order))])
        accepted = sum(value >= threshold for value in wrong[name])
        share = float(accepted / max(len(wrong[name]), 1))
        found[name] = {"threshold": threshold, "accepted": share}
    return found


def said_texts(rows, letters):
    """Transcripts as letters, and which rows have such; the others are left."""
    texts = [plain(row["transcription"]) for row in rows]
    kept = [i for i, text in enumerate(texts) if text and {*text} <= letters]
    return [texts[i] for i in kept], [rows[i] for i in kept]
