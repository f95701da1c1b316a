"""Objectives that pre-train the encoder to hear phonemes and words.

Each one scores the phoneme-level and the word-level logits of an encoder and
has the same call, so a recipe chooses between them in YAML.

Source: Lugosch et al. 2019, section 3.1 (loss = CE_phoneme + CE_word).
"""

import torch
import torch.nn.functional as F
from speechbrain.utils.edit_distance import accumulatable_wer_stats
from speechbrain.utils.logger import get_logger

from slu_kd_lobes.data.alignments import PHONES, frame_targets

logger = get_logger(__name__)

PHONEME_FRAME = 0.04  # seconds
WORD_FRAME = 0.16  # seconds

#: What CTC tells apart at phoneme rate; the blank comes on top.
LETTERS = "abcdefghijklmnopqrstuvwxyz' "


def ctc_collapse(path, blank=0):
    """Labels of a best CTC path.

    Arguments
    ---------
    path : list
        One class a frame.
    blank : int
        Class of the blank.

    Returns
    -------
    list
        Repeated classes merged, blanks removed.

    Example
    -------
    >>> ctc_collapse([0, 3, 3, 0, 3, 1, 1])
    [3, 3, 1]
    """
    path = torch.unique_consecutive(torch.as_tensor(path)).tolist()
    return [label for label in path if label != blank]


def check_frames(split, labels, frames, advice):
    """Says how many utterances CTC cannot write, for want of frames.

    It needs one for each label, and one for the blank between equal ones.

    Arguments
    ---------
    split : str
        What the utterances are called.
    labels : torch.Tensor
        [utterances, labels], 0 after the end.
    frames : torch.Tensor or list
        Of each utterance.
    advice : str
        What to do.

    Raises
    ------
    ValueError
        If most of them have too few.

    Example
    -------
    >>> check_frames("train", torch.tensor([[3, 3], [3, 0]]), [3, 1], "")
    >>> check_frames("train", torch.tensor([[3, 3]]), [2], "lower the stride")
    Traceback (most recent call last):
    ...
    ValueError: train: 1 of 1 utterances have too few frames for CTC to write \
them: lower the stride
    """
    equal = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] > 0)
    needed = (labels > 0).sum(1) + equal.sum(1)
    short = int((needed > torch.as_tensor(frames)).sum())
    message = (
        f"{split}: {short} of {len(labels)} utterances have too few frames "
        f"for CTC to write them: {advice}"
    )
    if 2 * short > len(labels):
        raise ValueError(message)
    if short:
        logger.warning(message)


def quantity_loss(weights, target_lengths):
    """How far the tokens that frames hold are from those that were said.

    Source: Dong and Xu 2020, "CIF: Continuous Integrate-and-Fire for End-to-End
    Speech Recognition", section 3.2; summed over the batch, as Han et al. 2023
    do in "Knowledge Transfer from Pre-trained Language Models to Cif-based
    Speech Recognizers via Hierarchical Distillation".

    Arguments
    ---------
    weights : torch.Tensor
        Of each frame, 0 at padding, [batch, frames].
    target_lengths : torch.Tensor
        Tokens of each item, [batch].

    Returns
    -------
    torch.Tensor
        A scalar, in tokens.

    Example
    -------
    >>> quantity_loss(torch.full((2, 4), 0.5), torch.tensor([2, 3]))
    tensor(1.)
    """
    return (weights.sum(1) - target_lengths).abs().sum()


