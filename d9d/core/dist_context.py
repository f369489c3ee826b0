"""The processes that run a job together."""

import contextlib
import dataclasses
import datetime as dt
import logging
import os
from collections.abc import Iterator, MutableMapping
from typing import Any, Self

import torch
from torch import distributed
from torch.distributed import HashStore, PrefixStore, Store  # type: ignore[attr-defined] # torch exports them in effect
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from d9d.core.device import choose_device
from d9d.core.mesh import DeviceMeshParameters, MeshName
from d9d.core.settings import ConfigurationError

__all__ = ["DeviceMeshParameters", "DistributedContext", "MeshName"]


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
    return on_device if device.type == "cpu" else f"cpu:gloo,{device.type}:{on_device}"


# The backend of tests of large meshes, which waits for nobody and takes no timeout.
_FAKE = "fake"
_START_TIMEOUT = dt.timedelta(minutes=30)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """Where a job runs: its processes, how they divide the work, and the device of this one.

    Attributes:
        device: The device that the model and the batches of this process live on.
        rank: The index of this process, from 0.
        world_size: How many processes run the job.
        mesh_parameters: How they divide the work.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    mesh_parameters: DeviceMeshParameters = dataclasses.field(default_factory=DeviceMeshParameters)
    _meshes: dict[MeshName, DeviceMesh] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def start(
        cls,
        device: str | None = None,
        mesh_parameters: DeviceMeshParameters | None = None,
        timeout: dt.timedelta = _START_TIMEOUT,
    ) -> Self:
        """Join this process to its job.

        A process alone needs no launcher, and joins nothing. Several are started by `torchrun`, or have made their
        process group themselves.

        Args:
            device: The device to run on, such as `cpu` or `cuda`; by default the accelerator where there is one, and
                the CPU elsewhere.
            mesh_parameters: How the processes divide the work; by default there is one process.
            timeout: How long a process waits for the others, until `set_timeout` says otherwise.

        Returns:
            The context of this process.

        Raises:
            ConfigurationError: If the mesh is for another number of processes than were started, or several of them
                would share a device.
            RuntimeError: If this machine has no such device.
        """
        mesh_parameters = mesh_parameters or DeviceMeshParameters()
        mesh_parameters.require_world_size(num_launched())
        chosen = choose_device(device)
        if mesh_parameters.world_size == 1:
            return cls(device=chosen)
        join_process_group(chosen, timeout)
        context = cls(
            device=chosen,
            rank=distributed.get_rank(),
            world_size=distributed.get_world_size(),
            mesh_parameters=mesh_parameters,
        )
        # All processes make all groups, in one order; later, some might not ask for some of them.
        for name in ("dense", "batch", "expert", "loss"):
            context.mesh_for(name)
        return context

    @property
    def is_main_process(self) -> bool:
        """Whether this is the one process that writes files and speaks to people."""
        return self.rank == 0

    @property
    def data_parallel_rank(self) -> int:
        """Which part of each global batch this process has, from 0; those that divide a sample have the same part."""
        return self._coordinate("data_parallel")

    @property
    def pipeline_rank(self) -> int:
        """Which place in the pipeline this process has, from 0."""
        return self._coordinate("pipeline_parallel")

    def mesh_for(self, name: MeshName) -> DeviceMesh:
        """Return one view of all processes; its dimensions are taken by their names, as torch does it.

        Args:
            name: Which view; `DeviceMeshParameters.shape_of` says what each is for, and which dimensions it has.

        Returns:
            The mesh. A process alone has meshes, too, and makes a process group of its own when it first asks for one.
        """
        if name not in self._meshes:
            join_process_group(self.device, _START_TIMEOUT)
            shape = self.mesh_parameters.shape_of(name)
            self._meshes[name] = init_device_mesh(self.device.type, tuple(shape.values()), mesh_dim_names=tuple(shape))
        return self._meshes[name]

    def wait_world(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            distributed.barrier()

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Make the context that the main process runs through before all others, for instance to download data.

        Where an exception ends it in the main process, the others are left to the launcher, which ends them.
        """
        if not self.is_main_process:
            self.wait_world()
        yield
        if self.is_main_process:
            self.wait_world()

    def set_timeout(self, timeout: dt.timedelta) -> None:
        """Change how long this process waits for the others.

        Args:
            timeout: The longest time that a collective operation may take from now on.
        """
        if self.world_size == 1:
            return
        groups = {group for mesh in self._meshes.values() for group in mesh.get_all_groups()}
        for group in {distributed.group.WORLD, *groups}:
            if group is not None and distributed.get_backend(group) != _FAKE:
                group.set_timeout(timeout)

    def logger(self, name: str) -> "logging.Logger | RankLogger":
        """Return a logger whose lines name the rank of this process, where there are several.

        Args:
            name: The name of the logger.

        Returns:
            The logger.
        """
        logger = logging.getLogger(name)
        return logger if self.world_size == 1 else RankLogger(logger, self.rank, self.world_size)

    def _coordinate(self, dimension: str) -> int:
        return self.mesh_for("batch").get_local_rank(dimension) if self.world_size > 1 else 0


class RankLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the rank before each line.

    Args:
        logger: Takes the lines.
        rank: The index of this process.
        world_size: How many there are.
    """

    def __init__(self, logger: logging.Logger, rank: int, world_size: int) -> None:
        super().__init__(logger)
        self._prefix = f"[rank {rank} of {world_size}]"

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{self._prefix} {msg}", kwargs
