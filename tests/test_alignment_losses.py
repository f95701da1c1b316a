"""Priors, anchors and spans do what the formulas say."""

import math

import pytest
import torch

from slu_kd_lobes.losses.alignment import (
    GlobalAlignment,
    LocalAlignment,
    SentenceAlignment,
    SpanAlignment,
    Units,
    pool_spans,
)
from slu_kd_lobes.losses.priors import received_attention, significance, uniform

SIZE = 5


def random_units(lengths, spread=1.0, dtype=torch.float32, extra=0):
    """Units with random vectors and priors; what is padding is large."""
    longest = max(lengths) + extra
    mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(-1)
    vectors = torch.randn(len(lengths), longest, SIZE, dtype=dtype)
    vectors[~mask] = 1000.0
    priors = torch.rand(len(lengths), longest, dtype=dtype) * mask
    priors = spread * priors + 1e-3 * mask
    return Units(vectors, mask, priors / priors.sum(-1, keepdim=True))


def sentence_alignment():
    """With weights that a training could have found."""
    loss = SentenceAlignment()
    loss.set_width(SIZE)
    torch.nn.init.normal_(loss.attention.weight)
    return loss


ALL = [GlobalAlignment, LocalAlignment, SpanAlignment, sentence_alignment]


def cosine(x, y):
    """Of two lists of numbers."""
    dot = sum(a * b for a, b in zip(x, y))
    return dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def span_loop(frames, tokens, multiples, strides=False):
    """The span-level loss as loops over items, tokens, anchors and spans."""
    total = 0.0
    for item in range(len(frames.mask)):
        length = int(frames.mask[item].sum())
        size = int(tokens.mask[item].sum())
        count = min(length, size)
        priors = frames.priors[item, :length].tolist()
        anchors = sorted(range(length), key=lambda i: -priors[i])[:count]
        if strides:
            anchors = [int((k + 0.5) * length / count) for k in range(count)]
        per_token = max(1, round(length / size))
        spans = []
        for anchor in anchors:
            for multiple in multiples or [0]:
                wide = max(1, round(per_token * multiple))
                start = anchor - wide // 2
                end = min(length, start + wide)
                rows = frames.vectors[item, max(0, start) : end].tolist()
                spans.append([sum(x) / len(rows) for x in zip(*rows)])
        for token in range(size):
            vector = tokens.vectors[item, token].tolist()
            best = max(cosine(span, vector) for span in spans)
            total -= float(tokens.priors[item, token]) * best
    return total / len(frames.mask)


def test_received_attention_by_hand():
    """Padded rows give nothing, padded columns receive nothing."""
    attention = torch.tensor(
        [
            [[0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.9, 0.0, 0.1]],
            [[0.4, 0.6, 0.0], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]],
        ]
    ).unsqueeze(0)
    mask = torch.tensor([[True, True, False]])
    # Means of the heads: [0.3, 0.7] and [0.4, 0.6].
    assert torch.allclose(
        received_attention(attention, mask), torch.tensor([[0.35, 0.65, 0.0]])
    )


def test_priors_sum_to_one_and_do_not_move_with_padding():
    """Over layers, also in half precision and when the batch is wider."""
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    layers = [torch.rand(2, 3, 4, 4).softmax(-1) for _ in range(2)]
    priors = significance(layers, mask)
    assert torch.allclose(priors.sum(-1), torch.ones(2))
    wide = [torch.nn.functional.pad(x, (0, 3, 0, 3), value=0.7) for x in layers]
    padded = significance(wide, torch.nn.functional.pad(mask, (0, 3)))
    assert torch.allclose(padded[:, :4], priors)
    assert not padded[:, 4:].any()
    half = significance([x.bfloat16() for x in layers], mask)
    assert half.dtype == torch.float32
    assert torch.allclose(half, priors, atol=5e-3)


