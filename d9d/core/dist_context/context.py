"""The processes that run a job together, and the device of this one."""

import dataclasses
import os
from typing import Self

import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """Where a job runs: one process, on one device.

    Attributes:
        device: The device that the model and the batches of this process live on.
        rank: The index of this process, from 0.
        world_size: How many processes run the job.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @classmethod
    def start(cls, device: str | None = None) -> Self:
        """Join this process to its job.

        Args:
            device: The device to run on, such as `cpu` or `cuda:1`; by default the accelerator where there is one, and
                the CPU elsewhere.

        Returns:
            The context of this process.

        Raises:
            RuntimeError: If a launcher started several processes, which would write each other's checkpoints, or if
                this machine has no such device.
        """
        world_size = os.environ.get("WORLD_SIZE", "1")
        if world_size != "1":
            raise RuntimeError(
                f"WORLD_SIZE is {world_size}, and the loops run in one process: start the script with `python`, "
                "or with `torchrun --nproc-per-node 1`"
            )
        chosen = _default_device() if device is None else _checked_device(device)
        if chosen.type == str(torch.accelerator.current_accelerator()):
            # Whatever names no index, such as a stream or a random number generator, means this one.
            torch.accelerator.set_device_index(chosen)
        return cls(device=chosen)

    @property
    def is_main_process(self) -> bool:
        """Whether this is the one process that writes files and speaks to people."""
        return self.rank == 0


def _default_device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, torch.accelerator.current_device_index())


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.empty(0, device=name).device
    except Exception as error:
        raise RuntimeError(f"device={name!r} cannot be used on this machine: {error}") from error
    return device
