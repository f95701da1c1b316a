"""Speech transformers that train, and say how significant a frame is."""

import pytest
import torch
from tiny_models import WIDTH

from slu_kd_lobes.students.attentive import SETTINGS, AttentiveEncoder
from slu_kd_lobes.students.encoders import TransformerEncoder

KINDS = ["wav2vec2", "hubert", "wavlm", "whisper"]


@pytest.fixture(scope="module", params=KINDS)
def source(request, transformer_folders):
    """Folder of a small model."""
    return str(transformer_folders / request.param)


@pytest.fixture
def encoder(source):
    """In eval mode."""
    return AttentiveEncoder(source).eval()


WAVS = torch.randn(2, 9000, generator=torch.Generator().manual_seed(1)) / 10


def heard(encoder, wavs, wav_lens=None):
    """Frames after all layers, of waveforms."""
    return encoder(*encoder.first_frames()(wavs, wav_lens))


def test_frames_are_those_of_the_frozen_encoder(source, encoder):
    """Of the same model, whose last layer the student of system 1 hears."""
    units = heard(encoder, WAVS)
    other, _ = TransformerEncoder(source, pool=1)(WAVS)
    assert units.vectors.shape[-1] == encoder.feature_size == WIDTH
    frames = min(units.vectors.shape[1], other.shape[1])
    assert torch.allclose(
        units.vectors[:, :frames], other[:, :frames], atol=1e-4
    )


def test_a_batch_gives_what_its_items_give(encoder):
    """Frames and priors, whatever stands in the padding."""
    with torch.no_grad():
        both = heard(encoder, WAVS, torch.tensor([1.0, 0.6]))
        alone = heard(encoder, WAVS[1:, :5400])
    size = alone.vectors.shape[1]
    assert both.mask.sum(1).tolist()[1] == size
    assert torch.allclose(both.vectors[1, :size], alone.vectors[0], atol=1e-5)
    assert torch.allclose(both.priors[1, :size], alone.priors[0], atol=1e-6)
    assert not both.priors[1, size:].any()
    assert torch.allclose(both.priors.sum(1), torch.ones(2))


def test_the_transformer_learns_and_the_rest_stays(encoder):
    """Also in training mode, where every layer gives its weights."""
    encoder.train()
    units = heard(encoder, WAVS)
    (units.vectors * units.mask.unsqueeze(-1)).sum().backward()
    moved = {
        name: parameter.grad is not None and bool(parameter.grad.abs().sum())
        for name, parameter in encoder.model.named_parameters()
    }
    for part in ("conv1", "conv2", "feature_extractor", "decoder", "embed_pos"):
        assert not any(moved[name] for name in moved if part in name)
    assert any(moved[name] for name in moved if "encoder.layers.0" in name)
    assert any(moved[name] for name in moved if "encoder.layers.1" in name)


def test_training_mode_masks_and_drops_no_attention(encoder):
    """Priors are those of eval mode but for the dropout of the states."""
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    training, evaluation = heard(encoder, WAVS), heard(encoder.eval(), WAVS)
    assert torch.allclose(training.priors, evaluation.priors, atol=1e-5)


def test_what_is_saved_loads_as_its_source_does(source, encoder, tmp_path):
    """With the weights of the training and the settings of the source."""
    with torch.no_grad():
        for parameter in encoder._trained()[0].parameters():
            parameter.add_(0.1)
    encoder.save_pretrained(tmp_path)
    again = AttentiveEncoder(str(tmp_path)).eval()
    assert again.settings == encoder.settings
    assert again.settings != {key: SETTINGS[key] for key in again.settings}
    assert torch.allclose(
        heard(again, WAVS).vectors, heard(encoder, WAVS).vectors
    )
    frozen = TransformerEncoder(str(tmp_path), pool=1)
    before = TransformerEncoder(source, pool=1)
    assert not torch.allclose(frozen(WAVS)[0], before(WAVS)[0], atol=1e-3)


def test_whisper_reads_no_more_than_it_learnt(transformer_folders):
    """What comes after 30 s would be left out unsaid."""
    first_frames = AttentiveEncoder(
        transformer_folders / "whisper"
    ).first_frames()
    half_a_minute = torch.zeros(1, 30 * 16000)
    assert first_frames(half_a_minute)[0].shape[1] == 1500
    with pytest.raises(ValueError, match="31.0 s long, and Whisper reads 30 s"):
        first_frames(torch.zeros(1, 31 * 16000))


def test_a_text_model_is_one_sentence(tmp_path):
    """It hears nothing."""
    with pytest.raises(ValueError, match="speech encoder"):
        AttentiveEncoder("no/such/model")
