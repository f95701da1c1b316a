"""The SincNet encoder: its size, its frames, its numbers and its padding."""

import importlib.util
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from slu_kd_lobes.students.gru import MaskedBiGRU
from slu_kd_lobes.students.intent import IntentClassifier
from slu_kd_lobes.students.sincnet import (
    RecurrentStage,
    SincFilters,
    SincNetEncoder,
    absolute_lengths,
)

# Odd and even at every stage, down to less than one filter.
SAMPLES = [57585, 57600, 30001, 16000, 7999, 1281, 801, 400, 333, 80, 79]


def count(module):
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def torch_gru(masked):
    """torch's bidirectional GRU with the weights of a MaskedBiGRU."""
    onward = masked.forwards.rnn.state_dict()
    backward = masked.backwards.rnn.state_dict()
    hidden, channels = onward["weight_ih_l0"].shape
    gru = torch.nn.GRU(
        channels, hidden // 3, batch_first=True, bidirectional=True
    )
    gru.load_state_dict(
        {**onward, **{f"{k}_reverse": v for k, v in backward.items()}}
    )
    return gru


def sinc_bank(low, band, rate=16000, taps=401):
    """Filter bank written after Ravanelli and Bengio 2018, equations 4 to 6.

    Cut-offs are given in cycles per sample, before the minima of 50 Hz.
    """
    n = torch.arange(taps, dtype=torch.float64) - taps // 2
    low = low.double().abs() + 50 / rate
    high = low + band.double().abs() + 50 / rate
    bank = 2 * high * torch.sinc(2 * high * n) - 2 * low * torch.sinc(
        2 * low * n
    )
    window = torch.hamming_window(taps, periodic=False, dtype=torch.float64)
    return bank / bank.amax(1, keepdim=True) * window


def plain_stack(encoder, wav):
    """The published layers, one utterance at a time, from torch primitives."""
    front = encoder.front_end
    bank = sinc_bank(front.sinc.low_hz_, front.sinc.band_hz_).float()
    x = F.conv1d(wav.view(1, 1, -1), bank.unsqueeze(1), stride=80, padding=200)
    x = F.leaky_relu(F.max_pool1d(x.abs(), 2, ceil_mode=True), 0.2)
    for conv in (front.conv1.conv, front.conv2.conv):
        x = F.leaky_relu(F.conv1d(x, conv.weight, conv.bias, padding=2), 0.2)
    x = x.transpose(1, 2)
    for stage in [*encoder.phoneme_layers, *encoder.word_layers]:
        x, _ = torch_gru(stage.rnn)(x)
        x = F.avg_pool1d(x.transpose(1, 2), 2, ceil_mode=True).transpose(1, 2)
    return x[0]


def padded(lengths, filler=0.0):
    """Random waveforms in one batch, and their relative lengths."""
    wavs = [torch.randn(length) for length in lengths]
    size = max(lengths)
    batch = torch.full((len(wavs), size), filler)
    for row, wav in zip(batch, wavs):
        row[: len(wav)] = wav
    return wavs, batch, torch.tensor(lengths) / size


@pytest.fixture
def encoder():
    """A random encoder without dropout."""
    return SincNetEncoder().eval()


def test_parameters_are_those_of_the_published_model():
    """1,077,544 in the encoder, 3,960,954 with heads and intent module."""
    encoder, intent = SincNetEncoder(), IntentClassifier(24)
    front = encoder.front_end
    assert count(front.sinc) == 160
    assert [count(front.conv1), count(front.conv2)] == [24_060, 18_060]
    assert [count(s) for s in encoder.phoneme_layers] == [145_920, 296_448]
    assert [count(s) for s in encoder.word_layers] == [296_448, 296_448]
    assert count(encoder) == 1_077_544
    heads = [torch.nn.Linear(256, 42), torch.nn.Linear(256, 10_000)]
    whole = count(encoder) + count(intent) + sum(map(count, heads))
    assert whole == 3_960_954


