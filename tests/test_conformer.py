"""The Conformer: its sizes, and what padding may not do."""

import pytest
import torch

from slu_kd_lobes.students.conformer import (
    MaskedConvolution,
    PoolingConformer,
    RelativeAttention,
    by_own_distance,
    pool,
)


def small(**changes):
    """An encoder of two layers in eval mode, and always the same one."""
    torch.manual_seed(0)
    sizes = dict(size=16, ffn_size=24, num_heads=2, num_layers=3, channels=4)
    return PoolingConformer(
        20, **{**sizes, "kernel_size": 5, "pool_after": [1, 2], **changes}
    ).eval()


def test_published_encoder_has_as_many_parameters():
    # Front end, and fifteen layers; see the specification of Han et al. 2023.
    encoder = PoolingConformer()
    parts = [encoder.convolution, encoder.narrow, encoder.enter]
    front = sum(p.numel() for part in parts for p in part.parameters())
    assert front == 1_345_280
    layer = sum(p.numel() for p in encoder.layers[0].parameters())
    assert layer == 2_634_496
    assert sum(p.numel() for p in encoder.parameters()) == front + 15 * layer


@pytest.mark.parametrize("time", [3, 8, 37, 50, 64])
def test_an_item_has_the_same_frames_alone_and_in_any_batch(time):
    encoder = small()
    features = torch.randn(3, 64, 20)
    lengths = torch.tensor([64, time, 30])
    frames, sizes = encoder(features, lengths)
    alone, size = encoder(features[1:2, :time], lengths[1:2])
    assert size == sizes[1] == alone.shape[1] == encoder.frames_of(time)
    assert torch.allclose(frames[1, :size], alone[0], atol=1e-5)
    assert not frames[1, size:].any()


def test_what_stands_in_the_padding_changes_nothing():
    encoder = small()
    lengths = torch.tensor([41, 22])
    features = torch.randn(2, 41, 20)
    other = features.clone()
    other[1, 22:] = 1000.0
    assert torch.equal(
        encoder(features, lengths)[0], encoder(other, lengths)[0]
    )


def test_gradients_do_not_come_from_the_padding():
    encoder = small()
    features = torch.randn(2, 41, 20, requires_grad=True)
    encoder(features, torch.tensor([41, 22]))[0].sum().backward()
    assert features.grad[1, :21].any(1).all()
    assert not features.grad[1, 22:].any()


def test_frames_are_counted_upwards_at_each_pooling():
    encoder = small()
    # Of 24 to 28 features the convolution makes 11 to 13 frames.
    found = [encoder.frames_of(time) for time in (23, 24, 25, 28)]
    assert found == [3, 3, 3, 4]
    tensor = encoder.frames_of(torch.tensor([23, 28]))
    assert tensor.tolist() == [3, 4]


def test_pooling_takes_the_greater_and_never_the_padding():
    x = torch.tensor([[-5.0, -7, -1, -2, -3], [-9, -4, -8, 0, 0]]).unsqueeze(2)
    inside = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    assert pool(x, inside).squeeze(2).tolist() == [[-5, -1, -3], [-4, -8, 0]]


def test_distances_are_those_between_a_frame_and_another():
    frames = 5
    distances = torch.arange(frames - 1, -frames, -1.0)
    found = by_own_distance(distances.expand(2, frames, -1))
    order = torch.arange(frames)
    assert torch.equal(found[1], (order.unsqueeze(1) - order).float())


def test_attention_is_that_of_transformer_xl():
    torch.manual_seed(1)
    heads, size, frames = 2, 6, 4
    attention = RelativeAttention(size, heads, 0.5).eval().double()
    for bias in (attention.content_bias, attention.distance_bias):
        torch.nn.init.normal_(bias)
    x = torch.randn(1, frames, size).double()
    inside = torch.tensor([[True, True, True, False]])
    places = torch.randn(1, 2 * frames - 1, size).double()
    y = attention.norm(x)[0]
    q, k, v = (
        layer(y).view(frames, heads, -1)
        for layer in (attention.queries, attention.keys, attention.values)
    )
    r = attention.distances(places)[0].view(2 * frames - 1, heads, -1)
    wanted = torch.zeros(frames, heads, size // heads).double()
    for h in range(heads):
        for i in range(frames):
            scores = torch.stack(
                [
                    (q[i, h] + attention.content_bias[h, 0]) @ k[j, h]
                    # The distance of i and j stands at frames - 1 - (i - j).
                    + (q[i, h] + attention.distance_bias[h, 0])
                    @ r[frames - 1 - i + j, h]
                    for j in range(3)  # the fourth frame is padding
                ]
            )
            weights = (scores / (size // heads) ** 0.5).softmax(0)
            wanted[i, h] = weights @ v[:3, h]
    wanted = attention.out(wanted.flatten(1))
    assert torch.allclose(attention(x, inside, places)[0], wanted)


def test_convolution_sees_nothing_behind_the_end():
    torch.manual_seed(2)
    module = MaskedConvolution(4, 3, 0.0).eval()
    x = torch.randn(1, 6, 4)
    inside = torch.arange(6).unsqueeze(0) < 4
    alone = module(x[:, :4], inside[:, :4])
    assert torch.allclose(module(x, inside)[:, :4], alone, atol=1e-6)


def test_batch_order_changes_nothing():
    encoder = small()
    features, lengths = torch.randn(3, 50, 20), torch.tensor([50, 12, 33])
    order = torch.tensor([2, 0, 1])
    frames, _ = encoder(features, lengths)
    other, _ = encoder(features[order], lengths[order])
    assert torch.allclose(frames[order], other, atol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_layers": 2, "pool_after": [1, 3]}, "names layer 3, and there"),
        ({"pool_after": [0]}, "names layer 0, and there are 3"),
        ({"num_heads": 3}, "size 16 cannot be shared by 3 heads"),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)
