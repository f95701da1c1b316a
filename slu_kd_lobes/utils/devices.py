"""Where tensors can be computed on this machine."""

import torch


def check_device(device):
    """Refuses a device that this machine does not have.

    Arguments
    ---------
    device : str or torch.device

    Raises
    ------
    ValueError
        If nothing can be computed there.

    Example
    -------
    >>> check_device("cpu")
    >>> check_device("gpu")
    Traceback (most recent call last):
    ...
    ValueError: the device 'gpu' cannot be used here: give cpu
    """
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:  # torch raises either
        known = ["cpu"]
        if torch.cuda.is_available():
            count = torch.cuda.device_count()
            known += [f"cuda:{number}" for number in range(count)]
        raise ValueError(
            f"the device '{device}' cannot be used here: give "
            f"{' or '.join(known)}"
        ) from error
