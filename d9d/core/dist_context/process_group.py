"""How a process joins the others of its job."""

import dataclasses
import datetime as dt
import os

import torch
from torch import distributed
from torch.distributed import HashStore, PrefixStore, Store  # type: ignore[attr-defined] # torch exports them in effect
from torch.distributed.rendezvous import rendezvous

from d9d.core.configuration import ConfigurationError

# Device types whose own backend speaks for tensors on the CPU as well, or for which there is none.
_ON_THE_HOST = frozenset({"cpu", "meta"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeetingPlace:
    """Where the processes of a job have met.

    Attributes:
        store: What they told one another to find each other; kept by the launcher, so that it outlives each of them.
        rank: The index of this process, from 0.
        num_ranks: How many there are.
    """

    store: Store
    rank: int
    num_ranks: int


# Empty if this process is alone, or met the others in a way of its own.
_meeting_places: list[MeetingPlace] = []


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

    Raises:
        ConfigurationError: If the one that it has joined speaks only for devices.
    """
    if distributed.is_initialized():
        _require_host_backend()
        return
    if num_launched() == 1:
        distributed.init_process_group(_backend(device), store=HashStore(), rank=0, world_size=1, timeout=timeout)
        return
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    # A restarted job finds the store of the one before, with the addresses of processes that are gone.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"attempt-{attempt}", store)
    _meeting_places.append(MeetingPlace(store=store, rank=rank, num_ranks=world_size))
    distributed.init_process_group(_backend(device), store=store, rank=rank, world_size=world_size, timeout=timeout)


def meeting_place() -> MeetingPlace | None:
    """Return where the processes of the job have met, with a connection of its own.

    Returns:
        The place, which outlives the process group; `None` if this process is alone, or has not met the others yet, or
        met them in a way of its own.
    """
    if not _meeting_places:
        return None
    place = _meeting_places[-1]
    return dataclasses.replace(place, store=place.store.clone())  # type: ignore[attr-defined] # torch's stubs lack it


def _require_host_backend() -> None:
    backends = distributed.get_backend_config()
    if "cpu:" not in backends:
        raise ConfigurationError(
            f"the process group of this process has the backends {backends!r}, and none for tensors on the CPU, which "
            f"the loops need: initialise it with backend='cpu:gloo,{backends}', or leave it to DistributedContext"
        )


def _backend(device: torch.device) -> str:
    on_device = distributed.get_default_backend_for_device(device)
    return on_device if device.type in _ON_THE_HOST else f"cpu:gloo,{device.type}:{on_device}"
