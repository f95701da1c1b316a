"""How well slots are found that a model writes as text.

Source: Yang et al. 2021, "SUPERB: Speech processing Universal PERformance
Benchmark", section 2.2.3; Lai et al. 2021, "Semi-supervised spoken language
understanding via self-supervised speech and language model pretraining",
section 4.2, which adds the error of the values.
"""

from speechbrain.utils.edit_distance import accumulatable_wer_stats


def slot_type_f1(found, true):
    """Whether the slots are the right ones, whatever their values.

    Arguments
    ---------
    found : list of dict
        Of each utterance, a list of values by slot.
    true : list of dict
        The same.

    Returns
    -------
    float
        Mean F1 over the utterances, percent; one without slots, of which none
        is found, counts as right.

    Example
    -------
    >>> found = [{"size": ["large"], "milk": ["milk"]}, {}]
    >>> slot_type_f1(found, [{"size": ["small"]}, {}])  # 2/3 and 1
    83.33333333333333
    """
    scores = []
    for guess, truth in zip(found, true):
        both = len(guess.keys() & truth.keys())
        either = len(guess) + len(truth)
        scores.append(2 * both / either if either else 1.0)
    return 100 * sum(scores) / len(scores)


def slot_value_cer(found, true):
    """How well the values are written.

    Arguments
    ---------
    found : list of dict
        Of each utterance, a list of values by slot.
    true : list of dict
        The same.

    Returns
    -------
    float
        Character errors of all true values, percent of their characters. A
        value is compared with the most alike that is found for its slot; one
        whose slot is not found has all its characters wrong, and what is found
        for slots that are not there costs nothing here.

    Example
    -------
    >>> true = [{"size": ["large"], "milk": ["cream"]}]
    >>> slot_value_cer([{"size": ["large", "small"], "shots": ["one"]}], true)
    50.0
    """
    values = [
        (list(value), guess.get(slot) or [""])
        for guess, truth in zip(found, true)
        for slot, values in truth.items()
        for value in values
    ]
    if not values:
        return 0.0
    nearest = [
        min(map(list, guesses), key=lambda guess: _error([value], [guess]))
        for value, guesses in values
    ]
    return _error([value for value, _ in values], nearest)


def _error(true, found):
    """Errors of some texts, percent of their characters."""
    return accumulatable_wer_stats(true, found)["WER"]


def slot_filling_metrics(found, true):
    """All of them, percent.

    Arguments
    ---------
    found : list of dict
        Of each utterance, a list of values by slot.
    true : list of dict
        The same.

    Returns
    -------
    dict
        ``slot_type_f1``, ``slot_value_cer``, and ``intent_error``, the share of
        the utterances whose slots and values are not all those that are there.

    Example
    -------
    >>> found = [{"size": ["large"]}, {"size": ["shall"]}]
    >>> true = [{"size": ["large"]}, {"size": ["small"]}]
    >>> slot_filling_metrics(found, true)
    {'slot_type_f1': 100.0, 'slot_value_cer': 10.0, 'intent_error': 50.0}
    """
    wrong = sum(guess != truth for guess, truth in zip(found, true))
    return {
        "slot_type_f1": slot_type_f1(found, true),
        "slot_value_cer": slot_value_cer(found, true),
        "intent_error": 100 * wrong / len(true),
    }
