"""Facts of the machine, and places of what comes with the project."""

from pathlib import Path

import pytest
import torch

from slu_kd_lobes.utils.environment import (
    ROOT,
    bundled,
    git_commit,
    package_versions,
    packaged_minilm,
    peak_memory_mb,
)


def test_versions_are_those_that_run():
    """Of Python and of what shapes the numbers."""
    versions = package_versions()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"speechbrain", "transformers", "slu_kd_lobes"} <= versions.keys()
    assert all(isinstance(v, str) for v in versions.values())


@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="only Linux tells"
)
def test_peak_memory_is_that_of_the_system():
    """Which counts in kB; what started this process may have had more."""
    status = Path("/proc/self/status").read_text()
    kilobytes = int(status.split("VmHWM:")[1].split()[0])
    assert 0.99 < peak_memory_mb() / (kilobytes / 1024) < 100


def test_commit_is_a_hash_or_nothing():
    """With + where files differ from it."""
    commit = git_commit()
    if commit is not None:
        assert len(commit.removesuffix("+")) == 40
        int(commit.removesuffix("+"), 16)


def test_bundled_files_are_found_from_any_folder(tmp_path, monkeypatch):
    """By their place in the project."""
    monkeypatch.chdir(tmp_path)
    assert ROOT == Path(__file__).resolve().parents[1]
    path = Path(bundled("pretrained/sincnet-read-speech"))
    assert path.is_absolute() and (path / "encoder.ckpt").is_file()


def test_a_missing_text_encoder_names_the_remedy(monkeypatch):
    """As on a machine where the package is not installed."""
    assert Path(packaged_minilm(), "config.json").is_file()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install.*--text_encoder"):
        packaged_minilm()
