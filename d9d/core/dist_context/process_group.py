"""How a process joins the others of its job."""

import datetime as dt
import os

import torch
from torch import distributed
from torch.distributed import HashStore, PrefixStore, Store  # type: ignore[attr-defined] # torch exports them in effect
from torch.distributed.rendezvous import rendezvous

# Device types whose own backend speaks for tensors on the CPU as well, or for which there is none.
_ON_THE_HOST = frozenset({"cpu", "meta"})
# Where this process has met the others; empty if it is alone, or met them in a way of its own.
_meeting_places: list[Store] = []


def num_launched() -> int:
    """Return how many processes the launcher has started, or has been joined by whoever made a process group."""
    if distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_process_group(device: torch.device, timeout: dt.timedelta) -> None:
    """Join the process group of the job, unless this process has joined one already.

    Args:
        device: Decides the backend; there is always one for tensors on the CPU, too.
        timeout: How long to wait for the others, now and in each collective operation to come.
    """
    if distributed.is_initialized():
        return
    if num_launched() == 1:
        distributed.init_process_group(_backend(device), store=HashStore(), rank=0, world_size=1, timeout=timeout)
        return
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    # A restarted job finds the store of the one before, with the addresses of processes that are gone.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"attempt-{attempt}", store)
    _meeting_places.append(store)
    distributed.init_process_group(_backend(device), store=store, rank=rank, world_size=world_size, timeout=timeout)


def job_store() -> Store | None:
    """Return the store that the processes of the job met at, through a connection of its own.

    Returns:
        The store; `None` if this process is alone, or has not met the others yet, or met them in a way of its own.
    """
    if not _meeting_places:
        return None
    connection: Store = _meeting_places[-1].clone()  # type: ignore[attr-defined] # torch's stubs leave it out
    return connection


def _backend(device: torch.device) -> str:
    on_device = distributed.get_default_backend_for_device(device)
    return on_device if device.type in _ON_THE_HOST else f"cpu:gloo,{device.type}:{on_device}"
