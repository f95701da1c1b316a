"""Random numbers of a step depend on seed, epoch and step, and nothing else."""

import itertools

import pytest
import torch

from slu_kd_lobes import randomness
from slu_kd_lobes.randomness import Dropout, seed_step


def numbers(*place, **stream):
    """The first numbers after seeding."""
    seed_step(*place, **stream)
    return tuple(torch.rand(4).tolist())


def test_every_place_in_training_has_numbers_of_its_own():
    """The next seed's step is not this seed's next step, and so on."""
    places = list(itertools.product((0, 1, 2), repeat=4))
    drawn = {
        numbers(seed, epoch, step, stream=stream)
        for seed, epoch, step, stream in places
    }
    assert len(drawn) == len(places)


def test_what_ran_before_does_not_matter():
    """A step draws the same in a resumed run."""
    first = numbers(1234, 3, 7)
    torch.rand(100)
    assert numbers(1234, 3, 7) == first


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


def test_processes_draw_the_noise_of_one(monkeypatch):
    """Three processes with equal parts, the last one with a filler."""
    x = torch.rand(5, 3, 2) + 1
    seed_step(1, 2, 3)
    whole = Dropout(0.5)(x)
    parts = []
    for rank, part in enumerate((x[:2], x[2:4], x[[4, 4]])):
        monkeypatch.setattr(
            randomness, "rank_and_processes", lambda r=rank: (r, 3)
        )
        seed_step(1, 2, 3)
        parts.append(Dropout(0.5)(part))
    assert torch.equal(torch.cat(parts)[:5], whole)
