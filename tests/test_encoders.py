"""Encoders of other makers: real small models, made on the spot."""

import json

import pytest
import torch
from tiny_models import DEPTH, SELF_SUPERVISED, WIDTH
from transformers import WhisperFeatureExtractor, WhisperModel

from slu_kd_lobes.students.encoders import (
    SpeechBrainEncoder,
    TransformerEncoder,
    average_frames,
)
from slu_kd_lobes.students.intent import IntentClassifier, LayerSum
from slu_kd_lobes.students.sincnet import SincNetEncoder
from slu_kd_lobes.utils.environment import bundled
from slu_kd_lobes.utils.fingerprints import module_fingerprint

KINDS = [*SELF_SUPERVISED, "whisper"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_interface_of_the_student(transformer_folders, kind):
    """Two seconds are 100 frames of 20 ms; 8 of them make one."""
    encoder = TransformerEncoder(str(transformer_folders / kind))
    assert (encoder.feature_size, encoder.layers) == (WIDTH, 1)
    assert encoder.sample_rate == 16000
    assert encoder.frozen and not encoder.untrained
    features, lengths = encoder(torch.randn(2, 32000), torch.tensor([1, 0.5]))
    assert features.shape == (2, 13, WIDTH)
    assert lengths.tolist() == [13, 7]
    assert (features[1, 7:] == 0).all() and not features.requires_grad
    student = IntentClassifier(5, input_size=WIDTH)
    assert student(features, lengths).shape == (2, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_in_a_batch_change_nothing(transformer_folders, kind):
    """Not even what stands in the padding."""
    encoder = TransformerEncoder(str(transformer_folders / kind), pool=3)
    wavs = torch.randn(2, 20000)
    lens = torch.tensor([1.0, 0.6])
    features, lengths = encoder(wavs, lens)
    alone, _ = encoder(wavs[1:, :12000])
    assert torch.equal(features[1, : lengths[1]], alone[0])
    swapped, _ = encoder(wavs.flip(0), lens.flip(0))
    assert torch.equal(swapped.flip(0), features)


@pytest.mark.parametrize("kind", SELF_SUPERVISED)
def test_layers_are_those_of_the_model(transformer_folders, kind):
    """Normalised audio through transformers itself gives the same states."""
    wav = torch.randn(1, 16000)
    model = (
        SELF_SUPERVISED[kind][1]
        .from_pretrained(transformer_folders / kind)
        .eval()
    )
    normal = torch.nn.functional.layer_norm(wav, wav.shape[1:])
    with torch.no_grad():
        states = model(normal, output_hidden_states=True)
    source = str(transformer_folders / kind)
    last, _ = TransformerEncoder(source, pool=1)(wav)
    assert torch.allclose(last, states.last_hidden_state, atol=1e-5)
    both, _ = TransformerEncoder(source, layers=[1, 0], pool=1)(wav)
    expected = [states.hidden_states[1], states.hidden_states[0]]
    assert torch.allclose(both, torch.cat(expected, -1), atol=1e-5)


def test_whisper_at_30_seconds_is_that_of_transformers(transformer_folders):
    """Where the original has no padding to skip, all states are equal."""
    wav = torch.randn(1, 480000) / 10
    source = str(transformer_folders / "whisper")
    model = WhisperModel.from_pretrained(source).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(source)
    mel = extractor(wav[0].numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        states = model.encoder(mel.input_features, output_hidden_states=True)
    last, lengths = TransformerEncoder(source, pool=1)(wav)
    assert lengths.tolist() == [1500]
    assert torch.allclose(last, states.last_hidden_state, atol=1e-3)
    first, _ = TransformerEncoder(source, layers=0, pool=1)(wav)
    assert torch.allclose(first, states.hidden_states[0], atol=1e-3)


def test_whisper_reads_what_there_is_and_more_than_30_seconds(
    transformer_folders,
):
    """A short command costs a short sequence; a long one comes in pieces."""
    encoder = TransformerEncoder(str(transformer_folders / "whisper"), pool=1)
    seen = []
    hook = encoder.model.model.encoder.layers[0].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[1])
    )
    encoder(torch.randn(1, 32000))
    _, lengths = encoder(torch.randn(1, 31 * 16000))
    hook.remove()
    assert seen == [100, 1500, 50]
    assert lengths.tolist() == [1550]


def test_all_layers_side_by_side_and_their_learnt_sum(transformer_folders):
    """The student's weights move away from equal shares."""
    encoder = TransformerEncoder(
        str(transformer_folders / "wavlm"), layers="all"
    )
    assert encoder.layers == DEPTH + 1
    features, lengths = encoder(torch.randn(3, 16000))
    assert features.shape[-1] == (DEPTH + 1) * WIDTH
    student = IntentClassifier(4, input_size=WIDTH, layers=encoder.layers)
    assert isinstance(student.layer_sum, LayerSum)
    loss = student(features, lengths)[:, 0].sum()
    loss.backward()
    assert student.layer_sum.weights.grad.abs().max() > 0


def test_settings_that_change_features_change_the_fingerprint(
    transformer_folders,
):
    """So the feature store never takes one for the other."""
    source = str(transformer_folders / "wavlm")
    prints = {
        module_fingerprint(TransformerEncoder(source, **options))
        for options in ({}, {"layers": 1}, {"layers": "all"}, {"pool": 4})
    }
    assert len(prints) == 4
    again = module_fingerprint(TransformerEncoder(source))
    assert again in prints


def test_frozen_whatever_trains_around_it(transformer_folders):
    """Brain and store may call train() and eval() as they like."""
    encoder = TransformerEncoder(str(transformer_folders / "wav2vec2")).train()
    assert not any(module.training for module in encoder.modules())
    wav = torch.randn(1, 16000)
    assert torch.equal(encoder(wav)[0], encoder(wav)[0])
    assert not any(p.requires_grad for p in encoder.parameters())


def test_half_precision_weights_compute_in_single(
    transformer_folders, tmp_path
):
    """As those of many published models are stored."""
    model = WhisperModel.from_pretrained(transformer_folders / "whisper").half()
    model.save_pretrained(tmp_path)
    WhisperFeatureExtractor().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == "float16"
    features, _ = TransformerEncoder(str(tmp_path))(torch.randn(1, 16000))
    assert features.dtype == torch.float32


def test_very_short_audio_is_filled_with_silence(transformer_folders):
    """One sample is enough for one frame."""
    for kind in KINDS:
        encoder = TransformerEncoder(str(transformer_folders / kind))
        features, lengths = encoder(torch.randn(1, 1))
        assert lengths.tolist() == [1] and features.isfinite().all()


@pytest.mark.parametrize("layers", [3, -1, [], [0, 9], "first", "0 9", ""])
def test_layers_that_are_not_there_are_refused(transformer_folders, layers):
    with pytest.raises(ValueError, match="numbers from 0 to 2"):
        TransformerEncoder(str(transformer_folders / "hubert"), layers=layers)


def test_a_name_that_cannot_be_had_gives_one_sentence(tmp_path):
    """A hub name while offline, and a folder without a model."""
    for source in ("someone/no-such-model", str(tmp_path)):
        with pytest.raises(ValueError, match="neither a folder") as error:
            TransformerEncoder(source)
        assert "\n" not in str(error.value) and source in str(error.value)
        with pytest.raises(ValueError, match="neither a folder") as error:
            SpeechBrainEncoder(source)
        assert "\n" not in str(error.value) and source in str(error.value)


def test_impossible_pooling_is_refused(transformer_folders):
    with pytest.raises(ValueError, match="pool -1"):
        TransformerEncoder(str(transformer_folders / "hubert"), pool=-1)


def test_no_pooling_given_is_that_of_160_ms(transformer_folders, asr):
    """8 frames of 20 ms, and 4 of most SpeechBrain models."""
    source = str(transformer_folders / "hubert")
    wav = torch.randn(1, 16000)
    default, given = (TransformerEncoder(source, pool=p) for p in (0, 8))
    assert default.pool == 8
    assert torch.equal(default(wav)[0], given(wav)[0])
    default, given = (SpeechBrainEncoder(str(asr), pool=p) for p in (0, 4))
    assert default.pool == 4
    assert torch.equal(default(wav)[0], given(wav)[0])


def test_layers_as_text_are_those_of_the_list(transformer_folders):
    """As a configuration has them."""
    source = str(transformer_folders / "wavlm")
    for text, wanted in (("2 0", [2, 0]), ("1", [1]), ("[0, 1]", [0, 1])):
        encoder = TransformerEncoder(source, layers=text)
        assert encoder.wanted == wanted and encoder.layers == len(wanted)


# SpeechBrain's own models


@pytest.mark.parametrize("interface", ["EncoderDecoderASR", "EncoderASR"])
def test_speechbrain_models_encode(asr, interface):
    """One second is 101 frames of 10 ms; what the model says is its rate."""
    encoder = SpeechBrainEncoder(str(asr), interface, pool=16)
    assert encoder.sample_rate == 8000 and encoder.feature_size == 12
    assert encoder.frozen and not encoder.untrained
    wavs = torch.randn(2, 8000)
    features, lengths = encoder(wavs, torch.tensor([1.0, 0.5]))
    assert features.shape == (2, 7, 12) and lengths.tolist() == [7, 4]
    alone, _ = encoder(wavs[1:, :4000])
    assert torch.equal(features[1, :4], alone[0])
    expected = encoder.model.encode_batch(wavs[:1], torch.ones(1))[0]
    assert torch.allclose(features[0], average_frames(expected, 16))


def test_the_weights_are_those_of_the_folder(asr):
    encoder = SpeechBrainEncoder(str(asr))
    saved = torch.load(asr / "enc.ckpt", weights_only=True)
    loaded = encoder.model.mods.encoder.enc.state_dict()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_our_own_exported_folder_is_one_of_them():
    """The bundled SincNet encoder, without further pooling, gives its words."""
    encoder = SpeechBrainEncoder(
        bundled("pretrained/sincnet-read-speech"), "WaveformEncoder", pool=1
    )
    own = SincNetEncoder().eval()
    path = bundled("pretrained/sincnet-read-speech") + "/encoder.ckpt"
    own.load_state_dict(torch.load(path, weights_only=True))
    wav = torch.randn(1, 20000)
    with torch.no_grad():
        assert torch.allclose(encoder(wav)[0], own(wav)[0], atol=1e-5)


def test_an_unknown_interface_is_refused(asr):
    with pytest.raises(ValueError, match="choose one of"):
        SpeechBrainEncoder(str(asr), interface="VAD")


def test_an_interface_that_does_not_fit_says_so(tmp_path, asr):
    """A folder without a tokenizer is none for EncoderDecoderASR."""
    lines = (asr / "hyperparams.yaml").read_text().splitlines()
    text = "\n".join(line for line in lines if "tokenizer:" not in line)
    (tmp_path / "hyperparams.yaml").write_text(text)
    (tmp_path / "enc.ckpt").write_bytes((asr / "enc.ckpt").read_bytes())
    with pytest.raises(ValueError, match="another interface than Encoder"):
        SpeechBrainEncoder(str(tmp_path))
    encoder = SpeechBrainEncoder(str(tmp_path), "WaveformEncoder")
    assert encoder.feature_size == 12


def test_means_of_frames():
    """The last one is of what is left."""
    x = torch.arange(10.0).view(5, 2)
    assert average_frames(x, 1).tolist() == x.tolist()
    assert average_frames(x, 2).tolist() == [[1, 2], [5, 6], [8, 9]]
    assert average_frames(x, 9).tolist() == [[4, 5]]
