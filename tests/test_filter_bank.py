"""The filter bank that a recogniser hears."""

import pytest
import torch

from slu_kd_lobes.data.features import Stored
from slu_kd_lobes.students.filter_bank import FilterBank
from slu_kd_lobes.utils.fingerprints import module_fingerprint


@pytest.mark.parametrize("size", [400, 7999, 12345])
def test_an_utterance_is_the_same_alone_and_in_any_batch(size):
    torch.manual_seed(0)
    wavs, bank = torch.randn(2, 16000), FilterBank()
    wavs[1, size:] = 0
    features, lengths = bank(wavs, torch.tensor([1.0, size / 16000]))
    alone, length = bank(wavs[1:, :size])
    assert length == lengths[1] == alone.shape[1] == size // 160 + 1
    assert torch.allclose(features[1, :length], alone[0], atol=1e-3)
    assert not features[1, length:].any()


def test_each_channel_has_mean_0_and_variance_1():
    torch.manual_seed(1)
    features, _ = FilterBank(40)(torch.randn(1, 16000))
    assert features.shape == (1, 101, 40)
    assert torch.allclose(features.mean(1), torch.zeros(40), atol=1e-4)
    assert torch.allclose(features.square().mean(1), torch.ones(40), atol=1e-3)


def test_silence_is_no_number_that_breaks_training():
    features, _ = FilterBank()(torch.zeros(1, 8000))
    assert torch.isfinite(features).all()


def test_other_filters_are_another_store(tmp_path):
    assert module_fingerprint(FilterBank(40)) != module_fingerprint(
        FilterBank()
    )
    assert Stored(FilterBank(), "cpu", tmp_path, dtype="float16").encoder.frozen
