"""Significance priors: how much attention each unit of a sequence receives.

Source: Ni et al. 2023, "Adaptive Knowledge Distillation between Text and
Speech Pre-trained Models" (PAD). No code was published; the formulas follow a
third party's account of the paper.
"""

import torch


def received_attention(attention, mask):
    """Share of a layer's attention that each unit receives.

    Arguments
    ---------
    attention : torch.Tensor
        Weights of one layer, [batch, heads, queries, keys], where queries and
        keys are the same units.
    mask : torch.Tensor
        True for units, False for padding, [batch, units].

    Returns
    -------
    torch.Tensor
        [batch, units], in single precision; sums to 1 over the units of an
        item, and is 0 at padding.

    Example
    -------
    >>> attention = torch.tensor(
    ...     [[[[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]]]]
    ... )
    >>> received_attention(attention, torch.tensor([[True, True, False]]))
    tensor([[0.2500, 0.7500, 0.0000]])
    """
    attention = attention.detach().float().mean(1)
    received = (attention * mask.unsqueeze(-1)).sum(1) * mask
    return received / received.sum(-1, keepdim=True)


def significance(attentions, mask):
    """Prior of each unit: the attention that it receives, over all layers.

    Arguments
    ---------
    attentions : iterable of torch.Tensor
        Weights of each layer, [batch, heads, units, units].
    mask : torch.Tensor
        True for units, False for padding, [batch, units].

    Returns
    -------
    torch.Tensor
        [batch, units]; sums to 1 over the units of an item.

    Raises
    ------
    ValueError
        If there is no layer, as where a model's attention is computed without
        its weights.
    """
    layers = [received_attention(layer, mask) for layer in attentions]
    if not layers:
        raise ValueError(
            "the model returned no attention weights: load it with "
            "attn_implementation='eager'"
        )
    return torch.stack(layers).mean(0)


def uniform(mask):
    """The same prior for all units of an item.

    Arguments
    ---------
    mask : torch.Tensor
        True for units, False for padding, [batch, units].

    Returns
    -------
    torch.Tensor
        [batch, units].

    Example
    -------
    >>> uniform(torch.tensor([[True, True], [True, False]]))
    tensor([[0.5000, 0.5000],
            [1.0000, 0.0000]])
    """
    return mask.float() / mask.sum(-1, keepdim=True)
