"""The web page, over the net and in a real browser."""

import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from running import CORPUS, environment

from slu_kd_lobes.inference.classifier import SpokenIntentClassifier

pytest.importorskip("gradio")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update "
    "--disable-sync --window-size=1000,1300"
).split()


@pytest.fixture(scope="module")
def page(package):
    """Address of the running page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "slu_kd_lobes.inference.cli", "page"]
    command += [f"--model={package}", f"--port={port}"]
    command += [f"--examples={CORPUS / 'wavs'}"]
    env = {**environment(), "GRADIO_ANALYTICS_ENABLED": "False"}
    with subprocess.Popen(command, env=env) as process:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert process.poll() is None
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.fixture
def browser(tmp_path):
    """Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (CHROMIUM and DRIVER):
        pytest.skip("there is no chromium here")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in [*OPTIONS, f"--user-data-dir={tmp_path}"]:
        options.add_argument(option)
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


def wait_for(browser, found, seconds=60):
    """What `found` gives, once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        time.sleep(0.2)
    raise AssertionError(browser.find_element("tag name", "body").text)


def test_no_upload_ends_the_page(page, tmp_path):
    """Small files of much audio, and others, get a line; the next an answer."""
    from gradio_client import Client, exceptions, handle_file

    client = Client(page, verbose=False)
    many, nan, half = (str(tmp_path / f"{n}.wav") for n in "mnh")
    bomb = str(tmp_path / "bomb.flac")
    with soundfile.SoundFile(bomb, "w", 8000, 8, "PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros((80000, 8)))
    soundfile.write(many, np.zeros((100, 900)), 16000)
    soundfile.write(nan, np.full(16000, np.nan), 16000, subtype="FLOAT")
    soundfile.write(half, np.full(16000, 0.1), 16000)
    with open(half, "r+b") as file:
        file.truncate(9000)
    for path, fault in {
        bomb: "600 s long",
        many: "900 channels",
        nan: "NaN",
        half: "cut short",
    }.items():
        with pytest.raises(exceptions.AppError, match=fault):
            client.predict(handle_file(path), api_name="/hear")
    recording = sorted((CORPUS / "wavs").rglob("*.ogg"))[0]
    said, _ = client.predict(handle_file(str(recording)), api_name="/hear")
    assert "with a probability of" in said


def test_an_uploaded_command_is_answered(page, package, browser):
    """With the value of every slot, the latency and the plot."""
    recording = sorted((CORPUS / "wavs").rglob("*.ogg"))[0]
    answer = SpokenIntentClassifier.from_hparams(package).classify_file(
        recording
    )
    browser.get(page)
    text = lambda: browser.find_element("tag name", "body").text  # noqa: E731
    wait_for(browser, lambda: "Spoken commands to slots" in text())
    upload = wait_for(
        browser,
        lambda: browser.find_elements(
            "css selector", "input[type=file][accept*=audio]"
        ),
    )[0]
    upload.send_keys(str(recording))
    wait_for(browser, lambda: "with a probability of" in text())
    wait_for(browser, lambda: answer["slots"]["object"]["value"] in text())
    for name, slot in answer["slots"].items():
        assert name in text() and slot["value"] in text()
    assert "ms for" in text()
    wait_for(browser, lambda: browser.find_elements("css selector", "img"))
