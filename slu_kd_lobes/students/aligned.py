"""A speech model and a text model in one space: how far speech is from text.

Source: Ni et al. 2023, "Adaptive Knowledge Distillation between Text and
Speech Pre-trained Models" (PAD).
"""

from dataclasses import replace

import torch

from slu_kd_lobes.losses.priors import uniform

PRIORS = ("attention", "uniform")


class AlignedModel(torch.nn.Module):
    """A speech model that learns where a text model's vectors are.

    Arguments
    ---------
    encoder : slu_kd_lobes.students.attentive.AttentiveEncoder
        The speech model.
    losses : dict of slu_kd_lobes.losses.alignment.Alignment
        The distances that are summed, by name.
    width : int
        Values of the text model's vectors. Where the speech model has others,
        a linear projection goes between them.
    priors : str
        What a frame or a token counts: by the ``attention`` that it receives,
        or ``uniform``.

    Raises
    ------
    ValueError
        If `priors` is neither.
    """

    def __init__(self, encoder, losses, width, priors="attention"):
        super().__init__()
        if priors not in PRIORS:
            raise ValueError(
                f"priors '{priors}' cannot be had: choose {' or '.join(PRIORS)}"
            )
        self.encoder = encoder
        self.projects = encoder.feature_size != width
        self.projection = (
            torch.nn.Linear(encoder.feature_size, width)
            if self.projects
            else torch.nn.Identity()
        )
        for loss in losses.values():
            loss.set_width(width)
        self.losses = torch.nn.ModuleDict(losses)
        self.priors = priors

    def forward(self, inputs, lengths, tokens):
        """Returns the frames, and how far they are from the tokens.

        Arguments
        ---------
        inputs : torch.Tensor
            What enters the transformer, [batch, frames, channels].
        lengths : torch.Tensor
            Frames of each item, [batch].
        tokens : slu_kd_lobes.losses.alignment.Units
            Of the text model.

        Returns
        -------
        frames : slu_kd_lobes.losses.alignment.Units
            [batch, frames, width].
        terms : dict of torch.Tensor
            Scalars, means over the batch.
        """
        frames = self.frames(inputs, lengths)
        tokens = self._with_priors(tokens)
        return frames, {
            name: loss(frames, tokens) for name, loss in self.losses.items()
        }

    def frames(self, inputs, lengths):
        """Returns the frames alone; see `forward`."""
        frames = self.encoder(inputs, lengths)
        vectors = self.projection(frames.vectors)
        return self._with_priors(replace(frames, vectors=vectors))

    def _with_priors(self, units):
        if self.priors == "attention":
            return units
        return replace(units, priors=uniform(units.mask))

    @torch.no_grad()
    def distances(self, frames, tokens):
        """How far each utterance is from each text.

        Arguments
        ---------
        frames : slu_kd_lobes.losses.alignment.Units
            Of `forward`, [utterances, frames, width].
        tokens : slu_kd_lobes.losses.alignment.Units
            [texts, tokens, width].

        Returns
        -------
        torch.Tensor
            [utterances, texts].
        """
        tokens = self._with_priors(tokens)
        rows = []
        for item in range(len(frames.mask)):
            one = frames.item(item)
            parts = [x.distances(one, tokens) for x in self.losses.values()]
            rows.append(sum(parts))
        return torch.stack(rows)
