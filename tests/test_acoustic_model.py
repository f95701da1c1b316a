"""The acoustic model: sizes, padding, files."""

import pytest
import torch

from slu_kd_lobes.students.acoustic_model import AcousticModel


def count(modules):
    """Parameters of modules."""
    return sum(p.numel() for part in modules for p in part.parameters())


def small(**changes):
    """A small one, in eval mode, whose normalisation is no identity."""
    torch.manual_seed(0)
    sizes = dict(input_size=18, hidden_size=6, num_layers=3, channels=4)
    model = AcousticModel(**{**sizes, **changes}).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.normal_(module.bias)
    return model


def test_the_published_sizes_have_the_published_counts():
    """Of the published code: convolutions, LSTMs, normalisation between."""
    with torch.device("meta"):
        model = AcousticModel()
    assert count(model.convolutions) == 251_168
    assert count([*model.onward, *model.backward]) == 80_277_504
    assert count(model.norms) == 6_144
    assert 768 * 31 + 31 == 23_839  # the classifier of 31 intents


@pytest.mark.parametrize("channels", [16, 17, 18, 19, 20])
def test_any_number_of_channels_can_be_read(channels):
    """Both convolutions halve them, rounding up."""
    model = small(input_size=channels)
    frames, lengths = model(torch.rand(1, 9, channels), torch.tensor([9]))
    assert frames.shape == (1, 5, 6) and lengths.tolist() == [5]


@pytest.mark.parametrize("stride, frames", [(1, [9, 4]), (2, [5, 2])])
def test_a_stride_says_how_many_states_make_a_frame(stride, frames):
    """Rounded up, of one number or of many."""
    model = AcousticModel(16, 8, num_layers=1, channels=2, stride=stride)
    states, lengths = torch.rand(2, 9, 16), torch.tensor([9, 4])
    found, sizes = model(states, lengths)
    assert sizes.tolist() == frames and found.shape == (2, frames[0], 8)
    assert model.frames_of(9) == frames[0]


def test_what_is_at_padding_changes_nothing():
    """Neither zeros, nor states of an encoder there, nor more of them."""
    model, x = small(), torch.rand(1, 11, 18)
    alone, size = model(x, torch.tensor([11]))
    assert size.tolist() == [6]
    for extra in (torch.zeros(1, 8, 18), torch.randn(1, 8, 18) * 100):
        frames, lengths = model(torch.cat([x, extra], 1), torch.tensor([11]))
        torch.testing.assert_close(frames[:, :6], alone)
        assert not frames[:, 6:].any()
        assert lengths.tolist() == [6]


def test_the_others_of_a_batch_change_nothing():
    """In any order."""
    model, lengths = small(), torch.tensor([5, 14, 1, 10])
    x = torch.randn(4, 14, 18)
    frames, sizes = model(x, lengths)
    assert sizes.tolist() == [3, 7, 1, 5]
    order = torch.tensor([2, 0, 3, 1])
    again, _ = model(x[order], lengths[order])
    torch.testing.assert_close(again, frames[order])
    for i, length in enumerate(lengths.tolist()):
        alone, _ = model(x[i : i + 1, :length], lengths[i : i + 1])
        torch.testing.assert_close(frames[i, : sizes[i]], alone[0])


def test_the_normalisation_between_lstms_sees_no_padding():
    """Its means in training are those of the frames of items."""
    model = small(num_layers=2).train()
    x, lengths = torch.randn(3, 12, 18), torch.tensor([12, 4, 7])
    seen = []
    model.norms[0].register_forward_hook(lambda _, x, y: seen.append(x[0]))
    _, sizes = model(x, lengths)
    assert seen[0].shape == (int(sizes.sum()), 6)


def test_directions_are_those_of_a_bidirectional_lstm():
    """The sum of both, each item backwards from its own end."""
    model, lengths = small(num_layers=1), torch.tensor([8, 3])
    x = torch.randn(2, 8, 18)
    seen = []
    model.onward[0].register_forward_hook(lambda _, x, y: seen.append(x[0]))
    frames, sizes = model(x, lengths)
    lstm = torch.nn.LSTM(seen[0].shape[-1], 6, bidirectional=True)
    for name, value in model.onward[0].named_parameters():
        getattr(lstm, name).data.copy_(value)
    for name, value in model.backward[0].named_parameters():
        getattr(lstm, f"{name}_reverse").data.copy_(value)
    for i, size in enumerate(sizes.tolist()):
        both, _ = lstm(seen[0][i, :size])
        torch.testing.assert_close(frames[i, :size], both[:, :6] + both[:, 6:])


def test_every_weight_gets_a_gradient():
    """Also through frames of items of several lengths."""
    model = small().train()
    frames, _ = model(torch.randn(3, 12, 18), torch.tensor([12, 4, 7]))
    frames.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_file_gives_the_same_model(tmp_path):
    """Also what the normalisation has seen."""
    path, x = tmp_path / "acoustic.safetensors", torch.rand(1, 9, 18)
    model, other = small(), AcousticModel(18, 6, 3, 4).eval()
    model.save(path, {"encoder": "5f"})
    assert other.load(path, "5f") == other.load(path, "5f")
    lengths = torch.tensor([9])
    torch.testing.assert_close(other(x, lengths)[0], model(x, lengths)[0])


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    """Not there, damaged, of other sizes, or of another encoder."""
    path = tmp_path / "acoustic.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no acoustic model"):
        small().load(path, "5f")
    small().save(path, {"encoder": "5f"})
    with pytest.raises(ValueError, match="was made from another encoder"):
        small().load(path, "6e")
    with pytest.raises(ValueError, match="hidden_size 6.*the student 8"):
        small(hidden_size=8).load(path, "5f")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="acoustic.safetensors is damaged"):
        small().load(path, "5f")
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="acoustic.safetensors is damaged"):
        small().load(path, "5f")
