"""Which devices can be used here."""

import pytest
import torch

from slu_kd_lobes.training.run_folder import parse_arguments
from slu_kd_lobes.utils.devices import check_device


def test_devices_of_this_machine_are_taken():
    """By name and as torch's object."""
    names = ["cpu", torch.device("cpu")]
    if torch.cuda.is_available():
        names += ["cuda", "cuda:0"]
    for device in names:
        check_device(device)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "", "meta", "CPU 1"])
def test_others_are_refused(device):
    """With those that are there, also on the command line."""
    with pytest.raises(ValueError) as caught:
        check_device(device)
    told = f"the device '{device}' cannot be used here: give cpu"
    assert str(caught.value).startswith(told)
    if device:
        with pytest.raises(ValueError, match="cannot be used here: give cpu"):
            parse_arguments(["a.yaml", f"--device={device}"])


@pytest.mark.parametrize(
    "option", ["grad_accumulation_factor=0", "max_grad_norm=nan"]
)
def test_numbers_of_options_have_bounds(option):
    """As those of a configuration."""
    with pytest.raises(ValueError, match="^command line: '.*' must be a "):
        parse_arguments(["a.yaml", f"--{option}"])
