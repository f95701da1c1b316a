"""The fast GRU is torch's, in value and gradient."""

import pytest
import torch

from slu_kd_lobes.students.gru import (
    GRUFunction,
    MaskedBiGRU,
    bidirectional_gru,
)


def parameters(groups, channels, size, dtype=torch.double):
    """Weights and biases of several GRUs."""
    shapes = [(3 * size, channels), (3 * size, size), (3 * size,), (3 * size,)]
    return [
        torch.randn(groups, *shape, dtype=dtype, requires_grad=True)
        for shape in shapes
    ]


def test_one_step_worked_out_by_hand():
    """All weights 1, x = 1, h = 0: z = r = sigmoid(1), n = tanh(1)."""
    ones = [torch.ones(1, 3, 1), torch.ones(1, 3, 1)]
    zeros = [torch.zeros(1, 3), torch.zeros(1, 3)]
    states = GRUFunction.apply(torch.ones(1, 1, 1, 1), *ones, *zeros, None)
    # (1 - 0.731059) * 0.761594
    assert states.flatten().tolist() == pytest.approx([0, 0.204824], abs=1e-6)


def test_gradients_are_those_of_finite_differences():
    """Of x, both weights and both biases, in double precision."""
    x = torch.randn(2, 4, 3, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        GRUFunction.apply, (x, *parameters(2, 5, 3), None)
    )


@pytest.mark.parametrize("lengths", [[7, 7, 7], [7, 3, 1], [2, 2, 5]])
def test_packed_sequence_gives_the_same(lengths):
    """Values and all gradients, also where every item is padded."""
    rnn = MaskedBiGRU(6, 4)
    packed = torch.nn.GRU(6, 4, bidirectional=True, batch_first=True)
    suffixes = {"forwards": "", "backwards": "_reverse"}
    for name, suffix in suffixes.items():
        for key, value in getattr(rnn, name).rnn.named_parameters():
            getattr(packed, key + suffix).data.copy_(value)
    x = torch.randn(3, 7, 6)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    ends = torch.tensor(lengths)
    fast = rnn(inputs[0], ends)
    sequence = torch.nn.utils.rnn.pack_padded_sequence(
        inputs[1], ends, batch_first=True, enforce_sorted=False
    )
    slow, _ = torch.nn.utils.rnn.pad_packed_sequence(
        packed(sequence)[0], batch_first=True, total_length=7
    )
    assert torch.allclose(fast, slow, atol=1e-6)
    weight = torch.randn_like(slow)
    (fast * weight).sum().backward()
    (slow * weight).sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-5)
    for name, suffix in suffixes.items():
        for key, value in getattr(rnn, name).rnn.named_parameters():
            other = getattr(packed, key + suffix).grad
            assert torch.allclose(value.grad, other, atol=1e-5)


def test_training_and_inference_agree():
    """One goes through the function here, the other through torch's GRU."""
    rnn = MaskedBiGRU(6, 4)
    x, lengths = torch.randn(5, 9, 6), torch.tensor([9, 1, 4, 8, 2])
    training = rnn(x, lengths)
    assert training.grad_fn is not None
    with torch.no_grad():
        assert torch.allclose(rnn(x, lengths), training, atol=1e-6)
    assert torch.allclose(rnn.eval()(x, lengths), training, atol=1e-6)
    without = rnn.train()(x)
    whole = rnn(x, torch.full((5,), 9))
    assert torch.equal(without, whole)


def test_nothing_flows_from_padding():
    """Neither values nor gradients, whatever stands there."""
    rnn = MaskedBiGRU(6, 4)
    x, lengths = torch.randn(2, 5, 6), torch.tensor([5, 2])
    other = x.clone()
    other[1, 2:] = 1e3
    other.requires_grad_()
    out = rnn(other, lengths)
    assert torch.equal(out, rnn(x, lengths))
    assert (out[1, 2:] == 0).all()
    out.sum().backward()
    assert (other.grad[1, 2:] == 0).all()


def test_mixed_precision_multiplies_inputs_in_it_and_keeps_float_states():
    """Values and gradients are those of single precision, to bfloat16's 1 %."""
    rnn = MaskedBiGRU(64, 32)
    x, lengths = torch.randn(8, 9, 64), torch.arange(2, 10)
    gradients = []
    outs = []
    for enabled in (False, True):
        rnn.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            outs.append(rnn(x, lengths))
        outs[-1].square().sum().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in rnn.parameters()])
        )
    plain, mixed = outs
    assert mixed.dtype == torch.float32
    # More than rounding of single precision: the products are in bfloat16.
    assert 1e-4 < (mixed - plain).abs().max() < 0.02
    difference = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert 1e-4 < difference < 0.01


def test_two_grus_need_not_be_a_pair():
    """The function itself takes any two of the same size."""
    onward, backward = torch.nn.GRU(3, 4), torch.nn.GRU(3, 4)
    x = torch.randn(2, 6, 3)
    out = bidirectional_gru(x, torch.tensor([6, 6]), onward, backward)
    first, _ = onward(x.transpose(0, 1))
    second, _ = backward(x.transpose(0, 1).flip(0))
    assert torch.allclose(out[..., :4], first.transpose(0, 1), atol=1e-6)
    reversed_back = second.flip(0).transpose(0, 1)
    assert torch.allclose(out[..., 4:], reversed_back, atol=1e-6)
