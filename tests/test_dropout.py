"""Dropout: what it keeps, what it scales, and where its numbers come from."""

import pytest
import torch

from slu_kd_lobes.students.dropout import Dropout


def test_dropout_keeps_the_mean():
    """A share of p is zero, the rest is scaled by 1 / (1 - p)."""
    x = torch.full((200, 500), 3.0)
    y = Dropout(0.2)(x)
    # The probability is rounded to 13,107 of 65,536.
    assert y.unique().tolist() == pytest.approx([0.0, 3 * 65536 / 52429])
    assert (y == 0).float().mean() == pytest.approx(0.2, abs=0.005)


def test_gradient_passes_where_values_do():
    """And with the same scale."""
    x = torch.ones(50, 7, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_no_dropout_outside_training_or_at_zero():
    """The very same tensor comes back."""
    x = torch.rand(3, 4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


@pytest.mark.parametrize("p", [-0.1, 1, 1.5])
def test_impossible_dropout_is_refused(p):
    """At 1 nothing would be left to scale."""
    with pytest.raises(ValueError, match="dropout"):
        Dropout(p)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 1023])
def test_any_number_of_values_gets_noise_of_its_own(size):
    """Four values share a word of random bits; none repeats another."""
    x = torch.ones(400, size)
    y = torch.stack([Dropout(0.5)(row) for row in x])
    assert y.shape == x.shape
    assert set(y.unique().tolist()) == {0.0, 2.0}
    share = (y == 0).float().mean(0)
    assert (share - 0.5).abs().max() < 0.12  # 4.8 standard deviations
    if size > 1:
        same = (y[:, :-1] == y[:, 1:]).float().mean(0)
        assert (same - 0.5).abs().max() < 0.12


def test_noise_is_that_of_torchs_own_generator():
    """A seed gives it again; what a caller draws in between counts."""
    x = torch.ones(100)
    torch.manual_seed(3)
    first, second = Dropout(0.5)(x), Dropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(Dropout(0.5)(x), first)
    assert torch.equal(Dropout(0.5)(x), second)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    torch.rand(1)
    assert not torch.equal(Dropout(0.5)(x), first)


def test_probabilities_near_the_ends_lose_little_or_nearly_all():
    """Whatever is kept is scaled to the mean; it stays finite."""
    x = torch.ones(500, 1000)
    y = Dropout(0.999)(x)
    assert (y == 0).float().mean() == pytest.approx(0.999, abs=0.0005)
    assert y.mean() == pytest.approx(1, abs=0.2)
    y = Dropout(1 - 1e-9)(x)
    assert y.isfinite().all()
    y = Dropout(0.001)(x)
    assert (y == 0).float().mean() == pytest.approx(0.001, abs=0.0005)


def test_a_probability_is_shown():
    """So that the fingerprint of an encoder knows it."""
    assert "p=0.25" in repr(Dropout(0.25))
