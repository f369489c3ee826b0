"""Devices: which one a process uses, and what torch can do on each type."""

import os
import platform
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


# Where launchers say which of the processes of a machine this is: torchrun and users, Slurm, Open MPI, and MPICH and
# its relatives.
_LOCAL_RANK_VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")


def choose_device(name: str | None, num_processes: int = 1) -> torch.device:
    """Choose the device of this process, and make it the current one.

    Args:
        name: A device, such as `cpu` or `cuda:1`, or a type of device, such as `cuda`; by default the accelerator if
            there is one, else the CPU. If the job has several processes, each uses the device of its local rank, or
            the only one that it sees.
        num_processes: How many processes the job has, on all machines.

    Returns:
        The device, with an index if it is an accelerator.

    Raises:
        RuntimeError: If this machine does not have the device.
        ConfigurationError: If the device of another process is named, or there is none for this process.
    """
    device = _default_device(num_processes) if name is None else _checked_device(name, num_processes)
    if device.type == str(torch.accelerator.current_accelerator()):
        # Streams and generators that are made without an index use the current device.
        torch.accelerator.set_device_index(device)
    return device


def identify(device: torch.device) -> tuple[object, ...] | None:
    """Return what only one device in the world has, whatever index each process knows it by.

    Args:
        device: A device of this machine.

    Returns:
        The name of the machine and numbers of the device; `None` for the CPU, and for devices without such numbers.
    """
    module = accelerator_module(device)
    if module is None or not hasattr(module, "get_device_properties"):
        return None
    properties = module.get_device_properties(device)
    names = ("uuid", "pci_domain_id", "pci_bus_id", "pci_device_id")
    numbers = [str(getattr(properties, name)) for name in names if hasattr(properties, name)]
    return (platform.node(), *numbers) if numbers else None


def _default_device(num_processes: int) -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else _own_device(accelerator.type, num_processes)


def _checked_device(name: str, num_processes: int) -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    usable = "'cpu'" if accelerator is None else f"'cpu' or {accelerator.type!r}"
    refused = f"device={name!r} cannot be used on this machine"
    try:
        torch.device(name)
    except RuntimeError:  # torch's own message lists two dozen types of devices, most of them obsolete
        raise RuntimeError(f"{refused}: torch knows no device of this name. Use {usable}") from None
    try:
        device = torch.empty(0, device=name).device
    except Exception as error:
        # torch appends advice for its developers, of hundreds of words.
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise RuntimeError(f"{refused} ({reason}): use {usable}") from error
    if device.type != str(torch.accelerator.current_accelerator()):
        return device
    if ":" not in name:
        return _own_device(device.type, num_processes)
    if num_processes > 1 and device != (own := _own_device(device.type, num_processes)):
        raise ConfigurationError(
            f"device={name!r} is a single device, and the device of this process is {str(own)!r}, by its local rank: "
            f"set device={device.type!r}, and each process uses its own"
        )
    return device


def _own_device(device_type: str, num_processes: int) -> torch.device:
    """Return the device of this type that belongs to this process."""
    num_devices, local_rank = torch.accelerator.device_count(), _local_rank()
    # A launcher may let each process see its own device only. Whether it does is known when the processes have met.
    if num_processes == 1 or num_devices == 1 or local_rank is None:
        return torch.device(device_type, torch.accelerator.current_device_index())
    num_local = max(local_rank + 1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if num_devices < num_local:
        raise ConfigurationError(
            f"at least {num_local} processes run on this machine, and this one sees {num_devices} {device_type} "
            f"devices: start at most that many (`torchrun --nproc-per-node {num_devices}`), or let each process see "
            "one device, its own"
        )
    return torch.device(device_type, local_rank)


def _local_rank() -> int | None:
    """Return which of the processes of this machine this is; `None` if the launcher does not say."""
    values = (os.environ.get(name) for name in _LOCAL_RANK_VARIABLES)
    return next((int(value) for value in values if value is not None), None)