class FrameObjective(torch.nn.Module):
    """Cross entropy of the phoneme and the word at every frame.

    Needs alignments. Frames whose word or phone is unknown do not count.

    Example
    -------
    >>> objective = FrameObjective()
    >>> tracks = torch.randint(1, 5, (2, 32))
    >>> loss, correct, total = objective(
    ...     {"phoneme": torch.zeros(2, 8, 42), "word": torch.zeros(2, 2, 9)},
    ...     {"phoneme": torch.tensor([8, 8]), "word": torch.tensor([2, 2])},
    ...     {"phoneme": tracks, "word": tracks},
    ... )
    >>> round(loss.item(), 4), total  # log 42 + log 9
    (5.9349, {'phoneme': 16, 'word': 4})
    """

    aligned = True
    measures = {
        "phoneme": "phones, share of 40 ms frames",
        "word": "words, share of 160 ms frames",
    }
    steps = {"phoneme": PHONEME_FRAME, "word": WORD_FRAME}

    @staticmethod
    def classes(words):
        """Numbers the 42 phones and the words, silence among them.

        Arguments
        ---------
        words : list
            The vocabulary, silence (an empty word) first.

        Returns
        -------
        dict
            Class of each label, for ``phoneme`` and ``word``.

        Example
        -------
        >>> classes = FrameObjective.classes(["", "the"])
        >>> len(classes["phoneme"]), classes["word"]
        (42, {'': 0, 'the': 1})
        """
        return {
            "phoneme": {phone: i for i, phone in enumerate(PHONES)},
            "word": {word: i for i, word in enumerate(words)},
        }

    def forward(self, logits, lengths, tracks, speed=1.0):
        """Returns the loss and the frame counts for the accuracy.

        Arguments
        ---------
        logits : dict
            ``phoneme`` and ``word`` logits, [batch, frames, classes].
        lengths : dict
            Valid frames of each item, [batch]; tracks are zero beyond them,
            which this objective ignores.
        tracks : dict
            ``phoneme`` and ``word`` label tracks, [batch, steps of 10 ms].
        speed : float
            How much faster the waveform plays than its label tracks.

        Returns
        -------
        loss : torch.Tensor
            Sum of the two mean cross entropies, a scalar.
        correct : dict
            Number of frames classified right, by level.
        total : dict
            Number of frames with a known class, by level.
        """
        loss, correct, total = 0.0, {}, {}
        for level, step in self.steps.items():
            scores = logits[level].float()
            target = frame_targets(tracks[level], scores.shape[1], step, speed)
            known = target >= 0
            total[level] = int(known.sum())
            hits = (scores.argmax(-1) == target) & known
            correct[level] = int(hits.sum())
            summed = F.cross_entropy(
                scores.flatten(0, 1),
                target.flatten(),
                ignore_index=-1,
                reduction="sum",
            )
            loss = loss + summed / max(total[level], 1)
        return loss, correct, total


class CTCObjective(torch.nn.Module):
    """CTC of the letters at phoneme rate and of the words at word rate.

    For corpora without alignments. Class 0 is the blank.

    Example
    -------
    >>> objective = CTCObjective()
    >>> targets = torch.tensor([[1, 2], [3, 0]])
    >>> loss, correct, total = objective(
    ...     {"phoneme": torch.zeros(2, 8, 30), "word": torch.zeros(2, 4, 9)},
    ...     {"phoneme": torch.tensor([8, 6]), "word": torch.tensor([4, 3])},
    ...     {"phoneme": targets, "word": targets},
    ... )
    >>> total
    {'phoneme': 3, 'word': 3}
    """

    aligned = False
    measures = {
        "phoneme": "letters, 100 - error rate",
        "word": "words, 100 - error rate",
    }

    @staticmethod
    def classes(words):
        """Numbers the 28 letters and the words from 1 up.

        Arguments
        ---------
        words : list
            The vocabulary, silence (an empty word) first: CTC knows none,
            and its class is that of the blank.

        Returns
        -------
        dict
            Class of each label, for ``phoneme`` (the letters) and ``word``.

        Example
        -------
        >>> classes = CTCObjective.classes(["", "the"])
        >>> classes["phoneme"]["a"], classes["phoneme"][" "], classes["word"]
        (1, 28, {'the': 1})
        """
        return {
            "phoneme": {letter: i for i, letter in enumerate(LETTERS, start=1)},
            "word": {word: i for i, word in enumerate(words) if word},
        }

    def forward(self, logits, lengths, targets, speed=1.0):
        """Returns the loss and the label counts for the accuracy.

        Arguments
        ---------
        logits : dict
            ``phoneme`` and ``word`` logits, [batch, frames, classes].
        lengths : dict
            Valid frames of each item, [batch].
        targets : dict
            Letters (``phoneme``) and words (``word``), [batch, labels], 0
            after the end.
        speed : float
            Not used: CTC knows no times.

        Returns
        -------
        loss : torch.Tensor
            Sum of the two CTC losses per label, a scalar.
        correct : dict
            Labels less edit distance of the best path, by level.
        total : dict
            Number of labels, by level.
        """
        loss, correct, total = 0.0, {}, {}
        for level, labels in targets.items():
            log_probs = logits[level].float().log_softmax(-1)
            label_lengths = (labels > 0).sum(1)
            total[level] = int(label_lengths.sum())
            summed = F.ctc_loss(
                log_probs.transpose(0, 1),
                labels,
                lengths[level].to(labels.device),
                label_lengths,
                reduction="sum",
                # An utterance with more words than frames teaches nothing.
                zero_infinity=True,
            )
            loss = loss + summed / max(total[level], 1)
            paths = [
                ctc_collapse(path[:length])
                for path, length in zip(
                    log_probs.argmax(-1).cpu(), lengths[level].tolist()
                )
            ]
            truth = [
                row[:length]
                for row, length in zip(labels.tolist(), label_lengths.tolist())
            ]
            stats = accumulatable_wer_stats(truth, paths)
            edits = sum(
                stats[key]
                for key in ("insertions", "deletions", "substitutions")
            )
            correct[level] = total[level] - edits
        return loss, correct, total
