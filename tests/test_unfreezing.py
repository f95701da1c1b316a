"""Which layers train from which epoch."""

import pytest
import torch

from slu_kd_lobes.data.features import OnTheFly, Stored
from slu_kd_lobes.students.sincnet import SincNetEncoder
from slu_kd_lobes.students.unfreezing import GradualUnfreezing


@pytest.fixture
def encoder():
    """All parameters train, as they come."""
    return SincNetEncoder()


def training(encoder):
    """Names of the layers that train, each all of it or nothing."""
    front = encoder.front_end
    layers = {
        "word 2": encoder.word_layers[1],
        "word 1": encoder.word_layers[0],
        "phoneme 2": encoder.phoneme_layers[1],
        "phoneme 1": encoder.phoneme_layers[0],
        "conv 2": front.conv2,
        "conv 1": front.conv1,
        "sinc": front.sinc,
    }
    names = []
    for name, layer in layers.items():
        flags = {p.requires_grad for p in layer.parameters()}
        assert len(flags) == 1
        names += [name] * flags.pop()
    return names


@pytest.mark.parametrize("dropout", [False, True])
def test_frozen_encoder_never_trains(encoder, dropout):
    """From the first epoch to the last."""
    encoder.untrained = False
    features = OnTheFly(encoder, "cpu", dropout=dropout)
    for epoch in (1, 2, 20):
        features.start_epoch(epoch)
        assert training(encoder) == []
    assert features.trains is False and Stored.trains is False


def test_an_encoder_that_unfreezes_is_unfrozen_by_epoch(encoder):
    """Which the recipe is told, as it keeps the encoder then."""
    unfreezing = GradualUnfreezing("word")
    features = OnTheFly(encoder, "cpu", unfreezing=unfreezing)
    assert features.trains is True
    assert training(encoder) == []
    for epoch, names in ((3, ["word 2", "word 1"]), (2, ["word 2"]), (1, [])):
        features.start_epoch(epoch)
        assert training(encoder) == names


def test_word_layers_follow_from_the_top(encoder):
    """None in epoch 1, one in epoch 2, both from epoch 3."""
    unfreeze = GradualUnfreezing("word")
    expected = [[], ["word 2"], ["word 2", "word 1"], ["word 2", "word 1"]]
    for epoch, names in zip((1, 2, 3, 20), expected):
        unfreeze(encoder, epoch)
        assert training(encoder) == names


def test_all_layers_follow_down_to_the_filters(encoder):
    """One more an epoch: the whole encoder trains from epoch 8."""
    unfreeze = GradualUnfreezing("all")
    names = ["word 2", "word 1", "phoneme 2", "phoneme 1"]
    names += ["conv 2", "conv 1", "sinc"]
    for epoch in range(1, 10):
        unfreeze(encoder, epoch)
        assert training(encoder) == names[: epoch - 1]
    assert all(p.requires_grad for p in encoder.parameters())


def test_a_resumed_run_unfreezes_what_was_unfrozen(encoder):
    """What trains follows from the epoch alone."""
    GradualUnfreezing("all")(encoder, 4)
    assert training(encoder) == ["word 2", "word 1", "phoneme 2"]
    GradualUnfreezing("all")(encoder, 2)
    assert training(encoder) == ["word 2"]


def test_only_unfrozen_layers_move(encoder):
    """One step of Adam in epoch 2."""
    optimiser = torch.optim.Adam(encoder.parameters(), lr=0.001)
    before = {n: p.detach().clone() for n, p in encoder.named_parameters()}
    GradualUnfreezing("word")(encoder, 2)
    encoder(torch.randn(1, 4000))[0].square().sum().backward()
    optimiser.step()
    moved = {
        name.split(".rnn.")[0]
        for name, p in encoder.named_parameters()
        if not torch.equal(p, before[name])
    }
    assert moved == {"word_layers.1"}


def test_unknown_modules_are_refused():
    """With those that there are."""
    with pytest.raises(ValueError, match="'phoneme' cannot.*word or all"):
        GradualUnfreezing("phoneme")
