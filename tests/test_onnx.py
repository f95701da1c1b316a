"""The exported file answers as the model does."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from running import CORPUS

from slu_kd_lobes.data.audio import read_waveform
from slu_kd_lobes.inference.classifier import SpokenIntentClassifier
from slu_kd_lobes.inference.cli import main
from slu_kd_lobes.inference.onnx import export_onnx
from slu_kd_lobes.students.encoders import TransformerEncoder


@pytest.fixture(scope="module")
def model(package):
    """A packaged model."""
    return SpokenIntentClassifier.from_hparams(package)


@pytest.fixture(scope="module")
def session(model, tmp_path_factory):
    """The exported file in onnxruntime, on one thread."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, path)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options)


def logits_of(model, wav):
    """The model's own."""
    with torch.no_grad():
        features, lengths = model.mods.encoder(wav, torch.ones(1))
        return model.mods.student(features, lengths).numpy()


def test_a_hundred_utterances_of_any_length_are_equal(model, session):
    """Within 1e-4, as torch computes them."""
    for path in sorted((CORPUS / "wavs").rglob("*.ogg"))[:100]:
        wav = read_waveform(path, 16000).unsqueeze(0)
        (logits,) = session.run(None, {"wav": wav.numpy()})
        assert np.abs(logits - logits_of(model, wav)).max() < 1e-4


@pytest.mark.parametrize("samples", [1, 79, 1600, 2561, 57585, 200000])
def test_odd_lengths(model, session, samples):
    """Also where a pooling meets a last step of one."""
    wav = torch.randn(1, samples) / 10
    (logits,) = session.run(None, {"wav": wav.numpy()})
    assert logits.shape == (1, model.schema.num_logits)
    assert np.abs(logits - logits_of(model, wav)).max() < 1e-4


def test_the_file_says_what_its_logits_mean(model, session):
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["slots"]) == model.schema.values
    assert float(facts["threshold"]) == model.threshold
    assert facts["sample_rate"] == "16000"
    assert facts["sha256"] == model.hparams.sha256


def test_8_bit_weights_are_smaller_and_nearly_the_same(model, tmp_path, capsys):
    path = tmp_path / "small.onnx"
    export_onnx(model, path, int8=True)
    export_onnx(model, tmp_path / "whole.onnx")
    assert path.stat().st_size < (tmp_path / "whole.onnx").stat().st_size
    assert len(list(tmp_path.iterdir())) == 2
    session = onnxruntime.InferenceSession(str(path))
    wav = torch.randn(1, 32000) / 10
    (logits,) = session.run(None, {"wav": wav.numpy()})
    expected = logits_of(model, wav)
    assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()


def test_other_encoders_are_refused(model, tmp_path, transformer_folders):
    model.mods["encoder"], own = (
        TransformerEncoder(str(transformer_folders / "hubert")),
        model.mods["encoder"],
    )
    try:
        with pytest.raises(ValueError, match="only a model on the SincNet"):
            export_onnx(model, tmp_path / "model.onnx")
    finally:
        model.mods["encoder"] = own
    assert not list(tmp_path.iterdir())


def test_export_on_the_command_line(package, tmp_path, capsys):
    out = tmp_path / "model.onnx"
    assert main(["onnx", str(package), str(out)]) == 0
    assert str(out) in capsys.readouterr().out and out.is_file()