def test_weights_are_those_of_the_source(tmp_path):
    """Of a folder; without one they are random, and the encoder says so."""
    assert SincNetEncoder().untrained and not SincNetEncoder.frozen
    saved = SincNetEncoder()
    torch.save(saved.state_dict(), tmp_path / "encoder.ckpt")
    loaded = SincNetEncoder(source=str(tmp_path))
    assert not loaded.untrained
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name]), name
    wavs = torch.randn(1, 8000)
    expected, _ = saved.eval()(wavs)
    assert torch.equal(loaded.eval()(wavs)[0], expected)


@pytest.mark.parametrize("size", [None, 64])
def test_a_source_without_such_weights_is_refused(tmp_path, size):
    """One sentence for no file, and for that of another size."""
    if size:
        weights = SincNetEncoder(hidden_size=size).state_dict()
        torch.save(weights, tmp_path / "encoder.ckpt")
    with pytest.raises(ValueError, match="has no weights that can be") as error:
        SincNetEncoder(source=str(tmp_path))
    message = str(error.value)
    assert message.startswith(f"{tmp_path} has no") and "\n" not in message


def test_every_stage_halves_the_frames_and_keeps_an_odd_last_one(encoder):
    """57,585 samples: 720, 360, 180, 90, 45 and 23 frames."""
    wavs, samples = torch.randn(1, 57585), torch.tensor([57585])
    assert encoder.front_end.sinc(wavs).shape == (1, 720, 80)
    x, lengths = encoder.front_end(wavs, samples)
    assert x.shape == (1, 360, 60) and lengths.tolist() == [360]
    frames = []
    for stage in [*encoder.phoneme_layers, *encoder.word_layers]:
        x, lengths = stage(x, lengths)
        assert x.shape == (1, int(lengths), 256)
        frames.append(int(lengths))
    assert frames == [180, 90, 45, 23]


def test_phoneme_and_word_features_are_the_two_halves_of_the_encoder(encoder):
    """40 ms, then 160 ms; together what forward() gives."""
    wavs = torch.randn(1, 57585)
    phonemes, lengths = encoder.encode_phonemes(wavs)
    assert phonemes.shape == (1, 90, 256) and lengths.tolist() == [90]
    words, lengths = encoder.encode_words(phonemes, lengths)
    assert words.shape == (1, 23, 256) and lengths.tolist() == [23]
    assert torch.equal(words, encoder(wavs)[0])


def test_bands_start_on_the_mel_scale():
    """Each reaches from its lower to its upper neighbour; 30 to 7,900 Hz."""
    sinc = SincFilters(80, 401, stride=80)
    low = sinc.low_hz_.detach().double().squeeze(1) * 16000
    high = low + sinc.band_hz_.detach().double().squeeze(1) * 16000
    top = 2595 * math.log10(1 + 8000 / 700)
    centre = [
        700 * (10 ** ((80 + i * (top - 80) / 79) / 2595) - 1) for i in range(80)
    ]
    assert centre[0] == pytest.approx(51.5, abs=0.1)
    assert low.tolist() == pytest.approx([30, *centre[:-1]], abs=0.01)
    assert high.tolist() == pytest.approx([*centre[1:], 7900], abs=0.01)


def test_filters_are_windowed_band_passes():
    """An impulse brings out each filter, also above half the sampling rate."""
    sinc = SincFilters(80, 401)
    impulse = torch.zeros(1, 401)
    impulse[0, 200] = 1
    bank = sinc_bank(sinc.low_hz_, sinc.band_hz_).float()
    # A convolution with an impulse gives the symmetric filter itself.
    torch.testing.assert_close(sinc(impulse)[0].T, bank, rtol=0, atol=2e-5)


def test_learnt_bands_may_turn_negative():
    """A cut-off counts by its absolute value, above the minima of 50 Hz."""
    sinc = SincFilters(2, 401)
    sinc.low_hz_.data = torch.tensor([[-0.05], [0.0]])
    sinc.band_hz_.data = torch.tensor([[0.02], [-0.01]])
    impulse = torch.zeros(1, 401)
    impulse[0, 200] = 1
    bank = sinc_bank(sinc.low_hz_, sinc.band_hz_).float()
    torch.testing.assert_close(sinc(impulse)[0].T, bank, rtol=0, atol=2e-5)