def test_priors_carry_no_gradient_and_need_weights():
    """The student must not learn to be looked at."""
    weights = torch.rand(1, 1, 3, 3, requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert not significance([weights], mask).requires_grad
    with pytest.raises(ValueError, match="eager"):
        significance([], mask)


def test_global_by_hand():
    """Sums weighted by both priors, then the absolute differences."""
    mask = torch.tensor([[True, True, False]])
    frames = Units(
        torch.tensor([[[1.0, 0.0], [3.0, 2.0], [99.0, 99.0]]]),
        mask,
        torch.tensor([[0.25, 0.75, 0.0]]),
    )
    tokens = Units(torch.tensor([[[1.0, 1.0]]]), mask[:, :1], torch.ones(1, 1))
    # [2.5, 1.5] against [1, 1].
    assert GlobalAlignment()(frames, tokens).item() == pytest.approx(2.0)


def test_uniform_priors_are_the_plain_local_loss():
    """Minus the mean over tokens of the best cosine."""
    frames, tokens = random_units([6, 4]), random_units([3, 2])
    tokens.priors = uniform(tokens.mask)
    expected = 0.0
    for item, (length, size) in enumerate([(6, 3), (4, 2)]):
        for token in tokens.vectors[item, :size].tolist():
            rows = frames.vectors[item, :length].tolist()
            expected -= max(cosine(row, token) for row in rows) / size / 2
    assert LocalAlignment()(frames, tokens).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_priors_of_the_text_weigh_its_tokens():
    """All of the prior on one token: its cosine alone."""
    frames, tokens = random_units([6]), random_units([3])
    tokens.priors = torch.tensor([[0.0, 1.0, 0.0]])
    token = tokens.vectors[0, 1].tolist()
    best = max(cosine(row, token) for row in frames.vectors[0].tolist())
    assert LocalAlignment()(frames, tokens).item() == pytest.approx(-best)


def test_the_speech_prior_inside_the_maximum():
    """It chooses a frame that counts, and scales its cosine."""
    frames, tokens = random_units([4]), random_units([1])
    frames.vectors[0, :2] = tokens.vectors[0, 0]
    frames.priors = torch.tensor([[0.1, 0.6, 0.1, 0.2]])
    loss = LocalAlignment(speech_priors=True)(frames, tokens)
    assert loss.item() == pytest.approx(-0.6)


def test_spans_of_one_frame_at_all_frames_are_the_local_loss():
    """As many tokens as frames make every frame an anchor."""
    frames, tokens = random_units([5, 3]), random_units([5, 3])
    local = LocalAlignment()(frames, tokens)
    for spans in ([1], []):
        span = SpanAlignment(spans)(frames, tokens)
        assert torch.allclose(span, local)


def test_the_sentence_loss_by_hand():
    """A softmax over the frames, a mean over the tokens, and their cosine."""
    torch.manual_seed(5)
    loss = sentence_alignment()
    frames, tokens = random_units([4]), random_units([3])
    weights = loss.attention(frames.vectors[0]).softmax(0)
    speech = (weights * frames.vectors[0]).sum(0).tolist()
    text = tokens.vectors[0].mean(0).tolist()
    expected = 1 - cosine(speech, text)
    assert loss(frames, tokens).item() == pytest.approx(expected, rel=1e-5)


def test_what_a_frame_counts_is_learnt():
    """Equal at first; then the frame that says what the text says."""
    loss = SentenceAlignment()
    loss.set_width(SIZE)
    frames, tokens = random_units([3]), random_units([1])
    frames.vectors[0, 1] = tokens.vectors[0, 0]
    optimiser = torch.optim.SGD(loss.parameters(), 1.0)
    for _ in range(50):
        optimiser.zero_grad()
        loss(frames, tokens).backward()
        optimiser.step()
    weights = loss.attention(frames.vectors[0]).squeeze(-1).softmax(0)
    assert weights.argmax() == 1 and weights[1] > 0.5


@pytest.mark.parametrize("make", ALL)
def test_mixed_precision_changes_nothing(make):
    """Vectors in half precision, as a model gives them under autocast."""
    torch.manual_seed(7)
    loss, frames, tokens = make(), random_units([9, 6]), random_units([3, 2])
    frames.vectors = frames.vectors.bfloat16()
    plain = loss(frames, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(frames, tokens)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, plain)


@pytest.mark.parametrize("anchors", ["priors", "strides"])
@pytest.mark.parametrize("spans", [(0.5, 1, 2), (1.5, 4), ()])
def test_vectorised_is_the_loop(spans, anchors):
    """In double precision, on batches of random sizes."""
    for lengths, sizes in (
        ([17, 9, 30], [4, 9, 1]),
        ([2, 5], [6, 3]),
        ([1], [1]),
    ):
        frames = random_units(lengths, dtype=torch.float64)
        tokens = random_units(sizes, dtype=torch.float64)
        loss = SpanAlignment(spans, anchors)(frames, tokens)
        expected = span_loop(frames, tokens, spans, anchors == "strides")
        assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("make", ALL)
def test_padding_and_order_change_nothing(make):
    """A wider batch, and its items alone and the other way round."""
    torch.manual_seed(3)
    loss = make()
    frames, tokens = random_units([9, 6]), random_units([3, 2])
    whole = loss(frames, tokens)

    def take(units, index, extra):
        shape = (0, extra)
        return Units(
            torch.nn.functional.pad(
                units.vectors[index], (0, 0, *shape), value=7.0
            ),
            torch.nn.functional.pad(units.mask[index], shape),
            torch.nn.functional.pad(units.priors[index], shape),
        )

    turned = loss(take(frames, [1, 0], 4), take(tokens, [1, 0], 2))
    alone = [loss(take(frames, [i], 0), take(tokens, [i], 0)) for i in (0, 1)]
    assert torch.allclose(turned, whole, rtol=1e-5)
    assert torch.allclose(torch.stack(alone).mean(), whole, rtol=1e-5)


@pytest.mark.parametrize("make", ALL)
def test_gradients_reach_frames_and_no_padding(make):
    """And are those of finite differences, in double precision."""
    loss = make().double()
    frames = random_units([5, 3], dtype=torch.float64)
    tokens = random_units([2, 2], dtype=torch.float64)
    frames.vectors.requires_grad_()
    loss(frames, tokens).backward()
    gradient = frames.vectors.grad
    assert gradient[frames.mask].abs().sum() > 0
    assert not gradient[~frames.mask].any()
    assert torch.autograd.gradcheck(
        lambda x: loss(Units(x, frames.mask, frames.priors), tokens),
        frames.vectors.detach().clone().requires_grad_(),
    )


def test_sums_of_half_precision_are_single():
    """A thousand equal frames have the mean of one."""
    vectors = torch.full((1, 1000, 2), 0.1, dtype=torch.bfloat16)
    pooled = pool_spans(vectors, torch.tensor([[0]]), torch.tensor([[1000]]))
    assert pooled.dtype == torch.float32
    assert torch.allclose(pooled, vectors[:, :1].float(), rtol=1e-3)


@pytest.mark.parametrize(
    "options", [{"anchors": "random"}, {"spans": [1, 0]}, {"spans": [-1.0]}]
)
def test_what_cannot_be_is_one_sentence(options):
    """When it is made."""
    with pytest.raises(ValueError, match="anchors|spans"):
        SpanAlignment(**options)
