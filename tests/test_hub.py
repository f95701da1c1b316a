"""A hub that does not answer costs seconds, not a minute."""

import http.server
import threading
import time

import pytest
from huggingface_hub import constants

from slu_kd_lobes.encoders import SpeechBrainEncoder, TransformerEncoder
from slu_kd_lobes.hub import hub_answers, no_long_retries
from slu_kd_lobes.teachers import ClsPooling, TextTeacher


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
