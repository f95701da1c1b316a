"""Masks of spans: shares, places, short inputs, reproducible draws."""

import math

import pytest
import torch

from slu_kd_lobes.data.span_masks import (
    draw_spans,
    mask_channels,
    mask_frames,
    mask_spans,
)


def starts_of(chosen):
    """First places of the runs of each row."""
    padded = torch.nn.functional.pad(chosen.int(), (1, 0))
    return padded.diff(dim=1) == 1


@pytest.mark.parametrize(
    "size, named, augmented",
    [(60, 52.7, 23.2), (150, 42.9, 18.7), (300, 42.3, 18.6), (401, 43.1, 19.6)],
)
def test_as_many_tokens_are_masked_as_in_the_published_code(
    size, named, augmented
):
    """In percent of 60 to 401 tokens of 10 ms, as measured on that code."""
    torch.manual_seed(size)
    tokens, lengths = torch.full((4000, size), 9), torch.full((4000,), size)
    _, chosen = mask_spans(tokens, lengths, 1, 10.0, 0.5, 200)
    assert abs(100 * chosen.float().mean() - named) < 0.7
    _, chosen = mask_spans(tokens, lengths, 1, 10.0, 0.2, 50)
    assert abs(100 * chosen.float().mean() - augmented) < 0.3


def test_frames_and_channels_have_the_published_shares_masked():
    """40 % of the frames and a third of 768 channels."""
    torch.manual_seed(4)
    states = torch.ones(2000, 300, 1)
    kept = mask_frames(states, torch.full((2000,), 300), 10.0)
    assert 39 < 100 * (1 - kept.mean()) < 41.5
    kept = mask_channels(torch.ones(2000, 1, 768))
    assert 32.5 < 100 * (1 - kept.mean()) < 35


def test_a_span_has_its_length_and_begins_where_it_may():
    """One span of 3 in 9 places: never at 0, never over the last."""
    torch.manual_seed(0)
    lengths = torch.full((500,), 9)
    chosen = draw_spans(lengths, 9, torch.ones(500), span=3, first=1)
    assert (chosen.sum(1) == 3).all()
    assert (starts_of(chosen).sum(1) == 1).all()
    firsts = starts_of(chosen).int().argmax(1)
    assert sorted(set(firsts.tolist())) == [1, 2, 3, 4, 5]


def test_starts_are_drawn_without_repetition():
    """As many spans of 1 as there are places fill all that is allowed."""
    torch.manual_seed(0)
    chosen = draw_spans(torch.tensor([8, 5]), 8, torch.tensor([6, 3]), 1, 1)
    assert chosen.int().tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 0, 0, 0, 0],
    ]


def test_the_number_of_spans_is_rounded_up():
    """ceil(0.04 T) starts: 1 of 20 tokens, 3 of 51."""
    for size in (20, 51):
        tokens = torch.zeros(300, size, dtype=torch.long)
        torch.manual_seed(size)
        _, chosen = mask_spans(
            tokens, torch.full((300,), size), 1, 10.0, share=0.04, span_ms=10
        )
        assert (chosen.sum(1) == math.ceil(0.04 * size)).all()


@pytest.mark.parametrize("size", range(1, 23))
def test_short_inputs_keep_their_ends(size):
    """Something is masked as soon as there are three tokens."""
    torch.manual_seed(size)
    tokens = torch.arange(10, 10 + size).expand(50, -1)
    masked, chosen = mask_spans(tokens, torch.full((50,), size), 1, 10.0)
    assert not chosen[:, 0].any() and not chosen[:, -1].any()
    assert chosen.any(1).all() == (size > 2)
    assert torch.equal(masked, torch.where(chosen, 1, tokens))


def test_padding_is_in_no_span():
    """Each item has the spans of its own length."""
    torch.manual_seed(1)
    lengths = torch.tensor([100, 40, 7])
    order = torch.arange(100)
    for _ in range(50):
        chosen = draw_spans(lengths, 100, lengths // 10, span=10)
        assert not chosen[order >= lengths.unsqueeze(1) - 1].any()


def test_the_same_seed_masks_the_same():
    """So that a run that was cut short goes on as it would have."""
    states, lengths = torch.rand(3, 80, 12), torch.tensor([80, 60, 9])
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        frames = mask_frames(states, lengths, 20.0)
        found.append(mask_channels(frames))
    assert torch.equal(*found)
    assert not torch.equal(found[0], states)


def test_gradients_pass_where_nothing_is_masked():
    """Ones there, zeros elsewhere."""
    states = torch.rand(2, 50, 8, requires_grad=True)
    masked = mask_frames(states, torch.tensor([50, 50]), 10.0)
    masked.sum().backward()
    assert torch.equal(states.grad, (masked != 0).float())
