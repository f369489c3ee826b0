"""The global random number generators, which user code draws from, also through random operations on a `DTensor`."""

import importlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.tensor import _random as dtensor_random

from d9d.core.device import has_own_generator
from d9d.core.dist_context import DistributedContext


def prepare_distributed_operations(dist_context: DistributedContext, seed: int) -> None:
    """Let random operations on a `DTensor` use the generator of each process as it is.

    Otherwise torch would replace it by that of rank 0 in the first such operation, in a broadcast over all processes.
    Processes that hold other samples would then draw the same numbers, and a pipeline in which only some stages have
    such an operation would hang. Seed the generators after this.

    Args:
        dist_context: The processes of the job.
        seed: The seed of the job.
    """
    if dist_context.world_size > 1 and has_own_generator(dist_context.device):
        # torch's documentation names this function, though it has no public module.
        dtensor_random.manual_seed(seed, dist_context.mesh_for("dense"))


class RandomState:
    """The state of the generators of torch, of a device, of Python and of numpy.

    Args:
        device: The device whose generator is included.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._has_device_generator = has_own_generator(device)

    def seed(self, seed: int) -> None:
        """Seed all generators.

        Args:
            seed: The seed, of up to 63 bits; numpy gets the lowest 32.
        """
        torch.manual_seed(seed)
        random.seed(seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(seed % 2**32)

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Make a context that restores all generators at its end, also after an error."""
        state = self.state_dict()
        try:
            yield
        finally:
            self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all generators; that of numpy only if the process has imported numpy."""
        version, internal, gauss_next = random.getstate()
        state: dict[str, Any] = {
            "torch": torch.get_rng_state(),
            "python": {"version": version, "internal": torch.tensor(internal), "gauss_next": gauss_next},
        }
        if self._has_device_generator:
            state["device"] = torch.get_device_module(self._device).get_rng_state()
        if "numpy" in sys.modules:
            name, key, *rest = sys.modules["numpy"].random.get_state()
            state["numpy"] = {"name": name, "key": torch.tensor(key.tolist()), "rest": rest}
        return state

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore all generators.

        Args:
            state_dict: What `state_dict` returned. The state of a device is skipped on a device without a generator.
        """
        torch.set_rng_state(state_dict["torch"])
        python = state_dict["python"]
        random.setstate((python["version"], tuple(python["internal"].tolist()), python["gauss_next"]))
        if "device" in state_dict and self._has_device_generator:
            torch.get_device_module(self._device).set_rng_state(state_dict["device"])
        if "numpy" in state_dict:
            numpy = state_dict["numpy"]
            importlib.import_module("numpy").random.set_state((numpy["name"], numpy["key"].tolist(), *numpy["rest"]))
