"""A hub that does not answer costs seconds, not a minute."""

import http.server
import threading
import time

import pytest
import torch
from huggingface_hub import constants

from slu_kd_lobes.students.encoders import (
    SpeechBrainEncoder,
    TransformerEncoder,
)
from slu_kd_lobes.students.sincnet import SincNetEncoder
from slu_kd_lobes.teachers.text_teacher import ClsPooling, TextTeacher
from slu_kd_lobes.utils.hub import hub_answers, load_pretrained, no_long_retries


@pytest.fixture
def dead_hub(monkeypatch):
    """An address on this machine where nothing listens."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTPS_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "load",
    [
        TransformerEncoder,
        SpeechBrainEncoder,
        lambda source: TextTeacher(source, 3, ClsPooling()),
    ],
)
def test_a_name_that_cannot_be_reached_fails_at_once(dead_hub, load):
    start = time.perf_counter()
    with pytest.raises(ValueError, match="hub name that can be reached now"):
        load("someone/some-model")
    assert time.perf_counter() - start < 5
    assert constants.HF_HUB_OFFLINE is False


def test_weights_that_cannot_be_reached_fail_at_once(dead_hub):
    """Those that our own encoder starts from."""
    start = time.perf_counter()
    with pytest.raises(ValueError, match="someone/some-model has no weights"):
        SincNetEncoder(source="someone/some-model")
    assert time.perf_counter() - start < 5
    assert constants.HF_HUB_OFFLINE is False


def test_the_hub_is_asked_only_for_names(dead_hub, tmp_path):
    """And what was set is set again."""
    with no_long_retries(str(tmp_path)):
        assert constants.HF_HUB_OFFLINE is False
    with no_long_retries("someone/some-model"):
        assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_or_a_proxy_is_used(dead_hub, monkeypatch):
    """A server on this machine stands for the hub."""
    assert not hub_answers()
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert hub_answers()
    monkeypatch.delenv("https_proxy")
    server = http.server.HTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    assert hub_answers()
    server.shutdown()
    server.server_close()


def layers(*sizes):
    """Modules with weights of their own, by name."""
    modules = [torch.nn.Linear(size, 1) for size in sizes]
    return dict(zip(("front", "back"), modules))


@pytest.fixture
def weights(tmp_path):
    """A folder with the weights of two modules, and these."""
    saved = layers(2, 3)
    for name, module in saved.items():
        torch.save(module.state_dict(), tmp_path / f"{name}.ckpt")
    return tmp_path, saved


def test_weights_are_loaded_by_name(weights, tmp_path, monkeypatch):
    """Each module gets its own; no copy is left anywhere."""
    folder, saved = weights
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    loaded = layers(2, 3)
    load_pretrained(loaded, str(folder))
    for name, module in loaded.items():
        assert torch.equal(module.weight, saved[name].weight)
        assert torch.equal(module.bias, saved[name].bias)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("sizes, missing", [((2, 3), True), ((2, 4), False)])
def test_weights_that_are_gone_or_do_not_fit_are_one_sentence(
    weights, sizes, missing
):
    """The files that are needed are named."""
    folder, _ = weights
    if missing:
        (folder / "back.ckpt").unlink()
    with pytest.raises(ValueError) as caught:
        load_pretrained(layers(*sizes), str(folder))
    message = str(caught.value)
    assert message.startswith(f"{folder} has no weights that can be loaded (")
    assert message.endswith("with front.ckpt, back.ckpt")
    assert "\n" not in message
