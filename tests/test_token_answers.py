"""What vectors of tokens are answered with."""

import pytest
import torch

from slu_kd_lobes.evaluation.token_answers import Nearest, Understood, units_of

SLICES = {"action": slice(0, 2), "object": slice(2, 4)}
TARGETS = torch.tensor([[0, 0], [1, 1]])


@pytest.fixture
def said():
    """Two wordings of two tokens, along four axes."""
    axes = torch.eye(4).view(2, 2, 4)
    return units_of(axes, torch.ones(2, 2).bool())


def answers(said):
    made = (said, TARGETS, SLICES)
    return [Nearest(*made, seed=1), Understood(*made, seed=1)]


@pytest.mark.parametrize("which", [0, 1])
def test_a_wording_is_nearest_to_itself_however_long_its_vectors(said, which):
    answer = answers(said)[which]
    found = answer(said)
    assert found.shape == (2, 2)
    assert found.argmin(1).tolist() == [0, 1]
    longer = answer(units_of(5 * said.vectors, said.mask))
    assert torch.allclose(longer, found, atol=1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_padding_changes_no_answer(said, which):
    answer = answers(said)[which]
    noise = torch.cat([said.vectors, torch.full((2, 3, 4), 9.0)], 1)
    mask = torch.nn.functional.pad(said.mask, (0, 3))
    found = answer(units_of(noise, mask))
    assert torch.allclose(found, answer(said), atol=1e-6)


def test_surprise_is_that_of_all_slots(said):
    """By hand: of logits that know nothing, log 2 a slot."""
    answer = Understood(said, TARGETS, SLICES, seed=1, steps=0)
    for part in answer.head.classifier.parameters():
        torch.nn.init.zeros_(part)
    assert torch.allclose(answer(said), torch.full((2, 2), 1.3863))


def test_a_seed_makes_the_same_head(said):
    first, again = (
        Understood(said, TARGETS, SLICES, seed=3)(said) for _ in range(2)
    )
    assert torch.equal(first, again)
