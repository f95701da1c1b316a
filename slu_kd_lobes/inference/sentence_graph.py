"""Listed sentences as a graph, in which the most probable one is searched.

A CTC head says how probable each letter is at each frame. A graph of all that
may be said has a path for every sentence; parts that sentences share are there
once, so a template costs what is written, whatever its combinations. Graphs are
OpenFst's, by kaldifst; the search is Kaldi's, by kaldi-decoder.

Source: Mohri et al. 2002, "Weighted Finite-State Transducers in Speech
Recognition"; Miao et al. 2015, "EESEN: End-to-End Speech Recognition using Deep
RNN Models and WFST-based Decoding", section 3.
"""

from typing import NamedTuple

import kaldi_decoder
import kaldifst
import numpy as np

from slu_kd_lobes.losses.asr import LETTERS, ctc_collapse

#: Number of each letter in CTC; the blank is 0.
NUMBERS = {letter: number for number, letter in enumerate(LETTERS, start=1)}
SPACE = NUMBERS[" "]

#: Label of an arc that reads, or writes, nothing.
NOTHING = 0
#: Label of the end of an utterance, for heads that have a symbol for it.
FINISH = len(LETTERS) + 1


class Found(NamedTuple):
    """The most probable of the listed sentences.

    Arguments
    ---------
    text : str
        What was said, if it is one of them.
    slots : dict
    score : float
        Logarithm of the probability of its best path.
    ratio : float
        The same less that of the best path of all, listed or not; never
        above 0.
    """

    text: str
    slots: dict
    score: float
    ratio: float


class Graph:
    """States and arcs that read letters and write marks.

    Example
    -------
    >>> graph = Graph()
    >>> end = graph.text(graph.start, "lights off")
    >>> graph.accept(graph.mark(end, {"object": "lights"}))
    >>> search = SentenceSearch(graph)
    >>> path = [NUMBERS[letter] for letter in "lights off"]
    >>> log_probs = np.full((12, 29), -5.0, dtype="float32")
    >>> log_probs[range(12), [*path[:-1], 0, path[-1], 0]] = -0.1
    >>> found = search(log_probs)
    >>> found.text, found.slots, round(found.ratio, 3)
    ('lights off', {'object': 'lights'}, 0.0)
    """

    start = 0

    def __init__(self):
        self.fst = kaldifst.StdVectorFst()
        self.fst.start = self.fst.add_state()
        self.marks, self.letters = [], set()
        self._next = {}  # states of a list that begins alike

    def state(self):
        """Returns a new state."""
        return self.fst.add_state()

    def arc(self, start, end, reads=NOTHING, writes=NOTHING):
        """Adds an arc."""
        self.fst.add_arc(start, kaldifst.StdArc(reads, writes, 0.0, end))

    def text(self, state, text):
        """Adds the letters of a text.

        Arguments
        ---------
        state : int
            Where it begins.
        text : str
            Of `LETTERS`.

        Returns
        -------
        int
            The state where it ends.
        """
        self.letters.update(text)
        for letter in text:
            end = self.state()
            self.arc(state, end, NUMBERS[letter])
            state = end
        return state

    def listed(self, text):
        """Adds a sentence from the start; its begin is shared with others.

        Arguments
        ---------
        text : str
            Of `LETTERS`.

        Returns
        -------
        int
            The state where it ends.
        """
        state = self.start
        for letter in text:
            key = state, letter
            if key not in self._next:
                self._next[key] = self.text(state, letter)
            state = self._next[key]
        return state

    def mark(self, state, slots):
        """Adds an arc that says values of slots, and returns its end."""
        self.marks.append(slots)
        end = self.state()
        self.arc(state, end, writes=len(self.marks))
        return end

    def accept(self, state):
        """Says that a sentence may end here."""
        self.fst.set_final(state, 0.0)


