"""A bidirectional GRU that knows lengths, and trains fast on a CPU.

torch has no fused GRU for CPUs: `torch.nn.GRU` goes through the steps one direction after
the other and, in the backward pass, multiplies small matrices for the weights
at every step. Here both directions take a step together, and the gradients of
the weights are one product over all steps.

Source: Cho et al. 2014, "Learning Phrase Representations using RNN
Encoder-Decoder for Statistical Machine Translation", in the variant of
`torch.nn.GRU`:

    r = sigmoid(W_r x + U_r h + b_r)
    z = sigmoid(W_z x + U_z h + b_z)
    n = tanh(W_n x + c_n + r * (U_n h + b_n))
    h' = (1 - z) * n + z * h

Under autocast the large products, of the input and for the gradients of the
weights, are in its type; the states stay in float32.
"""

import torch
from speechbrain.nnet.RNN import GRU


def _product(a, b, dtype):
    """a @ b, multiplied in another type."""
    return (a.to(dtype) @ b.to(dtype)).to(a.dtype)


class GRUFunction(torch.autograd.Function):
    """Several independent GRUs over sequences of one length.

    ``GRUFunction.apply(x, w_x, w_h, b_x, b_h, dtype)`` takes

    - x, [groups, time, batch, channels];
    - the weights of `torch.nn.GRU` with a first axis for the groups: w_x,
      [groups, 3 * hidden, channels], w_h, [groups, 3 * hidden, hidden], and
      the biases, [groups, 3 * hidden];
    - dtype, the type of the large products; None is that of x;

    and returns the states, [groups, 1 + time, batch, hidden], of which the
    first one is zero.

    Example
    -------
    >>> gru = torch.nn.GRU(3, 4)
    >>> x = torch.rand(7, 2, 3)
    >>> states = GRUFunction.apply(
    ...     x[None], *(p[None] for p in gru.parameters()), None
    ... )
    >>> torch.allclose(states[0, 1:], gru(x)[0], atol=1e-6)
    True
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, x, w_x, w_h, b_x, b_h, dtype):
        """Returns the states; see the class."""
        groups, time, batch, channels = x.shape
        size = w_h.shape[2]
        ctx.dtype = x.dtype if dtype is None else dtype
        # All that does not depend on the state comes first, in one product.
        bias = b_x.clone()
        bias[:, : 2 * size] += b_h[:, : 2 * size]
        gates = _product(x.flatten(1, 2), w_x.transpose(1, 2), ctx.dtype)
        gates = gates.add_(bias.unsqueeze(1)).view(groups, time, batch, -1)
        # n's part of x stays apart from that of h, which r multiplies.
        new = gates[..., 2 * size :].clone()
        gates[..., 2 * size :] = b_h[:, None, None, 2 * size :]
        states = x.new_zeros(groups, 1 + time, batch, size)
        u = w_h.transpose(1, 2)
        h = states[:, 0]
        for t in range(time):
            step, n = gates[:, t].baddbmm_(h, u), new[:, t]
            step[..., : 2 * size].sigmoid_()
            r, z, from_h = step.split(size, -1)
            n.addcmul_(r, from_h).tanh_()
            h = torch.lerp(n, h, z, out=states[:, t + 1])
        ctx.save_for_backward(x, w_x, w_h, gates, new, states)
        return states

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, d_states):
        """Returns the gradients of x, weights and biases."""
        x, w_x, w_h, gates, n, states = ctx.saved_tensors
        groups, time, batch, size = n.shape
        r, z, from_h = gates.split(size, -1)
        before = states[:, :-1]
        # d(gate before its nonlinearity) / d(state), for all steps at once.
        keep = 1 - z
        slope_n = torch.addcmul(keep, keep * n, n, value=-1)
        slopes = torch.empty_like(gates).unflatten(-1, (3, size))
        through_r = torch.mul(slope_n, r, out=slopes[..., 2, :])
        torch.mul(through_r, from_h * (1 - r), out=slopes[..., 0, :])
        torch.mul((before - n).mul_(z), keep, out=slopes[..., 1, :])
        d_gates = torch.empty_like(gates)
        d_by_gate = d_gates.unflatten(-1, (3, size))
        d_state = torch.empty_like(n)
        carried = torch.zeros_like(states[:, 0])
        for t in reversed(range(time)):
            d = torch.add(carried, d_states[:, t + 1], out=d_state[:, t])
            torch.mul(d.unsqueeze(2), slopes[:, t], out=d_by_gate[:, t])
            carried = torch.baddbmm(d * z[:, t], d_gates[:, t], w_h)
        flat = d_gates.flatten(1, 2)
        back = flat.transpose(1, 2)
        d_w_h = _product(back, before.flatten(1, 2), ctx.dtype)
        d_b_h = flat.sum(1)
        # The part of n as x sees it, not through r.
        torch.mul(d_state, slope_n, out=d_gates[..., 2 * size :])
        d_b_x = torch.cat([d_b_h[:, : 2 * size], flat.sum(1)[:, 2 * size :]], 1)
        d_w_x = _product(back, x.flatten(1, 2), ctx.dtype)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = _product(flat, w_x, ctx.dtype).view_as(x)
        return d_x, d_w_x, d_w_h, d_b_x, d_b_h, None


def bidirectional_gru(x, lengths, onward, backward):
    """Runs two GRUs over sequences, one from each item's own end.

    Arguments
    ---------
    x : torch.Tensor
        [batch, time, channels].
    lengths : torch.Tensor
        Valid steps of each item, [batch].
    onward : torch.nn.GRU
        One layer, one direction.
    backward : torch.nn.GRU
        Of the same size.

    Returns
    -------
    torch.Tensor
        [batch, time, 2 * hidden], zero after the end of each item.

    Example
    -------
    >>> onward, backward = torch.nn.GRU(3, 4), torch.nn.GRU(3, 4)
    >>> x, lengths = torch.rand(2, 7, 3), torch.tensor([7, 5])
    >>> bidirectional_gru(x, lengths, onward, backward).shape
    torch.Size([2, 7, 8])
    """
    batch, time, channels = x.shape
    size = onward.hidden_size
    steps = torch.arange(time, device=x.device)
    items = torch.arange(batch, device=x.device).unsqueeze(1)
    ends = lengths.to(x.device).unsqueeze(1)
    inside = steps < ends
    reverse = torch.where(inside, ends - 1 - steps, steps)
    # Frames are copied by their number, both directions at once.
    frames = torch.stack([steps.expand(batch, -1), reverse]) + items * time
    both = x.flatten(0, 1).index_select(0, frames.transpose(1, 2).flatten())
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    states = GRUFunction.apply(
        both.view(2, time, batch, channels),
        *(
            torch.stack([getattr(gru, name) for gru in (onward, backward)])
            for name in names
        ),
        torch.get_autocast_dtype("cpu")
        if torch.is_autocast_enabled("cpu")
        else None,
    )
    # State 0 is zero: it stands for whatever comes after an item's end.
    places = torch.stack([1 + steps.expand(batch, -1), time + 2 + reverse], -1)
    places = (places * batch + items.unsqueeze(-1)) * inside.unsqueeze(-1)
    out = states.view(-1, size).index_select(0, places.flatten())
    return out.view(batch, time, 2 * size)


class MaskedBiGRU(torch.nn.Module):
    """A bidirectional GRU whose backward half starts at the item's own end.

    Two one-directional GRUs, the second one reading each item reversed
    within its length: the same result as a packed sequence. To train on a CPU
    they go through `bidirectional_gru`.

    Arguments
    ---------
    input_size : int
        Channels of the input.
    hidden_size : int
        Units of each direction; the output has twice as many channels.

    Example
    -------
    >>> rnn = MaskedBiGRU(60, 128)
    >>> rnn(torch.rand(2, 7, 60), torch.tensor([7, 4])).shape
    torch.Size([2, 7, 256])
    """

    def __init__(self, input_size, hidden_size):
        super().__init__()
        options = dict(input_size=input_size, re_init=False)
        self.forwards = GRU(hidden_size, **options)
        self.backwards = GRU(hidden_size, **options)

    def forward(self, x, lengths=None):
        """Returns the states of both directions.

        Arguments
        ---------
        x : torch.Tensor
            Input, [batch, time, input_size].
        lengths : torch.Tensor or None
            Valid steps of each item, [batch].

        Returns
        -------
        torch.Tensor
            [batch, time, 2 * hidden_size], zero after the end of each item.
        """
        if x.device.type == "cpu" and self.training and torch.is_grad_enabled():
            if lengths is None:
                lengths = torch.full((len(x),), x.shape[1])
            grus = self.forwards.rnn, self.backwards.rnn
            return bidirectional_gru(x, lengths, *grus)
        items, size = x.shape[:2]
        steps = torch.arange(size, device=x.device)
        if lengths is None:
            order = steps.flip(0).expand(items, -1)
        else:
            ends = lengths.to(x.device).unsqueeze(1)
            order = torch.where(steps < ends, ends - 1 - steps, steps)
        # Whole frames are copied by number, faster than value by value.
        firsts = size * torch.arange(items, device=x.device).unsqueeze(1)
        frames = (firsts + order).flatten()

        def reverse(y):
            """Turns each item around within its length."""
            return y.flatten(0, 1).index_select(0, frames).view_as(y)

        onward, _ = self.forwards(x)
        backward, _ = self.backwards(reverse(x))
        out = torch.cat([onward, reverse(backward)], dim=-1)
        if lengths is None:
            return out
        return out * (steps < ends).unsqueeze(-1)
