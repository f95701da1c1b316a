"""Which layers of the pre-trained encoder train, and from which epoch.

Source: Lugosch et al. 2019, section 5.2 (gradual unfreezing).
"""


class GradualUnfreezing:
    """One more layer trains each epoch after the first, from the top.

    Arguments
    ---------
    modules : str
        ``word`` for the layers of the word module only, ``all`` to go on with
        the phoneme module and the front end.

    Raises
    ------
    ValueError
        If `modules` is neither.

    Example
    -------
    >>> from slu_kd_lobes.students.sincnet import SincNetEncoder
    >>> encoder = SincNetEncoder()
    >>> unfreeze = GradualUnfreezing("word")
    >>> for epoch in (1, 2, 9):
    ...     unfreeze(encoder, epoch)
    ...     sum(p.requires_grad for p in encoder.word_layers.parameters())
    0
    8
    16
    """

    def __init__(self, modules):
        if modules not in ("word", "all"):
            raise ValueError(
                f"modules '{modules}' cannot be unfrozen: choose word or all"
            )
        self.modules = modules

    def __call__(self, encoder, epoch):
        """Sets which parameters train.

        Arguments
        ---------
        encoder : SincNetEncoder
        epoch : int
            Epoch, counted from 1.
        """
        encoder.requires_grad_(False)
        layers = list(encoder.word_layers)[::-1]
        if self.modules == "all":
            front = encoder.front_end
            layers += list(encoder.phoneme_layers)[::-1]
            layers += [front.conv2, front.conv1, front.sinc]
        for layer in layers[: epoch - 1]:
            layer.requires_grad_(True)
