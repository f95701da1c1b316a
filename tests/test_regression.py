"""Regression of tokens' states: the published normalisation."""

import torch

from slu_kd_lobes.losses.regression import TokenRegression


def test_loss_is_the_sum_over_values_and_tokens():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 768), torch.randn(2, 3, 768)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = TokenRegression()(student, teacher, mask)
    wanted = sum(
        (student[b, t] - teacher[b, t]).square().sum()
        for b in range(2)
        for t in range(3)
        if mask[b, t]
    )
    assert torch.allclose(found, wanted)
    mean = torch.nn.functional.mse_loss(student[mask], teacher[mask])
    # 0.01 of the sum over values is 7.68 of their mean.
    assert torch.allclose(0.01 * found / mask.sum(), 7.68 * mean)


def test_padding_has_no_gradient_and_the_teacher_none():
    student = torch.randn(1, 2, 4, requires_grad=True)
    teacher = torch.randn(1, 2, 4)
    TokenRegression()(
        student, teacher, torch.tensor([[True, False]])
    ).backward()
    assert student.grad[0, 0].all() and not student.grad[0, 1].any()


def test_half_precision_is_summed_in_single():
    student = torch.full((1, 1, 512), 12.0, dtype=torch.float16)
    found = TokenRegression()(
        student, torch.zeros(1, 1, 512), torch.ones(1, 1).bool()
    )
    assert found == 144 * 512  # more than float16 holds
