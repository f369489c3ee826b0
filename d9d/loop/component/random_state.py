"""The random number generators that user code draws from."""

import importlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from d9d.core.device import has_own_generator


class RandomState:
    """Seeds the global generators of torch, of the device, of Python and of numpy, and carries them over a restart.

    Args:
        device: The device whose generator counts beside that of the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def seed(self, seed: int) -> None:
        """Begin all random streams anew.

        Args:
            seed: Where they begin.
        """
        torch.manual_seed(seed)
        random.seed(seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(seed % 2**32)

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Make the context after which all streams are where they were before it."""
        state = self.state_dict()
        yield
        self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Return the positions of all streams; numpy's only where the process has imported numpy."""
        version, internal, gauss_next = random.getstate()
        state: dict[str, Any] = {
            "torch": torch.get_rng_state(),
            "python": {"version": version, "internal": torch.tensor(internal), "gauss_next": gauss_next},
        }
        if has_own_generator(self._device):
            state["device"] = torch.get_device_module(self._device).get_rng_state()
        if "numpy" in sys.modules:
            name, key, *rest = sys.modules["numpy"].random.get_state()
            state["numpy"] = {"name": name, "key": torch.tensor(key.tolist()), "rest": rest}
        return state

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Put all streams back to where they were.

        Args:
            state_dict: What `state_dict` returned, on a device of the same type.
        """
        torch.set_rng_state(state_dict["torch"])
        python = state_dict["python"]
        random.setstate((python["version"], tuple(python["internal"].tolist()), python["gauss_next"]))
        if "device" in state_dict and has_own_generator(self._device):
            torch.get_device_module(self._device).set_rng_state(state_dict["device"])
        if "numpy" in state_dict:
            numpy = state_dict["numpy"]
            importlib.import_module("numpy").random.set_state((numpy["name"], numpy["key"].tolist(), *numpy["rest"]))
