"""Devices: which one a process uses, and what torch can do on each type."""

import os
from types import ModuleType

import torch

from d9d.core.settings import ConfigurationError


def accelerator_module(device: torch.device) -> ModuleType | None:
    """Return torch's module for an accelerator, such as `torch.cuda`.

    Ask whether the module has a function, instead of comparing device types, to find out what a device supports.

    Args:
        device: Any device; this machine need not have it.

    Returns:
        The module; `None` for the CPU and the meta device.

    Raises:
        RuntimeError: If torch does not know this type of device.
    """
    return None if device.type in {"cpu", "meta"} else torch.get_device_module(device)


def has_streams(device: torch.device) -> bool:
    """Return whether work on a device is queued on streams, asynchronously to the host.

    Copies between such a device and the host are asynchronous if the host memory is pinned.

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


def copy_to_host(tensor: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Copy a tensor to the host, into new memory or into an earlier copy.

    On a device with streams the copy is queued on the current stream and goes to pinned memory: record an event on the
    stream, and wait for it before reading the copy. Elsewhere the copy is complete when this returns.

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


def empty_on_host(num_elements: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Allocate memory on the host that a device can copy to without waiting.

    Allocating pinned memory is slow, and waits for all work of the device: do it before the first step, and keep it.

    Args:
        num_elements: The number of elements.
        dtype: Their dtype.
        device: The device that will copy to it.

    Returns:
        A flat tensor, uninitialised; pinned if the device has streams.
    """
    return torch.empty(num_elements, dtype=dtype, pin_memory=has_streams(device))


def choose_device(name: str | None) -> torch.device:
    """Choose the device of this process, and make it the current one.

    Args:
        name: A device, such as `cpu` or `cuda:1`, or a type of device, such as `cuda`; by default the accelerator if
            there is one, else the CPU. If a machine runs several processes, each uses the device of its local rank.

    Returns:
        The device, with an index if it is an accelerator.

    Raises:
        RuntimeError: If this machine does not have the device.
        ConfigurationError: If several processes of this machine would share a device.
    """
    device = _default_device() if name is None else _checked_device(name)
    if device.type == str(torch.accelerator.current_accelerator()):
        # Streams and generators that are made without an index use the current device.
        torch.accelerator.set_device_index(device)
    return device


def _default_device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else _own_device(accelerator.type)


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.empty(0, device=name).device
    except Exception as error:
        raise RuntimeError(f"device={name!r} cannot be used on this machine: {error}") from error
    num_processes = _num_local_processes()
    if device.type != str(torch.accelerator.current_accelerator()) or num_processes == 1:
        return device
    if ":" in name:
        raise ConfigurationError(
            f"device={name!r} is a single device, and {num_processes} processes run on this machine: set "
            f"device={device.type!r}, and each process uses the device of its local rank"
        )
    return _own_device(device.type)


def _own_device(device_type: str) -> torch.device:
    """Return the device of this type that no other process uses."""
    num_processes, num_devices = _num_local_processes(), torch.accelerator.device_count()
    if num_processes == 1:
        return torch.device(device_type, torch.accelerator.current_device_index())
    if num_devices < num_processes:
        raise ConfigurationError(
            f"{num_processes} processes run on this machine, which has {num_devices} {device_type} devices: start at "
            f"most that many (`torchrun --nproc-per-node {num_devices}`)"
        )
    return torch.device(device_type, int(os.environ.get("LOCAL_RANK", "0")))


def _num_local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
