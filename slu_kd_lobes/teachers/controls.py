"""Teachers without knowledge, to tell knowledge from regularisation.

Each takes the logits of a teacher and gives others in their place. If a
student learns as much from these, what helped was not what the teacher knows.
Chosen by the key ``teacher_control``.

The question is that of Cho et al. 2020, section 4.3.4.
"""

import torch

from slu_kd_lobes.evaluation.metrics import intent_errors


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


def unexplained_variance(outputs, targets, slices, by):
    """How much a text model says that something simpler does not.

    Arguments
    ---------
    outputs : torch.Tensor
        Of each transcript, [transcripts, values].
    targets : torch.Tensor
        True values of each, [transcripts, slots].
    slices : dict
        Columns of each slot.
    by : callable
        A control, which gives what stands for the outputs.

    Returns
    -------
    float
        Percent of the variance that is left.

    Example
    -------
    >>> logits = torch.tensor([[4.0, 0.0], [0.0, 2.0], [0.0, 4.0]])
    >>> targets, slices = torch.tensor([[0], [1], [1]]), {"object": slice(0, 2)}
    >>> unexplained_variance(logits, targets, slices, by=IntentMeans())
    10.7143
    >>> unexplained_variance(logits, targets, slices, by=OneHot())
    14.2857
    """
    outputs = outputs.double()
    variance = (outputs - outputs.mean(0)).square().sum()
    left = (outputs - by(outputs, targets, slices)).square().sum()
    # A table that says the same of all transcripts leaves nothing to explain.
    return round(float(100 * left / variance), 4) if variance else 0.0


def teaching(table, texts, targets, slices, control=None):
    """What a table, or a control in its place, teaches of each utterance.

    Arguments
    ---------
    table : slu_kd_lobes.teachers.tables.TeacherTable
    texts : list of str
        Transcripts of the training utterances.
    targets : torch.Tensor
        Their true values, [utterances, slots].
    slices : dict
        Columns of each slot.
    control : callable or None

    Returns
    -------
    torch.Tensor
        [utterances, values].
    """
    outputs, first, which = table.distinct(texts)
    if control is not None:
        outputs = control(outputs, targets[first], slices)
    return outputs[which]


def describe(table, texts, targets, slices, are_logits=True):
    """What a table says beyond the labels of the training utterances.

    Arguments
    ---------
    table, texts, targets, slices
        See `teaching`.
    are_logits : bool
        Whether the outputs are logits of the slots, and no other vectors.

    Returns
    -------
    dict
        ``errors`` by split, in percent of the transcripts; where one means
        several things, that of ``train`` is in percent of the utterances, each
        against its own labels. The variance that is unexplained by the mean
        over the transcripts of an intent and, of logits, by two numbers, one
        for true values and one for others, in percent.
    """
    outputs, first, which = table.distinct(texts)
    facts = [outputs, targets[first], slices]
    said = {
        "errors": table.errors,
        "unexplained_by_intent": unexplained_variance(*facts, IntentMeans()),
    }
    if are_logits:
        if not targets[first][which].equal(targets):
            wrong = intent_errors(outputs[which], targets, slices)
            train = round(100 * float(wrong.mean()), 4)
            said["errors"] = {**table.errors, "train": train}
        said["unexplained_by_two_numbers"] = unexplained_variance(
            *facts, OneHot()
        )
    return said
