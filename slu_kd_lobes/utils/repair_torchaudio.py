"""Make torchaudio importable next to a torch that was built without CUDA.

The torchaudio wheels on PyPI hold libraries compiled against CUDA. With a
torch built without CUDA, `import torchaudio` (and `import speechbrain`, which
needs it) stops with an `OSError` that names a missing CUDA library. Without
those compiled files torchaudio runs as pure Python, which is all that
SpeechBrain and this project use of it, so this script removes them.

It acts on that one fault only. A torchaudio that imports, and one that
belongs to a torch built with CUDA, are left as they are. Run it with the
Python whose packages it shall check:

> python -m slu_kd_lobes.utils.repair_torchaudio

The exit status is 0 when torchaudio can be imported at the end, else 1.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

# What the dynamic loader says about a library of CUDA, or one of torch's own
# CUDA libraries, that is not there.
MISSING_CUDA_LIBRARY = re.compile(
    r"(lib(?:c10_cuda|torch_cuda|cu[a-zA-Z]+|nv[a-zA-Z]+)[\w.+-]*)"
    r": cannot open shared object file"
)


class CannotRepair(Exception):
    """The fault is not the one this script repairs; the text says which."""


def run_python(code):
    """Run code in a fresh interpreter with the same packages as this one.

    Arguments
    ---------
    code : str
        The Python source to run.

    Returns
    -------
    subprocess.CompletedProcess
        With `returncode`, and `stdout` and `stderr` as text.
    """
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )


def import_failure(module):
    """Try to import a module in a fresh interpreter.

    Arguments
    ---------
    module : str
        Name of the module.

    Returns
    -------
    str or None
        The traceback, or None when the import works.
    """
    result = run_python(f"import {module}")
    if result.returncode == 0:
        return None
    return result.stderr.strip() or f"exit status {result.returncode}"


def last_line(traceback):
    """Return the line of a traceback that names the exception."""
    return traceback.splitlines()[-1].strip()


def missing_cuda_library(traceback):
    """Find the CUDA library that an import failed to load.

    Arguments
    ---------
    traceback : str
        What the failed import printed.

    Returns
    -------
    str or None
        File name of the library, or None when the import failed otherwise.

    Example
    -------
    >>> text = "OSError: libcudart.so.13: cannot open shared object file"
    >>> missing_cuda_library(text)
    'libcudart.so.13'
    >>> missing_cuda_library("OSError: file too short")
    """
    match = MISSING_CUDA_LIBRARY.search(traceback)
    return match.group(1) if match else None


def torch_cuda_version():
    """Return the CUDA version torch was built with, None for a build without.

    Raises
    ------
    CannotRepair
        If torch itself cannot be imported.
    """
    failure = import_failure("torch")
    if failure:
        raise CannotRepair(
            f"torch itself cannot be imported ({last_line(failure)}), "
            "so torchaudio was left as it is."
        )
    code = "import torch; print(torch.version.cuda or '')"
    return run_python(code).stdout.strip() or None


def compiled_files():
    """List torchaudio's compiled files, without importing torchaudio.

    Returns
    -------
    list of pathlib.Path
        The files `torchaudio/lib/*.so`, sorted.
    """
    spec = importlib.util.find_spec("torchaudio")
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    return sorted(so for folder in folders for so in folder.glob("lib/*.so"))


def remove(files):
    """Remove files.

    Arguments
    ---------
    files : list of pathlib.Path
        The files to remove.

    Raises
    ------
    CannotRepair
        If there is no file, or one cannot be removed.
    """
    if not files:
        raise CannotRepair(
            "torchaudio looks for a CUDA library, but has no compiled file "
            "in torchaudio/lib that could be removed."
        )
    for file in files:
        try:
            file.unlink()
        except OSError as error:
            raise CannotRepair(f"A file cannot be removed: {error}.")


def repair():
    """Check torchaudio, and repair it if it has the fault described above.

    Returns
    -------
    str
        What was found or done.

    Raises
    ------
    CannotRepair
        If torchaudio cannot be imported and the fault is another one.
    """
    failure = import_failure("torchaudio")
    if failure is None:
        return "torchaudio can be imported: nothing to repair."

    library = missing_cuda_library(failure)
    if library is None:
        raise CannotRepair(
            f"torchaudio cannot be imported: {last_line(failure)}"
        )
    cuda = torch_cuda_version()
    if cuda is not None:
        raise CannotRepair(
            f"torchaudio does not find {library}, and torch is built for "
            f"CUDA {cuda}: nothing was changed; install that CUDA's "
            "libraries, or a torch without CUDA."
        )

    files = compiled_files()
    remove(files)
    failure = import_failure("torchaudio")
    if failure is not None:
        raise CannotRepair(
            "torchaudio's compiled files were removed, but it still cannot "
            f"be imported: {last_line(failure)}"
        )
    names = ", ".join(file.name for file in files)
    return (
        f"torchaudio could not be imported: it needs {library}, and torch is "
        f"built without CUDA.\nRemoved {names} from {files[0].parent}.\n"
        "torchaudio can be imported now and runs as pure Python."
    )


def main():
    """Repair, report, and return the exit status."""
    try:
        print(repair())
    except CannotRepair as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