def test_bigru_equals_a_packed_sequence():
    """The states of torch's own GRU on each item's own length."""
    rnn = MaskedBiGRU(60, 128)
    x, lengths = torch.randn(4, 9, 60), torch.tensor([9, 4, 1, 8])
    packed = pack_padded_sequence(
        x, lengths, batch_first=True, enforce_sorted=False
    )
    expected, _ = pad_packed_sequence(
        torch_gru(rnn)(packed)[0], batch_first=True
    )
    torch.testing.assert_close(rnn(x, lengths), expected, rtol=0, atol=1e-6)
    whole, _ = torch_gru(rnn)(x)
    torch.testing.assert_close(rnn(x), whole, rtol=0, atol=1e-6)


def test_pooling_averages_what_there_is():
    """An odd last step is its own mean, not half of it."""
    stage = RecurrentStage(3, 2, dropout=0.0)
    x = torch.randn(2, 5, 3)
    states = stage.rnn(x, torch.tensor([5, 3]))
    pooled, lengths = stage(x, torch.tensor([5, 3]))
    assert lengths.tolist() == [3, 2]
    torch.testing.assert_close(pooled[0, 0], states[0, :2].mean(0))
    torch.testing.assert_close(pooled[0, 2], states[0, 4])
    torch.testing.assert_close(pooled[1, 1], states[1, 2])
    assert not pooled[1, 2].any()
    alone, _ = stage(x[:1])
    torch.testing.assert_close(alone, pooled[:1])


@torch.no_grad()
def test_encoder_equals_a_plain_stack_of_torch_layers(encoder):
    """Utterance by utterance, whatever batch the encoder sees them in."""
    wavs, batch, lens = padded(SAMPLES)
    features, lengths = encoder(batch, lens)
    for wav, length, feature in zip(wavs, lengths, features):
        expected = plain_stack(encoder, wav)
        assert len(expected) == length
        torch.testing.assert_close(
            feature[:length], expected, rtol=0, atol=1e-5
        )
        assert not feature[length:].any()


@torch.no_grad()
@pytest.mark.parametrize("filler", [0.0, 3.0])
def test_output_does_not_depend_on_the_batch(encoder, filler):
    """Not on its padding, nor on what stands there, nor on the order."""
    student = IntentClassifier(24).eval()
    wavs, batch, lens = padded(SAMPLES, filler)
    features, lengths = encoder(batch, lens)
    logits = student(features, lengths)
    order = torch.randperm(len(wavs))
    shuffled = student(*encoder(batch[order], lens[order]))
    torch.testing.assert_close(shuffled, logits[order], rtol=0, atol=1e-5)
    for wav, length, feature, logit in zip(wavs, lengths, features, logits):
        alone, frames = encoder(wav.unsqueeze(0))
        assert frames.tolist() == [int(length)]
        torch.testing.assert_close(
            feature[:length], alone[0], rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            logit, student(alone, frames)[0], rtol=0, atol=1e-5
        )


def test_relative_lengths_are_rounded():
    """Every number of samples survives the way through a fraction."""
    for size in (57585, 16001, 977):
        samples = torch.arange(1, size + 1)
        assert torch.equal(absolute_lengths(size, samples / size), samples)


def test_no_gradient_flows_into_padding(encoder):
    """The loss of a batch does not depend on what pads it."""
    _, batch, lens = padded([8000, 5001, 401])
    batch.requires_grad_(True)
    logits = IntentClassifier(24).eval()(*encoder(batch, lens))
    logits.square().sum().backward()
    for row, samples in zip(batch.grad, (8000, 5001, 401)):
        assert row[:samples].any()
        assert not row[samples:].any()


def test_every_parameter_gets_a_gradient():
    """Down to the cut-offs of the filters."""
    encoder, student = SincNetEncoder(), IntentClassifier(24)
    _, batch, lens = padded([16000, 9001])
    student(*encoder(batch, lens)).square().sum().backward()
    parameters = [*encoder.named_parameters(), *student.named_parameters()]
    assert len(parameters) == 48
    for name, parameter in parameters:
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_dropout_is_active_in_training_only():
    """A frozen encoder must be in eval mode to be stored."""
    encoder, wavs = SincNetEncoder(), torch.randn(1, 8000)
    assert not torch.equal(encoder(wavs)[0], encoder(wavs)[0])
    encoder.eval()
    assert torch.equal(encoder(wavs)[0], encoder(wavs)[0])


