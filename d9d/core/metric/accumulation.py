"""The number format that sums over many steps are kept in, and how numbers come to it."""

import torch


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return the widest floating-point format of a device, in which counts are exact and sums do not drift.

    Args:
        device: Where the sum is kept.

    Returns:
        64 bits wherever the device has them; Apple's has 32, with which counts are exact up to 2^24.
    """
    return torch.float32 if device.type == "mps" else torch.float64


def to_accumulate(number: torch.Tensor | float, total: torch.Tensor) -> torch.Tensor:
    """Bring numbers into the format and onto the device of what they are added to, without waiting for the device.

    Args:
        number: A tensor of any shape, or a number of the host.
        total: What they are added to.

    Returns:
        The numbers, outside of any graph of gradients.
    """
    if isinstance(number, torch.Tensor):
        return number.detach().to(total.device, total.dtype)
    # Filling takes the number along with the kernel; copying it from the host would wait.
    return torch.full((), number, dtype=total.dtype, device=total.device)
