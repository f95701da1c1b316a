"""Teachers without knowledge, to tell knowledge from regularisation.

Each takes the logits of a teacher and gives others in their place. If a
student learns as much from these, what helped was not what the teacher knows.
Chosen in YAML: ``teacher_control: !new:slu_kd_lobes.controls.ShuffledRows``.

The question is that of Cho et al. 2020, section 4.3.4.
"""

import torch


class ShuffledRows:
    """Every transcript gets the logits of some other transcript.

    Arguments
    ---------
    seed : int
        Of the permutation.

    Example
    -------
    >>> logits = torch.arange(3.0).unsqueeze(1)
    >>> shuffled = ShuffledRows(seed=0)(logits, None, None)
    >>> shuffled.sort(dim=0).values.flatten().tolist()
    [0.0, 1.0, 2.0]
    >>> (shuffled == logits).any().item()
    False
    """

    def __init__(self, seed=0):
        self.seed = seed

    def __call__(self, logits, targets, slices):
        """Returns the logits in another order.

        Arguments
        ---------
        logits : torch.Tensor
            Of each transcript, [transcripts, values].
        targets : torch.Tensor
            True values of each, [transcripts, slots]; not used.
        slices : dict
            Not used.

        Returns
        -------
        torch.Tensor
            [transcripts, values].
        """
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(logits), generator=generator)
        # Along the cycle of a random order, no row stays where it was.
        shuffled = torch.empty_like(logits)
        shuffled[order] = logits[order.roll(1)]
        return shuffled


class IntentMeans:
    """Every transcript gets the mean logits of those with the same meaning.

    What the teacher knows of single wordings is gone.

    Example
    -------
    >>> logits = torch.tensor([[1.0], [3.0], [7.0]])
    >>> IntentMeans()(logits, torch.tensor([[0], [0], [1]]), None).flatten()
    tensor([2., 2., 7.])
    """

    def __call__(self, logits, targets, slices):
        """Returns the means; see :class:`ShuffledRows`."""
        _, which = targets.unique(dim=0, return_inverse=True)
        sums = torch.zeros(int(which.max()) + 1, logits.shape[1])
        sums = sums.index_add(0, which, logits.float())
        return (sums / which.bincount().unsqueeze(1))[which].to(logits.dtype)


class OneHot:
    """A fake teacher: one number for the true value, another for the rest.

    Arguments
    ---------
    true_logit : float or None
        Logit of the true values; None takes the teacher's mean.
    other_logit : float or None
        Logit of the others; None takes the teacher's mean.

    Example
    -------
    >>> logits = torch.tensor([[4.0, 0.0, -2.0], [-1.0, 6.0, -3.0]])
    >>> slices = {"object": slice(0, 3)}
    >>> OneHot()(logits, torch.tensor([[0], [1]]), slices)
    tensor([[ 5.0000, -1.5000, -1.5000],
            [-1.5000,  5.0000, -1.5000]])
    """

    def __init__(self, true_logit=None, other_logit=None):
        self.true_logit = true_logit
        self.other_logit = other_logit

    def __call__(self, logits, targets, slices):
        """Returns two numbers; see :class:`ShuffledRows`."""
        is_true = torch.zeros_like(logits, dtype=torch.bool)
        for columns, target in zip(slices.values(), targets.T):
            is_true[torch.arange(len(target)), columns.start + target] = True
        true, other = self.true_logit, self.other_logit
        if true is None:
            true = float(logits[is_true].mean())
        if other is None:
            other = float(logits[~is_true].mean())
        fake = torch.full_like(logits, other)
        fake[is_true] = true
        return fake


def beyond_labels(logits, targets, slices=None):
    """How much a teacher says that its labels do not.

    Arguments
    ---------
    logits : torch.Tensor
        Of each transcript, [transcripts, values].
    targets : torch.Tensor
        True values of each, [transcripts, slots].
    slices : dict or None
        Columns of each slot; None if these are no logits but vectors.

    Returns
    -------
    dict
        Percent of the variance that is left when the mean over the
        transcripts of an intent stands for each (`beyond_intent`), and, of
        logits, when two numbers do, one for true values and one for others
        (`beyond_values`).

    Example
    -------
    >>> logits = torch.tensor([[4.0, 0.0], [0.0, 2.0], [0.0, 4.0]])
    >>> beyond_labels(
    ...     logits, torch.tensor([[0], [1], [1]]), {"object": slice(0, 2)}
    ... )
    {'beyond_intent': 10.7143, 'beyond_values': 14.2857}
    """
    logits = logits.double()
    variance = (logits - logits.mean(0)).square().sum()
    controls = {"beyond_intent": IntentMeans()}
    if slices is not None:
        controls["beyond_values"] = OneHot()
    return {
        name: round(
            float(
                (logits - control(logits, targets, slices)).square().sum()
                / variance
                * 100
            ),
            4,
        )
        for name, control in controls.items()
    }
