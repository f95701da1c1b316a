"""This project as a Python distribution: its extras, and its wheel."""

import base64
import hashlib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from slu_kd_lobes.utils.files import whole

NAME = "slu-kd-lobes"
PACKAGE = Path(__file__).resolve().parents[1]


def extra_command(extra):
    """The command that installs an extra of this project, by its libraries.

    Arguments
    ---------
    extra : str
        See setup.py.

    Returns
    -------
    str

    Example
    -------
    >>> extra_command("demo")
    "pip install 'gradio<7,>=5'"
    """
    wanted = [
        requirement.partition(";")[0].strip()
        for requirement in distribution(NAME).requires
        if f'extra == "{extra}"' in requirement
    ]
    return "pip install " + " ".join(f"'{name}'" for name in wanted)


def write_wheel(folder):
    """Writes a wheel of the Python files that run now, whole or not at all.

    With it, a model can be used where no registry has this project: pip
    installs the file, and what it needs from the registry.

    Arguments
    ---------
    folder : Path

    Returns
    -------
    Path
        The wheel.

    Raises
    ------
    ValueError
        If this project is not installed.

    Source: the binary distribution format of packaging.python.org.

    Example
    -------
    >>> path = write_wheel(getfixture("tmp_path"))
    >>> "slu_kd_lobes/__init__.py" in zipfile.ZipFile(path).namelist()
    True
    """
    try:
        about = distribution(NAME)
    except PackageNotFoundError:
        raise ValueError(
            f"{NAME} is not installed, so nothing tells what it needs: run "
            "'pip install -e .' in its checkout"
        ) from None
    stem = f"slu_kd_lobes-{about.version}"
    content = {
        str(path.relative_to(PACKAGE.parent)): path.read_bytes()
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    info, record = f"{stem}.dist-info", f"{stem}.dist-info/RECORD"
    # A checkout's own folder calls it PKG-INFO.
    metadata = about.read_text("METADATA") or about.read_text("PKG-INFO")
    content[f"{info}/METADATA"] = metadata.encode()
    content[f"{info}/entry_points.txt"] = about.read_text(
        "entry_points.txt"
    ).encode()
    content[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: slu_kd_lobes\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n"
    )
    lines = [f"{record},,"]
    for name, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
        lines.append(f"{name},sha256={digest.decode().rstrip('=')},{len(data)}")
    content[record] = "\n".join(sorted(lines)).encode() + b"\n"
    wheel = Path(folder) / f"{stem}-py3-none-any.whl"
    with whole(wheel) as part, zipfile.ZipFile(part, "w") as archive:
        for name, data in content.items():
            # Without a time of its own: the same files, the same wheel.
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return wheel
