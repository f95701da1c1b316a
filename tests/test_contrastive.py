"""Contrastive distillation of token vectors."""

import math

import pytest
import torch

from slu_kd_lobes.losses.contrastive import (
    ContrastiveDistillation,
    draw_negatives,
)


def vectors_of(lengths, size=6, seed=0):
    torch.manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return torch.randn(*mask.shape, size), torch.randn(*mask.shape, size), mask


@pytest.mark.parametrize("number", [3, 700])
def test_it_is_the_cross_entropy_by_hand(number):
    """Of the own vector and the drawn ones, a pair at a time."""
    student, teacher, mask = vectors_of([5, 2, 4])
    loss = ContrastiveDistillation(0.1, number)
    torch.manual_seed(1)
    found = loss(student, teacher, mask)
    torch.manual_seed(1)
    drawn = draw_negatives(mask.flatten(), number)
    heard, said = student.flatten(0, 1), teacher.flatten(0, 1)
    total = 0.0
    for i in mask.flatten().nonzero().flatten().tolist():

        def likeness(k, i=i):
            cosine = torch.cosine_similarity(heard[i], said[k], dim=0)
            return math.exp(cosine / 0.1)

        others = sum(likeness(k) for k in drawn[i].nonzero().flatten().tolist())
        total -= math.log(likeness(i) / (likeness(i) + others))
    assert found.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("number, wanted", [(3, 3), (700, 8)])
def test_others_are_drawn_without_repetition(number, wanted):
    """As many for each token; four fifths of eleven; never padding, or it."""
    inside = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1], dtype=bool)
    assert int(inside.sum()) == 11
    seen = torch.zeros(13, 13)
    for _ in range(400):
        drawn = draw_negatives(inside, number)
        assert drawn.sum(1).tolist() == [wanted * int(x) for x in inside]
        assert not drawn.diagonal().any() and not drawn[:, ~inside].any()
        seen += drawn
    rates = seen[inside][:, inside] / 400
    rates = rates[~torch.eye(11).bool()]
    assert (rates - wanted / 10).abs().max() < 0.12  # all alike


def test_padding_changes_nothing():
    """What stands there, and how much of it there is."""
    student, teacher, mask = vectors_of([5, 2])
    loss = ContrastiveDistillation(0.1)
    whole = vectors_of([5, 2, 0])

    def padded(x, value):
        x = torch.nn.functional.pad(x, (0, 0, 0, 4), value=value)
        x[:, :5][~mask] = value
        return x

    more = torch.nn.functional.pad(mask, (0, 4))
    torch.manual_seed(3)
    one = [loss(student, teacher, mask).item() for _ in range(200)]
    torch.manual_seed(4)
    other = [
        loss(padded(student, 1e3), padded(teacher, -1e3), more).item()
        for _ in range(200)
    ]
    mean, spread = torch.tensor(one).mean(), torch.tensor(one).std()
    assert abs(torch.tensor(other).mean() - mean) < 4 * spread / 200**0.5
    empty = torch.zeros_like(mask)
    assert loss(student, teacher, empty).item() == 0
    assert whole[2].sum() == 7


def test_the_own_vector_is_what_is_learnt():
    """Gradients reach the student alone; equal vectors are the best."""
    student, teacher, mask = vectors_of([6, 6])
    student.requires_grad_()
    loss = ContrastiveDistillation()
    before = loss(student, teacher, mask)
    before.backward()
    assert student.grad.isfinite().all() and student.grad.any()
    assert loss(teacher, teacher, mask) < before
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = loss(teacher.bfloat16(), teacher, mask)
    assert again.dtype == torch.float32


def test_a_temperature_is_above_nothing():
    with pytest.raises(ValueError, match="temperature 0 is not above 0"):
        ContrastiveDistillation(0)