class SentenceSearch:
    """Finds what was said among the sentences of a graph.

    Arguments
    ---------
    graph : Graph
        Spaces between its words may be missing or double at the ends of
        optional parts: words are apart by one.
    columns : dict or None
        Column of each letter in the probabilities; that of the blank is 0.
        None: those of `NUMBERS`.
    end : int or None
        Column of a symbol that ends an utterance; None: there is none.
    beam : float
        How much less probable than the best one a beginning may be, as a
        logarithm, to be followed.
    max_active : int
        Beginnings that are followed at a time.
    """

    def __init__(
        self, graph, columns=None, end=None, beam=20.0, max_active=1000
    ):
        columns = NUMBERS if columns is None else columns
        labels = {NUMBERS[letter]: x for letter, x in columns.items()}
        if end is not None:
            labels[FINISH] = end
        # Sentences, their spaces, and the frames of letters
        fst = sorted_arcs(graph.fst)
        fst = kaldifst.compose(single_spaces(end is not None), fst)
        frames = sorted_arcs(ctc_paths(labels), "olabel")
        self.fst = kaldifst.compose(frames, sorted_arcs(fst))
        self.letters = {x: letter for letter, x in columns.items()}
        self.marks = graph.marks
        self.options = kaldi_decoder.FasterDecoderOptions(
            beam=beam, max_active=max_active
        )

    def __call__(self, log_probs):
        """Finds the most probable sentence.

        Arguments
        ---------
        log_probs : numpy.ndarray
            Logarithms of the probabilities of the blank and of symbols,
            [frames, symbols], float32.

        Returns
        -------
        Found or None
            None if no sentence fits into the frames.
        """
        decoder = kaldi_decoder.FasterDecoder(self.fst, self.options)
        decoder.decode(kaldi_decoder.DecodableCtc(log_probs))
        if not decoder.reached_final():
            return None
        _, lattice = decoder.get_best_path()
        _, path, marks, _ = kaldifst.get_linear_symbol_sequence(lattice)
        path = np.array(path) - 1  # labels count from 1
        likely = log_probs.astype(np.float64)
        score = likely[np.arange(len(path)), path].sum()
        slots = {}
        for number in marks:
            slots |= self.marks[number - 1]
        text = "".join(self.letters.get(x, "") for x in ctc_collapse(path))
        free = likely.max(1).sum()
        return Found(text, slots, float(score), float(min(score - free, 0.0)))


def sorted_arcs(fst, by="ilabel"):
    """The same graph, its arcs in the order that a composition wants."""
    kaldifst.arcsort(fst, sort_type=by)
    return fst


def ctc_paths(columns):
    """A graph that reads a symbol of CTC a frame and writes labels.

    Labels of what it reads are columns counted from 1, the blank is 1.

    Arguments
    ---------
    columns : dict
        Column of each label.

    Returns
    -------
    kaldifst.StdVectorFst
    """
    graph = Graph()
    states = {label: graph.state() for label in columns}
    # A state knows the symbol of the frame before.
    for before, state in [(None, graph.start), *states.items()]:
        graph.accept(state)
        graph.arc(state, graph.start, 1)
        for label, column in columns.items():
            writes = NOTHING if label == before else label
            graph.arc(state, states[label], column + 1, writes)
    return graph.fst


def single_spaces(finish=False):
    """A graph that reads words with one space between, and writes any spaces.

    So a template may have an optional word between two spaces.

    Arguments
    ---------
    finish : bool
        Whether it reads the end of an utterance, too.

    Returns
    -------
    kaldifst.StdVectorFst
    """
    graph = Graph()
    before = graph.start  # a word, or the first one
    within, after = graph.state(), graph.state()
    for number in NUMBERS.values():
        if number != SPACE:
            graph.arc(before, within, number, number)
            graph.arc(within, within, number, number)
    graph.arc(before, before, NOTHING, SPACE)
    graph.arc(within, before, SPACE, SPACE)
    graph.arc(within, after, NOTHING, SPACE)  # behind the last word
    graph.arc(after, after, NOTHING, SPACE)
    last = graph.state() if finish else within
    for state in (within, after):
        if finish:
            graph.arc(state, last, FINISH)
        graph.accept(last if finish else state)
    return sorted_arcs(graph.fst, "olabel")
