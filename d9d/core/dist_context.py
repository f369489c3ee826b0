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
from torch.distributed import HashStore, PrefixStore, ProcessGroup, Store  # type: ignore[attr-defined] # torch does export them
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from d9d.core.device import choose_device, identify
from d9d.core.marks import collective, waits_for_device
from d9d.core.mesh import DeviceMeshParameters, MeshName, num_launched
from d9d.core.settings import ConfigurationError

__all__ = ["DeviceMeshParameters", "DistributedContext", "MeshName"]

_START_TIMEOUT = dt.timedelta(minutes=30)
# The backend of tests of large meshes, which has no timeout.
_FAKE = "fake"
# How much longer operations on a device may take than those on the host. The watchdog of NCCL ends a process that has
# waited too long, and names no rank; before that, the ranks that wait on the host find out which one hangs.
_DEVICE_GRACE = dt.timedelta(minutes=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """Where a job runs: its processes, its mesh, and the device of this process.

    Attributes:
        device: The device of the model and the batches of this process.
        rank: The index of this process.
        world_size: How many processes run the job.
        mesh_parameters: How the processes divide the work.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    mesh_parameters: DeviceMeshParameters = dataclasses.field(default_factory=DeviceMeshParameters)
    _meshes: dict[MeshName, DeviceMesh] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)
    _host_groups: list[ProcessGroup] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    @collective
    def start(
        cls,
        device: str | None = None,
        mesh_parameters: DeviceMeshParameters | None = None,
        timeout: dt.timedelta = _START_TIMEOUT,
    ) -> Self:
        """Join this process to its job.

        A single process needs no launcher and gets no process group. Several processes are started by `torchrun`, or
        have initialised their process group themselves.

        Args:
            device: The device to run on, such as `cpu` or `cuda`; by default the accelerator if there is one, else the
                CPU.
            mesh_parameters: How the processes divide the work; by default there is one process.
            timeout: How long a process waits for the others, until `set_timeout` changes it.

        Returns:
            The context of this process.

        Raises:
            ConfigurationError: If the mesh needs another number of processes than were started, or two processes would
                share a device.
            RuntimeError: If this machine does not have the device.
        """
        mesh_parameters = mesh_parameters or DeviceMeshParameters()
        mesh_parameters.require_world_size(num_launched())
        chosen = choose_device(device, mesh_parameters.world_size)
        if mesh_parameters.world_size == 1:
            return cls(device=chosen)
        join_process_group(chosen, timeout)
        _require_own_devices(chosen)
        context = cls(
            device=chosen,
            rank=distributed.get_rank(),
            world_size=distributed.get_world_size(),
            mesh_parameters=mesh_parameters,
        )
        # All processes must create all groups, in the same order. Creating them on demand could not guarantee that.
        for name in ("dense", "batch", "expert", "loss"):
            context.mesh_for(name)
        context.set_timeout(timeout)
        return context

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0, which writes files and console output."""
        return self.rank == 0

    @property
    def data_parallel_rank(self) -> int:
        """Which share of each global batch this process reads. Processes that divide a sample have the same share."""
        return self._coordinate("data_parallel")

    @property
    def pipeline_rank(self) -> int:
        """The position of this process in the pipeline."""
        return self._coordinate("pipeline_parallel")

    def mesh_for(self, name: MeshName) -> DeviceMesh:
        """Return a mesh over all processes. Index it with names of dimensions, as any `DeviceMesh` of torch.

        Args:
            name: Which mesh; `DeviceMeshParameters.shape_of` describes each and its dimensions.

        Returns:
            The mesh. A single process has meshes too; the first call initialises a process group for it.
        """
        if name not in self._meshes:
            join_process_group(self.device, _START_TIMEOUT)
            shape = self.mesh_parameters.shape_of(name)
            self._meshes[name] = init_device_mesh(self.device.type, tuple(shape.values()), mesh_dim_names=tuple(shape))
        return self._meshes[name]

    @collective
    @waits_for_device
    def wait_world(self) -> None:
        """Wait until all processes have called this."""
        if self.world_size > 1:
            distributed.barrier()

    @contextlib.contextmanager
    @collective
    def main_process_first(self) -> Iterator[None]:
        """Make a context that the main process runs before all others, for example to download data.

        If it raises in the main process, the other processes keep waiting until the launcher ends them.
        """
        if not self.is_main_process:
            self.wait_world()
        yield
        if self.is_main_process:
            self.wait_world()

    @collective
    def new_host_group(self) -> ProcessGroup:
        """Make a process group of all processes for tensors on the host, for operations at the same time as others.

        All processes call this. `set_timeout` changes its timeout too.

        Returns:
            The group.
        """
        backend = _FAKE if distributed.get_backend() == _FAKE else "gloo"
        group: ProcessGroup = distributed.new_group(backend=backend)
        self._host_groups.append(group)
        return group

    def set_timeout(self, timeout: dt.timedelta) -> None:
        """Change how long this process waits for the others.

        Args:
            timeout: The longest time that a collective operation on the host may take from now on. On a device it may
                take a minute longer.
        """
        if self.world_size == 1:
            return
        groups = {group for mesh in self._meshes.values() for group in mesh.get_all_groups()}
        for group in {distributed.group.WORLD, *groups, *self._host_groups}:
            if group is not None and distributed.get_backend(group) != _FAKE:
                _set_timeout(group, timeout)

    def logger(self, name: str) -> "logging.Logger | RankLogger":
        """Return a logger that prefixes each line with the rank, if there are several processes.

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
    """Prefixes each line with the rank.

    Args:
        logger: The logger.
        rank: The index of this process.
        world_size: How many processes there are.
    """

    def __init__(self, logger: logging.Logger, rank: int, world_size: int) -> None:
        super().__init__(logger)
        self._prefix = f"[rank {rank} of {world_size}]"

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{self._prefix} {msg}", kwargs


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeetingPlace:
    """The store through which the processes of a job found each other.

    Attributes:
        store: The store. The launcher holds it, so it outlives every process.
        rank: The index of this process.
        num_ranks: How many processes there are.
    """

    store: Store
    rank: int
    num_ranks: int


# Empty for a single process, and if the user initialised the process group.
_meeting_places: list[MeetingPlace] = []


def meeting_place() -> MeetingPlace | None:
    """Return the store of the job, over a separate connection.

    Returns:
        The store, which remains usable after the process group is gone. `None` for a single process, before the
        processes have met, and if the user initialised the process group.
    """
    if not _meeting_places:
        return None
    place = _meeting_places[-1]
    return dataclasses.replace(place, store=place.store.clone())  # type: ignore[attr-defined] # torch's stubs lack it


def is_launched_as_main() -> bool:
    """Return whether this is rank 0, as the launcher says, or as the process group says if there is one."""
    if distributed.is_initialized():
        return distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"


def join_process_group(device: torch.device, timeout: dt.timedelta) -> None:
    """Initialise the process group of the job, unless it is initialised already.

    Args:
        device: Determines the backend. There is always a backend for tensors on the CPU as well.
        timeout: How long to wait for the other processes, now and in each later collective operation.

    Raises:
        ConfigurationError: If the existing process group has no backend for tensors on the CPU.
    """
    if distributed.is_initialized():
        _require_host_backend()
        return
    if num_launched() == 1:
        distributed.init_process_group(_backend(device), store=HashStore(), rank=0, world_size=1, timeout=timeout)
        return
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    # A restarted job gets the store of the failed attempt, which has the addresses of processes that no longer exist.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"attempt-{attempt}", store)
    _meeting_places.append(MeetingPlace(store=store, rank=rank, num_ranks=world_size))
    distributed.init_process_group(_backend(device), store=store, rank=rank, world_size=world_size, timeout=timeout)


def _set_timeout(group: ProcessGroup, timeout: dt.timedelta) -> None:
    """Set the timeout of each backend of a group."""
    for device in group._device_types:  # noqa: SLF001 -- torch has no public access to one backend
        backend = group._get_backend(device)  # noqa: SLF001
        is_on_host = device.type == "cpu" or backend.name() == "gloo"
        backend.set_timeout(timeout if is_on_host else timeout + _DEVICE_GRACE)


def _require_own_devices(device: torch.device) -> None:
    """Check that each process has a device of its own; all processes call this.

    Raises:
        ConfigurationError: On all processes, if two of them share one.
    """
    if distributed.get_backend() == _FAKE:
        return
    devices: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(devices, (str(device), identify(device)))
    ranks: dict[tuple[object, ...], int] = {}
    for rank, (name, identity) in enumerate(devices):
        if identity is not None and (other := ranks.setdefault(identity, rank)) != rank:
            raise ConfigurationError(
                f"ranks {other} and {rank} both use {name} of {identity[0]}, and each process needs a device of its "
                "own: start at most as many processes on a machine as it has devices, and set LOCAL_RANK to the "
                "number of the process on its machine if the launcher does not, as torchrun does"
            )


def _require_host_backend() -> None:
    backends = distributed.get_backend_config()
    if "cpu:" not in backends:
        raise ConfigurationError(
            f"the process group of this process has the backends {backends!r} and none for tensors on the CPU, which "
            f"the loops need: initialise it with backend='cpu:gloo,{backends}', or let DistributedContext initialise it"
        )


def _backend(device: torch.device) -> str:
    on_device = distributed.get_default_backend_for_device(device)
    return on_device if device.type == "cpu" else f"cpu:gloo,{device.type}:{on_device}"
