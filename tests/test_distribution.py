"""A model folder brings what it needs."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from running import CORPUS, ROOT, environment

from slu_kd_lobes.utils.distribution import extra_command, write_wheel


def test_the_same_files_give_the_same_wheel(tmp_path):
    """Of every Python file of the package, and of no other."""
    first, second = write_wheel(tmp_path / "a"), write_wheel(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
    assert "slu_kd_lobes/inference/cli.py" in names
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.parametrize("extra", ["demo", "onnx", "ray"])
def test_the_command_of_an_extra_names_libraries(extra):
    """No registry has this project, so its own name would not do."""
    command = extra_command(extra)
    assert command.startswith("pip install '") and "slu" not in command


def test_a_fresh_environment_uses_a_model_folder(package, tmp_path):
    """It installs the folder's wheel, and one command answers."""
    subprocess.run(
        [sys.executable, "-m", "venv", tmp_path / "venv"], check=True
    )
    python = tmp_path / "venv" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.check_output([python, "-c", code], text=True).strip()
    # Torch and all else from here: a path in this file is not searched for
    # what points to the checkout.
    Path(site, "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--quiet", "--no-index", "--no-deps", "--ignore-installed"]
    subprocess.run(
        [python, "-m", "pip", "install", *options, "-r", "requirements.txt"],
        cwd=package,
        check=True,
    )
    audio = next(CORPUS.rglob("*.ogg"))
    result = subprocess.run(
        [python.with_name("slu-kd"), "classify", audio, "--model", package],
        cwd=tmp_path,
        env={k: v for k, v in environment().items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert audio.name in result.stdout
    code = "import slu_kd_lobes; print(slu_kd_lobes.__file__)"
    where = subprocess.check_output(
        [python, "-c", code], cwd=tmp_path, text=True
    )
    assert where.startswith(str(tmp_path))


INSTALLED = """
from slu_kd_lobes.students.sincnet import SincNetEncoder
from slu_kd_lobes.utils.environment import ROOT, bundled

SincNetEncoder(source=bundled("pretrained/sincnet-read-speech"))
print(ROOT)
bundled("data/synthetic-commands")
"""


def test_an_installed_wheel_has_the_bundled_encoder(tmp_path):
    """And says of the corpus that it comes with a checkout."""
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("slu_kd_lobes", "pretrained"):
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    pytest.importorskip("setuptools", minversion="77")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "-w", "wheels", "."],
        cwd=source,
        check=True,
    )
    (wheel,) = (source / "wheels").iterdir()
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    result = subprocess.run(
        [sys.executable, "-c", INSTALLED],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == str(site)
    told = "data/synthetic-commands comes with a checkout of slu_kd_lobes"
    assert told in result.stderr