@pytest.fixture(scope="module")
def published():
    """The module models.py of lorenlugosch/end-to-end-SLU."""
    folder = os.environ.get("SLU_REFERENCE")
    if folder is None:
        pytest.skip("SLU_REFERENCE does not name a checkout of the reference")
    spec = importlib.util.spec_from_file_location(
        "published_models", Path(folder) / "models.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def published_settings():
    """Settings of the published model for Fluent Speech Commands."""
    settings = {
        "use_sincnet": True,
        "fs": 16000,
        "cnn_N_filt": [80, 60, 60],
        "cnn_len_filt": [401, 5, 5],
        "cnn_stride": [80, 1, 1],
        "cnn_max_pool_len": [2, 1, 1],
        "cnn_act": ["leaky_relu"] * 3,
        "cnn_drop": [0.0] * 3,
        "num_phonemes": 42,
        "vocabulary_size": 10_000,
        "pretraining_type": 0,  # no file of weights
        "unfreezing_type": 0,
        "starting_unfreezing_index": 1,
        "Sy_intent": None,
        "seq2seq": False,
        "values_per_slot": [6, 14, 4],
    }
    for module, layers in {"phone": 2, "word": 2, "intent": 1}.items():
        # The intent module does not pool in time.
        factor = 1 if module == "intent" else 2
        settings |= {
            f"{module}_rnn_num_hidden": [128] * layers,
            f"{module}_downsample_len": [factor] * layers,
            f"{module}_downsample_type": ["avg"] * layers,
            f"{module}_rnn_drop": [0.5] * layers,
            f"{module}_rnn_bidirectional": True,
        }
    return SimpleNamespace(**settings)


def copy_gru(masked, gru):
    """Gives a MaskedBiGRU the weights of torch's GRU."""
    weights = gru.state_dict()
    ending = "_reverse"
    for rnn, of_it in (
        (masked.forwards.rnn, lambda k: not k.endswith(ending)),
        (masked.backwards.rnn, lambda k: k.endswith(ending)),
    ):
        rnn.load_state_dict(
            {k.removesuffix(ending): v for k, v in weights.items() if of_it(k)}
        )


@torch.no_grad()
def test_encoder_and_intent_module_equal_the_published_code(published):
    """Same weights, same outputs, where nothing is padded."""
    reference = published.Model(published_settings()).cpu().eval()
    pretrained = reference.pretrained_model
    encoder = SincNetEncoder().eval()
    student = IntentClassifier(24).eval()
    assert count(reference) == 3_960_954

    layers = [*pretrained.phoneme_layers, *pretrained.word_layers]
    sinc, front = layers[0], encoder.front_end
    low = sinc.filt_b1.float().unsqueeze(1)
    band = sinc.filt_band.float().unsqueeze(1)
    torch.testing.assert_close(front.sinc.low_hz_.data, low)
    torch.testing.assert_close(front.sinc.band_hz_.data, band)
    front.sinc.low_hz_.copy_(low)
    front.sinc.band_hz_.copy_(band)
    convs = [x for x in layers if isinstance(x, torch.nn.Conv1d)]
    for ours, theirs in zip((front.conv1, front.conv2), convs):
        ours.conv.load_state_dict(theirs.state_dict())
    grus = [x for x in layers if isinstance(x, torch.nn.GRU)]
    stages = [*encoder.phoneme_layers, *encoder.word_layers]
    assert len(grus) == len(stages)
    for stage, gru in zip(stages, grus):
        copy_gru(stage.rnn, gru)
    copy_gru(student.rnn, reference.intent_layers[0])
    linear = next(
        x for x in reference.intent_layers if isinstance(x, torch.nn.Linear)
    )
    student.classifier.load_state_dict(linear.state_dict())

    for samples in (57585, 16000, 8001):
        wavs = torch.randn(2, samples)
        features, lengths = encoder(wavs)
        expected = pretrained.compute_features(wavs)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
        logits, _ = reference.predict_intents(wavs)
        torch.testing.assert_close(
            student(features, lengths), logits, rtol=0, atol=1e-5
        )
