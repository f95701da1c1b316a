"""The decoder without cross-attention: all at once is one after the other."""

import pytest
import torch

from slu_kd_lobes.students.token_decoder import TokenDecoder


def small(**changes):
    """A decoder in eval mode, and always the same one."""
    torch.manual_seed(0)
    sizes = dict(size=8, ffn_size=12, num_heads=2, num_layers=2)
    return TokenDecoder(9, **{**sizes, **changes}).eval()


def test_published_decoder_has_as_many_parameters():
    found = sum(p.numel() for p in TokenDecoder(4234).parameters())
    assert found == 5_060_608


@pytest.mark.parametrize("layers", [1, 3])
def test_one_token_after_the_other_is_all_at_once(layers):
    decoder = small(num_layers=layers)
    vectors, before = torch.randn(3, 7, 8), torch.randint(9, (3, 7))
    states, scores, _ = decoder(vectors, before)
    previous, cache = None, None
    for i in range(7):
        now = vectors[:, i : i + 1]
        found = decoder(now, before[:, i : i + 1], previous, cache)
        previous, cache = now[:, 0], found[2]
        assert torch.allclose(found[0][:, 0], states[:, i], atol=1e-5)
        assert torch.allclose(found[1][:, 0], scores[:, i], atol=1e-5)


def test_a_token_knows_nothing_of_later_ones():
    decoder = small()
    vectors = torch.randn(1, 6, 8, requires_grad=True)
    before = torch.randint(9, (1, 6))
    _, scores, _ = decoder(vectors, before)
    scores[0, 3].sum().backward()
    assert vectors.grad[0, :4].any(1).all()
    assert not vectors.grad[0, 4:].any()
    other = before.clone()
    other[0, 4:] = 8 - before[0, 4:]
    assert torch.equal(decoder(vectors, other)[1][0, :4], scores[0, :4])


def test_the_vector_of_the_token_before_counts_beside_its_own():
    decoder = small()
    vectors, before = torch.randn(1, 3, 8), torch.zeros(1, 3, dtype=torch.long)
    nothing = torch.zeros(1, 8)
    assert torch.equal(
        decoder(vectors, before)[1], decoder(vectors, before, nothing)[1]
    )
    other = decoder(vectors, before, torch.ones(1, 8))[1]
    assert not torch.allclose(decoder(vectors, before)[1][:, 0], other[:, 0])


def test_padding_behind_an_item_changes_nothing():
    decoder = small()
    vectors, before = torch.randn(2, 5, 8), torch.randint(9, (2, 5))
    alone = decoder(vectors[1:, :3], before[1:, :3])[1]
    assert torch.allclose(decoder(vectors, before)[1][1:, :3], alone, atol=1e-6)


def test_heads_that_do_not_share_the_channels_are_one_sentence():
    with pytest.raises(ValueError, match="size 8 cannot be shared by 3 heads"):
        small(num_heads=3)
