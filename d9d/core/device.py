"""Devices: which one a process uses, and what torch can do on it."""

import os

import torch

from d9d.core.settings import ConfigurationError


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
