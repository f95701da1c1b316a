"""A speech model and a text model in one space."""

import pytest
import torch
from tiny_models import WIDTH

from slu_kd_lobes.losses.alignment import (
    GlobalAlignment,
    LocalAlignment,
    SentenceAlignment,
    SpanAlignment,
    Units,
)
from slu_kd_lobes.losses.priors import uniform
from slu_kd_lobes.students.aligned import AlignedModel
from slu_kd_lobes.students.attentive import AttentiveEncoder

WAVS = torch.randn(3, 9000, generator=torch.Generator().manual_seed(2)) / 10


@pytest.fixture(scope="module")
def encoder(transformer_folders):
    """Whose transformer trains."""
    return AttentiveEncoder(str(transformer_folders / "wav2vec2")).eval()


def tokens_of(sizes, width):
    """Random tokens with random priors."""
    mask = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(-1)
    priors = torch.rand(mask.shape) * mask
    priors = priors / priors.sum(-1, keepdim=True)
    return Units(torch.randn(*mask.shape, width), mask, priors)


@pytest.mark.parametrize("priors", ["attention", "uniform"])
def test_distances_hold_those_of_the_pairs(encoder, priors):
    """The diagonal, of several losses, has their sum as its mean."""
    losses = {
        "glob": GlobalAlignment(),
        "slocal": SpanAlignment(),
        "sentence": SentenceAlignment(),
    }
    model = AlignedModel(encoder, losses, WIDTH, priors).eval()
    tokens = tokens_of([2, 4, 3], WIDTH)
    inputs, lengths = encoder.first_frames()(WAVS, torch.tensor([1, 0.5, 0.8]))
    frames, terms = model(inputs, lengths, tokens)
    assert list(terms) == list(losses) and not model.projects
    distances = model.distances(frames, tokens)
    assert distances.shape == (3, 3)
    assert torch.allclose(
        distances.diag().mean(), sum(terms.values()), rtol=1e-4
    )
    for i, j in ((0, 1), (2, 0)):  # an utterance and another one's text
        pair = frames.item(i), model._with_priors(tokens).item(j)
        both = sum(loss(*pair) for loss in losses.values())
        assert torch.allclose(distances[i, j], both, rtol=1e-4)
    if priors == "uniform":
        assert torch.equal(frames.priors, uniform(frames.mask))


def test_unequal_widths_are_projected(encoder):
    """To the text model's; the projection trains."""
    model = AlignedModel(encoder, {"tlocal": LocalAlignment()}, WIDTH + 3)
    tokens = tokens_of([2, 4, 3], WIDTH + 3)
    frames, terms = model(*encoder.first_frames()(WAVS), tokens)
    assert model.projects and frames.vectors.shape[-1] == WIDTH + 3
    terms["tlocal"].backward()
    assert model.projection.weight.grad.abs().sum() > 0
    encoder.zero_grad()


def test_other_priors_are_one_sentence(encoder):
    """When the model is made."""
    with pytest.raises(ValueError, match="priors 'none' cannot be had"):
        AlignedModel(encoder, {}, WIDTH, "none")
