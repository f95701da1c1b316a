"""Audio tokens as numbers: a word for every combination of codes.

Source: Kim et al. 2020, "Two-stage Textual Knowledge Distillation for
End-to-End Spoken Language Understanding", whose words are the pairs of codes
of vq-wav2vec (Baevski et al. 2020); the numbers of the marks are fairseq's.
"""

import json
from pathlib import Path

import torch

from slu_kd_lobes.utils.files import write_text
from slu_kd_lobes.utils.fingerprints import fingerprint

#: Begin of an utterance, padding, end, and a word that was never heard.
BOS, PAD, EOS, UNK = range(4)
FIRST_WORD = 4

#: Combinations that a table may have.
LARGEST = 2**24


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
        If there is no word, or there are too many combinations.

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
        if codes**self.groups > LARGEST:
            raise ValueError(
                f"{self.groups} groups of {codes} codes have more than "
                f"{LARGEST} combinations: take fewer codes or groups"
            )
        numbers = torch.full((codes**self.groups,), UNK)
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
        frames = torch.cat([torch.as_tensor(array) for array in arrays])
        words, counts = frames.unique(dim=0, return_counts=True)
        order = counts.argsort(descending=True, stable=True)
        return cls(words[order].tolist(), codes)

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
        return self.numbers[self._places(codes.long())]

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
            dictionary = cls(facts["words"], facts["codes"])
            intact = dictionary.fingerprint == facts["sha256"]
        except (KeyError, TypeError, ValueError, IndexError):
            intact = False
        if not intact:
            raise ValueError(
                f"{path} is damaged: train the encoder of audio tokens again"
            )
        return dictionary


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
