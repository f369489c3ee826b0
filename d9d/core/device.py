"""Devices: which one a process uses, and what torch can do on each type."""

import os
from types import ModuleType

import torch

from d9d.core.settings import ConfigurationError


def accelerator_module(device: torch.device) -> ModuleType | None:
    """Return torch's module for an accelerator, such as `torch.cuda`.

    What torch can do on a type of device differs, and shows in what its module has: look there for a function instead
    of comparing names of types.

    Args:
        device: Any device; this machine need not have it.

    Returns:
        The module; `None` for the CPU, and for the meta device, which computes nothing.

    Raises:
        RuntimeError: If torch does not know this type of device.
    """
    return None if device.type in {"cpu", "meta"} else torch.get_device_module(device)


def has_streams(device: torch.device) -> bool:
    """Return whether work on a device is queued on streams, which run while the host does something else.

    Only there are copies from and to the host asynchronous, and only from and to pinned memory.

    Args:
        device: Any device; this machine need not have it.

    Returns:
        False for the CPU and the meta device, and for `mps`, which has one queue and shares its memory with the host.
    """
    return hasattr(accelerator_module(device), "current_stream")


def has_own_generator(device: torch.device) -> bool:
    """Return whether a device has a default random number generator besides the one of the CPU.

    Args:
        device: Any device; this machine need not have it.

    Returns:
        False for the CPU and the meta device.
    """
    return hasattr(accelerator_module(device), "get_rng_state")


def choose_device(name: str | None) -> torch.device:
    """Choose the device that a process runs on, and make it the current one.

    Args:
        name: A device, such as `cpu` or `cuda:1`, or a type of devices; by default the accelerator where there is one,
            and the CPU elsewhere. Where several processes share a machine, each takes the device of its own index.

    Returns:
        The device, with its index where it is an accelerator.

    Raises:
        RuntimeError: If this machine has no such device.
        ConfigurationError: If several processes of a machine would share a device.
    """
    device = _default_device() if name is None else _checked_device(name)
    if device.type == str(torch.accelerator.current_accelerator()):
        # Whatever names no index, such as a stream or a random number generator, means this one.
        torch.accelerator.set_device_index(device)
    return device


def copy_to_host(tensor: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Copy a tensor into new memory on the host, or into that of an earlier copy.

    On a device with streams the copy is queued in the current stream and goes to pinned memory: read it after an event
    that the stream records afterwards. Elsewhere it is complete when this returns.

    Args:
        tensor: The tensor.
        out: An earlier copy of a tensor of the same shape and dtype, which is overwritten.

    Returns:
        The copy.
    """
    is_queued = has_streams(tensor.device)
    if out is not None:
        return out.copy_(tensor, non_blocking=is_queued)
    # torch allocates pinned memory for a copy that does not block.
    return tensor.to("cpu", non_blocking=is_queued, copy=True)


def _default_device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    return _own_device(accelerator.type)


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.empty(0, device=name).device
    except Exception as error:
        raise RuntimeError(f"device={name!r} cannot be used on this machine: {error}") from error
    if device.type != str(torch.accelerator.current_accelerator()) or _num_local_processes() == 1:
        return device
    if ":" in name:
        raise ConfigurationError(
            f"device={name!r} is one device, and {_num_local_processes()} processes run on this machine: set "
            f"device={device.type!r}, and each takes its own"
        )
    return _own_device(device.type)


def _own_device(kind: str) -> torch.device:
    """Return the device of this kind that belongs to this process alone."""
    if _num_local_processes() == 1:
        return torch.device(kind, torch.accelerator.current_device_index())
    index, num_devices = int(os.environ.get("LOCAL_RANK", "0")), torch.accelerator.device_count()
    if num_devices < _num_local_processes():
        raise ConfigurationError(
            f"{_num_local_processes()} processes run on this machine, which has {num_devices} {kind} devices: start "
            f"`torchrun --nproc-per-node {num_devices}` at most"
        )
    return torch.device(kind, index)


def _num_local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
