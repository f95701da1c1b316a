"""Alignment of a speech model's frames with a text model's token vectors.

Every loss is an `Alignment`: ``loss(frames, tokens)``, two `Units`, gives one
scalar, the mean over the batch. How much each unit counts is its prior
(:mod:`slu_kd_lobes.losses.priors`).

Source: Ni et al. 2023, "Adaptive Knowledge Distillation between Text and
Speech Pre-trained Models" (PAD): the global, token-level local and span-level
local distances. No code was published; the formulas follow a third party's
account of the paper.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

#: Lengths of spans, in units of frames a token.
SPANS = (0.5, 1.0, 2.0)


@dataclass
class Units:
    """Vectors of a batch of sequences, and what each of them counts.

    Arguments
    ---------
    vectors : torch.Tensor
        [batch, units, values].
    mask : torch.Tensor
        True for units, False for padding, [batch, units].
    priors : torch.Tensor
        [batch, units]; sums to 1 over the units of an item.
    """

    vectors: torch.Tensor
    mask: torch.Tensor
    priors: torch.Tensor

    def on_cpu(self):
        """Returns the same without a gradient, in single precision."""
        vectors, priors = (
            part.detach().float().cpu() for part in (self.vectors, self.priors)
        )
        return Units(vectors, self.mask.cpu(), priors)

    def item(self, number):
        """One sequence, which losses compare with each of the other side's.

        Arguments
        ---------
        number : int

        Returns
        -------
        Units
            [1, ...].
        """
        parts = self.vectors, self.mask, self.priors
        return Units(*(part[number : number + 1] for part in parts))


class Alignment(torch.nn.Module):
    """How far the frames of a batch are from its tokens."""

    def set_width(self, width):
        """Makes what a loss learns for vectors of a width; most learn nothing.

        Arguments
        ---------
        width : int
            Values of a vector.
        """

    def distances(self, frames, tokens):
        """Returns the distance of each pair, in single precision at least.

        Arguments
        ---------
        frames, tokens : Units
            As many on both sides, or one on either.

        Returns
        -------
        torch.Tensor
            [batch].
        """
        with torch.autocast(frames.vectors.device.type, enabled=False):
            return self.measure(frames, tokens)

    def measure(self, frames, tokens):
        """What a subclass defines; see `distances`."""
        raise NotImplementedError

    def forward(self, frames, tokens):
        """Returns the mean distance, a scalar; see `distances`."""
        return self.distances(frames, tokens).mean()


class GlobalAlignment(Alignment):
    """L1 distance of the sums of both sides, weighted by their priors.

    Example
    -------
    >>> mask, priors = torch.tensor([[True, True]]), torch.tensor([[0.5, 0.5]])
    >>> one = Units(torch.tensor([[[1.0], [3.0]]]), mask, priors)
    >>> GlobalAlignment()(one, Units(torch.zeros(1, 2, 1), mask, priors))
    tensor(2.)
    """

    def measure(self, frames, tokens):
        """Returns the distance of each pair; see `Alignment`."""
        speech, text = (
            torch.einsum("bn,bnv->bv", side.priors, _single(side.vectors))
            for side in (frames, tokens)
        )
        return (speech - text).abs().sum(-1)


class SentenceAlignment(Alignment):
    """One minus the cosine of two sentence vectors.

    That of the speech is a sum of the frames whose weights are learnt, that of
    the text the mean of its tokens.

    Source: the attention pooling and the cosine loss of SAMU-XLSR (Khurana et
    al. 2022) and SENSE (Mdhaffar et al. 2025), with a text model whose sentence
    vectors are means.

    Example
    -------
    >>> mask, priors = torch.tensor([[True, True]]), torch.tensor([[0.5, 0.5]])
    >>> axes = Units(torch.eye(2).unsqueeze(0), mask, priors)
    >>> loss = SentenceAlignment()
    >>> loss.set_width(2)
    >>> loss(axes, axes).round(decimals=4)  # at first each frame counts alike
    tensor(0., grad_fn=<RoundBackward1>)
    """

    def set_width(self, width):
        """Makes the layer that says what a frame counts; see `Alignment`."""
        self.attention = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.attention.weight)

    def measure(self, frames, tokens):
        """Returns the distance of each pair; see `Alignment`."""
        speech = _single(frames.vectors)
        scores = self.attention(speech).squeeze(-1)
        weights = scores.masked_fill(~frames.mask, float("-inf")).softmax(-1)
        speech = torch.einsum("bn,bnv->bv", weights, speech)
        inside = tokens.mask.unsqueeze(-1)
        text = (_single(tokens.vectors) * inside).sum(1) / inside.sum(1)
        return 1 - F.cosine_similarity(speech, text, dim=-1)


class LocalAlignment(Alignment):
    """Each token's cosine to its most similar frame.

    Arguments
    ---------
    speech_priors : bool
        Whether the prior of a frame multiplies its cosine before the maximum;
        the account of the paper leaves this open.

    Example
    -------
    >>> mask, priors = torch.tensor([[True, True]]), torch.tensor([[0.5, 0.5]])
    >>> axes = Units(torch.eye(2).unsqueeze(0), mask, priors)
    >>> LocalAlignment()(axes, axes)
    tensor(-1.)
    """

    def __init__(self, speech_priors=False):
        super().__init__()
        self.speech_priors = speech_priors

    def measure(self, frames, tokens):
        """Returns minus the similarity of each pair; see `Alignment`."""
        priors = frames.priors if self.speech_priors else None
        return _best_similarity(frames.vectors, frames.mask, tokens, priors)


class SpanAlignment(Alignment):
    """Each token's cosine to its most similar span of frames.

    The frames with the highest priors are anchors, at most one a token. Round
    each stand spans of several lengths, in multiples of the frames that there
    are for a token; the vector of a span is the mean of its frames.

    Arguments
    ---------
    spans : iterable of float
        Lengths, as multiples of frames / tokens; empty for the anchors alone.
    anchors : str
        ``priors``, or ``strides`` for frames at even distances.

    Raises
    ------
    ValueError
        If `anchors` is neither, or a length is not above 0.

    Example
    -------
    >>> mask, priors = torch.tensor([[True, True]]), torch.tensor([[0.5, 0.5]])
    >>> axes = Units(torch.eye(2).unsqueeze(0), mask, priors)
    >>> SpanAlignment(spans=[1])(axes, axes)
    tensor(-1.)
    """

    def __init__(self, spans=SPANS, anchors="priors"):
        super().__init__()
        if anchors not in ("priors", "strides"):
            raise ValueError(
                f"anchors '{anchors}' cannot be had: choose priors or strides"
            )
        self.spans = tuple(spans)
        if any(span <= 0 for span in self.spans):
            raise ValueError(f"spans {self.spans} must be above 0")
        self.anchors = anchors
        multiples = torch.tensor(self.spans or [0.0])
        self.register_buffer("multiples", multiples, persistent=False)

    def measure(self, frames, tokens):
        """Returns minus the similarity of each pair; see `Alignment`."""
        anchors, mask = self.find_anchors(frames, tokens)
        starts, ends = self.find_spans(
            anchors, frames.mask.sum(-1), tokens.mask.sum(-1)
        )
        spans = pool_spans(frames.vectors, starts.flatten(1), ends.flatten(1))
        mask = mask.unsqueeze(-1).expand_as(starts).flatten(1)
        return _best_similarity(spans, mask, tokens)

    def find_anchors(self, frames, tokens):
        """Returns the frames that spans stand around.

        Arguments
        ---------
        frames, tokens : Units

        Returns
        -------
        anchors : torch.Tensor
            Numbers of frames, [batch, anchors].
        mask : torch.Tensor
            True for those that an item has, [batch, anchors].
        """
        lengths = frames.mask.sum(-1, keepdim=True)
        counts = torch.minimum(lengths, tokens.mask.sum(-1, keepdim=True))
        size = min(frames.mask.shape[1], tokens.mask.shape[1])
        order = torch.arange(size, device=lengths.device)
        if self.anchors == "strides":
            anchors = ((order + 0.5) * lengths / counts).long()
            anchors = torch.minimum(anchors, lengths - 1)
        else:
            priors = frames.priors.masked_fill(~frames.mask, -1)
            anchors = priors.topk(size, dim=-1).indices
        return anchors, order < counts

    def find_spans(self, anchors, frames, tokens):
        """Returns where the spans around anchors start and end.

        Arguments
        ---------
        anchors : torch.Tensor
            [batch, anchors].
        frames, tokens : torch.Tensor
            Units of each item, [batch].

        Returns
        -------
        starts, ends : torch.Tensor
            First frame, and the one after the last, [batch, anchors, spans].
        """
        per_token = (frames / tokens).round().clamp(min=1)
        lengths = per_token.unsqueeze(-1) * self.multiples
        lengths = lengths.round().clamp(min=1)
        lengths = lengths.long().unsqueeze(1)
        starts = anchors.unsqueeze(-1) - lengths // 2
        ends = torch.minimum(starts + lengths, frames.view(-1, 1, 1))
        return starts.clamp(min=0), ends


def pool_spans(vectors, starts, ends):
    """Means of spans, by one cumulative sum for all of them.

    Arguments
    ---------
    vectors : torch.Tensor
        [batch, units, values], or one for the whole batch.
    starts, ends : torch.Tensor
        First unit, and the one after the last, [batch, spans].

    Returns
    -------
    torch.Tensor
        [batch, spans, values], in single precision.

    Example
    -------
    >>> vectors = torch.tensor([[[1.0], [3.0], [8.0]]])
    >>> pool_spans(vectors, torch.tensor([[0, 1]]), torch.tensor([[2, 3]]))
    tensor([[[2.0000],
             [5.5000]]])
    """
    sums = F.pad(_single(vectors).cumsum(1), (0, 0, 1, 0))
    sums = sums.expand(len(starts), -1, -1)
    sizes = (ends - starts).clamp(min=1).unsqueeze(-1)
    upper, lower = (
        sums.gather(1, i.unsqueeze(-1).expand(-1, -1, sums.shape[-1]))
        for i in (ends.clamp(min=0), starts.clamp(max=sums.shape[1] - 1))
    )
    return (upper - lower) / sizes


def _single(x):
    """In single precision at least: sums lose too much in half."""
    return x if x.dtype == torch.float64 else x.float()


def _best_similarity(candidates, mask, tokens, priors=None):
    """Minus the similarity of each token's best candidate, by its prior."""
    speech, text = (
        F.normalize(_single(x), dim=-1) for x in (candidates, tokens.vectors)
    )
    cosines = speech @ text.transpose(1, 2)  # [batch, candidates, tokens]
    if priors is not None:
        cosines = cosines * priors.unsqueeze(-1)
    cosines = cosines.masked_fill(~mask.unsqueeze(-1), float("-inf"))
    best = cosines.amax(1).masked_fill(~tokens.mask, 0)
    return -(tokens.priors * best).sum(-1)
