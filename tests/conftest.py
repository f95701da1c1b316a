"""What all tests share: no network, the same random numbers, one thread."""

import os
from pathlib import Path

# Before anything imports them: the hub client would retry for minutes, and
# the tests' small matrices are multiplied faster, and always alike, by one
# thread.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Starts every test from the same seed."""
    torch.manual_seed(1234)


@pytest.fixture(scope="session")
def shared():
    """Folder beside the checkout with models and data that are not in it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}")
    return folder
