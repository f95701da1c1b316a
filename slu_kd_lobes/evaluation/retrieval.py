"""Which of many transcripts is an utterance's: whether alignment happens."""


def ranks(distances, own):
    """Rank of each utterance's own transcript among all; 1 is the nearest.

    Arguments
    ---------
    distances : torch.Tensor
        Of utterances to transcripts, [utterances, transcripts].
    own : torch.Tensor
        Column of each utterance's own, [utterances].

    Returns
    -------
    torch.Tensor
        [utterances]; among equals the mean of their ranks, so that a model
        that sees no difference is no better than chance.

    Example
    -------
    >>> import torch
    >>> distances = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.5, 0.9]])
    >>> ranks(distances, torch.tensor([1, 0]))
    tensor([2.0000, 1.5000])
    """
    mine = distances.gather(1, own.unsqueeze(1))
    nearer = (distances < mine).sum(1)
    equal = (distances == mine).sum(1) - 1
    return 1 + nearer + equal / 2


def retrieval_metrics(found):
    """What ranks say.

    Arguments
    ---------
    found : torch.Tensor
        See `ranks`.

    Returns
    -------
    dict
        ``top1``, percent of the utterances whose own transcript is the
        nearest, and ``mean_rank``.

    Example
    -------
    >>> import torch
    >>> retrieval_metrics(torch.tensor([1.0, 4.0]))
    {'top1': 50.0, 'mean_rank': 2.5}
    """
    return {
        "top1": 100 * float((found == 1).float().mean()),
        "mean_rank": float(found.mean()),
    }
