"""Audio tokens as numbers: a word for every combination of codes.

Source: Kim et al. 2020, "Two-stage Textual Knowledge Distillation for
End-to-End Spoken Language Understanding", whose words are the pairs of codes
of vq-wav2vec (Baevski et al. 2020); the numbers of the marks are fairseq's.
"""

import json
from pathlib import Path

import numpy as np
import torch

from slu_kd_lobes.utils.files import write_text
from slu_kd_lobes.utils.fingerprints import fingerprint

#: Begin of an utterance, padding, end, and a word that was never heard.
BOS, PAD, EOS, UNK = range(4)
FIRST_WORD = 4

#: Combinations that a table may have.
LARGEST = 2**24


def table_size(codes, groups):
    """Number of combinations of codes, if a table can have them.

    Arguments
    ---------
    codes : int
        Values that a code can have.
    groups : int
        Codes of a word.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If there are too many.

    Example
    -------
    >>> table_size(320, 2)
    102400
    """
    size = codes**groups
    if size > LARGEST:
        raise ValueError(
            f"{groups} groups of {codes} codes have more than {LARGEST} "
            "combinations: take fewer codes or groups"
        )
    return size


class TokenDictionary(torch.nn.Module):
    """Numbers of words: the marks, the words, and what stands for a masked one.

    Arguments
    ---------
    words : list of tuple of int
        Combinations of codes, one code a group.
    codes : int
        Values that a code can have.

    Raises
    ------
    ValueError
        If there is no word, one has other codes, or there are too many
        combinations.

    Example
    -------
    >>> dictionary = TokenDictionary([(0, 1), (2, 2)], codes=3)
    >>> dictionary.look_up(torch.tensor([[2, 2], [0, 1], [1, 1]]))
    tensor([5, 4, 3])
    >>> len(dictionary), dictionary.mask
    (7, 6)
    """

    def __init__(self, words, codes):
        super().__init__()
        self.words = [tuple(int(code) for code in word) for word in words]
        self.codes = codes
        if not self.words:
            raise ValueError("the dictionary of audio tokens has no word")
        self.groups = len(self.words[0])
        numbers = torch.full((table_size(codes, self.groups),), UNK)
        possible = range(codes)
        for word in self.words:
            if len(word) != self.groups or any(c not in possible for c in word):
                raise ValueError(
                    f"the word {word} of the dictionary of audio tokens is not "
                    f"{self.groups} codes below {codes}"
                )
        places = self._places(torch.tensor(self.words))
        numbers[places] = FIRST_WORD + torch.arange(len(self.words))
        self.register_buffer("numbers", numbers, persistent=False)

    def __len__(self):
        return FIRST_WORD + len(self.words) + 1

    @property
    def mask(self):
        """The number of what stands for a masked token."""
        return len(self) - 1

    @property
    def fingerprint(self):
        """A hash of the words in their order."""
        return fingerprint([self.codes, self.words])

    def _places(self, codes):
        """Where combinations stand in the table of all."""
        place = codes[..., 0]
        for group in range(1, self.groups):
            place = place * self.codes + codes[..., group]
        return place

    @classmethod
    def of(cls, arrays, codes):
        """The dictionary of what training utterances have.

        Arguments
        ---------
        arrays : iterable of torch.Tensor
            Codes of each utterance, [frames, groups].
        codes : int
            Values that a code can have.

        Returns
        -------
        TokenDictionary
            The most frequent words first.

        Example
        -------
        >>> heard = torch.tensor([[1], [0], [1]])
        >>> TokenDictionary.of([heard], codes=2).words
        [(1,), (0,)]
        """
        shape, counts = (codes,), np.zeros(0, int)
        for array in arrays:
            array = torch.as_tensor(array).cpu().numpy()
            shape = (codes,) * array.shape[1]
            size = table_size(codes, len(shape))
            counts = counts if len(counts) else np.zeros(size, int)
            places, times = np.unique(
                np.ravel_multi_index(array.T, shape), return_counts=True
            )
            counts[places] += times
        found = counts.nonzero()[0]
        order = np.argsort(-counts[found], kind="stable")
        words = np.stack(np.unravel_index(found[order], shape), axis=1)
        return cls(words.tolist(), codes)

    def look_up(self, codes):
        """Returns the numbers of words.

        Arguments
        ---------
        codes : torch.Tensor
            [..., groups].

        Returns
        -------
        torch.Tensor
            [...]; that of an unknown word is `UNK`.
        """
        codes = codes.long()
        known = ((codes >= 0) & (codes < self.codes)).all(-1)
        numbers = self.numbers[self._places(codes * known.unsqueeze(-1))]
        return numbers.masked_fill(~known, UNK)

    def save(self, path):
        """Writes the dictionary, whole or not at all.

        Arguments
        ---------
        path : str or Path
            A ``.json`` file.
        """
        facts = {"codes": self.codes, "words": self.words}
        text = json.dumps({**facts, "sha256": self.fingerprint})
        write_text(path, text)

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote.

        Arguments
        ---------
        path : str or Path

        Returns
        -------
        TokenDictionary

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        try:
            facts = json.loads(Path(path).read_text(encoding="utf-8"))
            content = [facts["codes"], facts["words"]]
            intact = fingerprint(content) == facts["sha256"]
        except (KeyError, TypeError, ValueError):
            intact = False
        if not intact:
            raise ValueError(
                f"{path} is damaged: train the encoder of audio tokens again"
            )
        return cls(facts["words"], facts["codes"])


def frame_tokens(numbers, lengths, eos):
    """Marks the begin of utterances, and perhaps their end.

    Arguments
    ---------
    numbers : torch.Tensor
        Words, [batch, frames]; what comes after an item's end does not count.
    lengths : torch.Tensor
        Frames of each item, [batch].
    eos : bool
        Whether the end is marked.

    Returns
    -------
    tokens : torch.Tensor
        [batch, tokens], `PAD` after the end of each item.
    lengths : torch.Tensor
        Tokens of each item, [batch].

    Example
    -------
    >>> numbers, lengths = torch.tensor([[7, 8], [9, 0]]), torch.tensor([2, 1])
    >>> frame_tokens(numbers, lengths, eos=True)
    (tensor([[0, 7, 8, 2],
            [0, 9, 2, 1]]), tensor([4, 3]))
    """
    lengths = lengths.to(numbers.device)
    order = torch.arange(numbers.shape[1], device=numbers.device)
    inside = order < lengths.unsqueeze(1)
    tokens = torch.nn.functional.pad(
        numbers.masked_fill(~inside, PAD), (1, int(eos)), value=PAD
    )
    tokens[:, 0] = BOS
    if eos:
        tokens.scatter_(1, 1 + lengths.unsqueeze(1), EOS)
    return tokens, lengths + 1 + int(eos)
