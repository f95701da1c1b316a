"""Masks of spans: of audio tokens, of frames and of channels.

Spans are in milliseconds, so that tokens of any rate have the same shares
masked. All is drawn by torch's own generator, an item at a time, without a
loop.

Source: Kim et al. 2020, "Two-stage Textual Knowledge Distillation for
End-to-End Spoken Language Understanding", section 2, and its published code,
whose tokens and frames last 10 ms; Park et al. 2019, "SpecAugment".
"""

import torch


def draw_spans(lengths, size, counts, span, first=0):
    """Spans at random places of each item; they may overlap.

    Arguments
    ---------
    lengths : torch.Tensor
        Places of each item, [batch].
    size : int
        Places of the longest.
    counts : torch.Tensor
        Spans of each item, [batch]; their starts differ.
    span : int
        Places of a span. In an item without room for it and for two places
        beside it, it is shorter.
    first : int
        The first place where a span may start. The last place of an item is
        in no span.

    Returns
    -------
    torch.Tensor
        True inside of spans, [batch, size].

    Example
    -------
    >>> lengths, counts = torch.tensor([4, 2]), torch.tensor([1, 1])
    >>> draw_spans(lengths, 4, counts, span=2, first=1)
    tensor([[False,  True,  True, False],
            [False, False, False, False]])
    """
    place = torch.arange(size, device=lengths.device)
    spans = (lengths - 2).clamp(min=1, max=span).unsqueeze(1)
    possible = (place >= first) & (place < lengths.unsqueeze(1) - spans)
    order = torch.rand(len(lengths), size, device=lengths.device)
    order = order.masked_fill(~possible, 2).argsort(1).argsort(1)
    starts = possible & (order < counts.unsqueeze(1))
    begun = starts.cumsum(1)
    before = place - spans
    ended = begun.gather(1, before.clamp(min=0)).masked_fill(before < 0, 0)
    return begun > ended


def mask_spans(tokens, lengths, mask, frame_ms, share=0.5, span_ms=200.0):
    """Puts a mark in the place of tokens, in spans.

    The first token and the last one stay. Half of the tokens in spans of 200 ms
    are masked to be named in pre-training (42 % of them, as spans overlap), a
    fifth in spans of 50 ms to augment fine-tuning.

    Arguments
    ---------
    tokens : torch.Tensor
        Numbers of the dictionary, [batch, tokens].
    lengths : torch.Tensor
        Tokens of each item, [batch].
    mask : int
        Number of the mark.
    frame_ms : float
        Time from one token to the next, in ms.
    share : float
        Of the tokens, if spans did not overlap.
    span_ms : float
        Time of a span, in ms.

    Returns
    -------
    masked : torch.Tensor
        [batch, tokens].
    chosen : torch.Tensor
        True where the mark is, [batch, tokens].

    Example
    -------
    >>> tokens, lengths = torch.tensor([[0, 7, 8, 2]]), torch.tensor([4])
    >>> masked, chosen = mask_spans(tokens, lengths, 99, 100.0)
    >>> masked
    tensor([[ 0, 99, 99,  2]])
    """
    span = max(1, round(span_ms / frame_ms))
    lengths = lengths.to(tokens.device)
    counts = (lengths * share / span).ceil()
    chosen = draw_spans(lengths, tokens.shape[1], counts, span, first=1)
    return tokens.masked_fill(chosen, mask), chosen


def mask_frames(states, lengths, frame_ms, share=0.5, span_ms=100.0):
    """Sets spans of frames to zero.

    Arguments
    ---------
    states : torch.Tensor
        [batch, frames, channels].
    lengths : torch.Tensor
        Frames of each item, [batch].
    frame_ms : float
        Time from one frame to the next, in ms.
    share : float
        Of the frames, if spans did not overlap; 40 % of them are masked.
    span_ms : float
        Time of a span, in ms.

    Returns
    -------
    torch.Tensor
        [batch, frames, channels].

    Example
    -------
    >>> states = torch.ones(1, 100, 1)
    >>> masked = mask_frames(states, torch.tensor([100]), 10.0)
    >>> bool(0.2 < masked.mean() < 0.8)
    True
    """
    span = max(1, round(span_ms / frame_ms))
    lengths = lengths.to(states.device)
    counts = _rounded_at_random(lengths * share / span)
    masked = draw_spans(lengths, states.shape[1], counts, span)
    return states.masked_fill(masked.unsqueeze(-1), 0)


def mask_channels(states, share=0.4, span=5):
    """Sets spans of channels to zero, in all frames of an item.

    Arguments
    ---------
    states : torch.Tensor
        [batch, frames, channels].
    share : float
        Of the channels, if spans did not overlap; a third of them is masked.
    span : int
        Channels of a span.

    Returns
    -------
    torch.Tensor
        [batch, frames, channels].

    Example
    -------
    >>> masked = mask_channels(torch.ones(1, 2, 50))
    >>> bool((masked[:, 0] == masked[:, 1]).all())
    True
    """
    batch, _, channels = states.shape
    sizes = torch.full((batch,), channels, device=states.device)
    counts = _rounded_at_random(sizes * share / span)
    masked = draw_spans(sizes, channels, counts, span)
    return states.masked_fill(masked.unsqueeze(1), 0)


def _rounded_at_random(x):
    """Whole numbers with the same mean."""
    return (x + torch.rand(x.shape, device=x.device)).floor()
