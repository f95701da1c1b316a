"""Every process has an equal part, and together they have everything once."""

import pytest
import torch

from slu_kd_lobes.distributed import part_of_batch, sum_over_processes


@pytest.mark.parametrize("items", [1, 2, 5, 63, 64])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_parts_are_equal_and_complete(items, processes):
    """Fillers come last and are not counted."""
    batch = list(range(100, 100 + items))
    parts = [part_of_batch(batch, r, processes) for r in range(processes)]
    assert len({len(part) for part, _ in parts}) == 1
    assert sum((part[:size] for part, size in parts), []) == batch
    assert all(set(part[size:]) <= {batch[-1]} for part, size in parts)


def test_gradients_of_parts_average_to_those_of_the_batch():
    """With each part's loss weighed by processes x size / total."""
    weight = torch.tensor(2.0, requires_grad=True)
    x = torch.arange(1.0, 6)
    (weight * x).pow(2).mean().backward()
    whole = weight.grad.clone()
    gradients = []
    for rank in range(4):
        part, size = part_of_batch(list(range(5)), rank, 4)
        weight.grad = None
        own = x[part][slice(size or None)]
        loss = (weight * own).pow(2).mean() * (4 * size / 5)
        loss.backward()
        gradients.append(weight.grad.clone())
    assert torch.allclose(torch.stack(gradients).mean(), whole)


def test_one_process_is_its_own_sum():
    """Nothing to wait for."""
    x = torch.tensor([1.0, 2.0])
    assert torch.equal(sum_over_processes(x), x)
