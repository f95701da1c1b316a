"""utils/repair_torchaudio.py repairs one fault and leaves all else alone.

The script runs as a user runs it, in its own process, on stand-ins for torch
and torchaudio that fail to import in the same way as the real ones.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = (
    Path(__file__).parent.parent
    / "slu_kd_lobes"
    / "utils"
    / "repair_torchaudio.py"
)

# Like the real one: loads its compiled files if there are any. The loader's
# own message comes first in the traceback, torch's shorter one last.
TORCHAUDIO = """
from pathlib import Path
for file in sorted(Path(__file__).parent.glob("lib/*.so")):
    try:
        raise OSError({message!r})
    except OSError as error:
        raise OSError(f"Could not load this library: {{file}}") from error
"""
NO_CUDA = "libcudart.so.13: cannot open shared object file: No such file"


@pytest.fixture
def packages(tmp_path):
    """A folder with a torch without CUDA and a torchaudio that needs CUDA."""
    write(tmp_path, "torch/__init__.py", "from torch import version")
    write(tmp_path, "torch/version.py", "cuda = None")
    break_torchaudio(tmp_path, NO_CUDA)
    write(tmp_path, "torchaudio/lib/__init__.py", "")
    write(tmp_path, "torchaudio/lib/_torchaudio.abi3.so", "compiled")
    write(tmp_path, "torchaudio/lib/libtorchaudio.abi3.so", "compiled")
    return tmp_path


def write(folder, name, text):
    """Write a file of a stand-in package."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def break_torchaudio(folder, message):
    """Make torchaudio's compiled files fail to load with this message."""
    text = TORCHAUDIO.format(message=message)
    write(folder, "torchaudio/__init__.py", text)


def run(*args, packages):
    """Run Python with these packages in front of the installed ones."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(packages),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [sys.executable, *map(str, args)],
        env=environment,
        capture_output=True,
        text=True,
    )


def contents(folder):
    """All files below a folder with their text."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_working_torchaudio_is_untouched(packages):
    write(packages, "torchaudio/__init__.py", "")
    before = contents(packages)

    result = run(SCRIPT, packages=packages)

    assert result.returncode == 0
    assert result.stdout == "torchaudio can be imported: nothing to repair.\n"
    assert contents(packages) == before


@pytest.mark.parametrize(
    "library",
    ["libc10_cuda.so", "libtorch_cuda.so", "libcudart.so.13", "libnvrtc.so.12"],
)
def test_missing_cuda_library_is_repaired(packages, library):
    break_torchaudio(packages, NO_CUDA.replace("libcudart.so.13", library))
    before = contents(packages)
    assert run("-c", "import torchaudio", packages=packages).returncode != 0

    result = run(SCRIPT, packages=packages)

    assert result.returncode == 0, result.stderr
    assert run("-c", "import torchaudio", packages=packages).returncode == 0
    # Only the compiled files are gone, and the message names them and why.
    removed = before.keys() - contents(packages).keys()
    assert removed == {
        "torchaudio/lib/_torchaudio.abi3.so",
        "torchaudio/lib/libtorchaudio.abi3.so",
    }
    assert library in result.stdout
    assert "_torchaudio.abi3.so, libtorchaudio.abi3.so" in result.stdout
    assert str(packages / "torchaudio" / "lib") in result.stdout


def test_second_run_has_nothing_to_do(packages):
    run(SCRIPT, packages=packages)

    result = run(SCRIPT, packages=packages)

    assert result.returncode == 0
    assert "nothing to repair" in result.stdout


def test_torch_with_cuda_is_left_alone(packages):
    write(packages, "torch/version.py", "cuda = '13.0'")
    assert_refused(packages, "torch is built for CUDA 13.0")


def test_torch_that_cannot_be_imported_is_left_alone(packages):
    # A CUDA build of torch without its CUDA libraries fails with the message
    # that the repair looks for, but torchaudio is not to blame.
    broken = f"raise OSError({NO_CUDA!r})"
    write(packages, "torch/__init__.py", broken)
    write(packages, "torchaudio/__init__.py", "import torch")
    assert_refused(packages, "torch itself cannot be imported")


@pytest.mark.parametrize(
    "message",
    ["file too short", "libsox.so: cannot open shared object file"],
)
def test_other_load_errors_are_reported(packages, message):
    break_torchaudio(packages, message)
    assert_refused(packages, "OSError: Could not load this library")


def test_missing_torchaudio_is_reported(packages):
    missing = "raise ModuleNotFoundError(\"No module named 'torchaudio'\")"
    write(packages, "torchaudio/__init__.py", missing)
    assert_refused(packages, "ModuleNotFoundError: No module named")


def test_fault_outside_the_compiled_files_is_reported(packages):
    write(packages, "torchaudio/__init__.py", f"raise OSError({NO_CUDA!r})")

    result = run(SCRIPT, packages=packages)

    assert result.returncode == 1
    assert "it still cannot be imported: OSError" in result.stderr


def assert_refused(packages, reason):
    """Check that nothing was changed and that one line says why."""
    before = contents(packages)

    result = run(SCRIPT, packages=packages)

    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert reason in result.stderr
    assert contents(packages) == before
