"""What a metric is."""

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch

Reduction: TypeAlias = Literal["sum", "max", "min"]
"""How the shares of all processes become one, element by element."""

MetricValue: TypeAlias = float | Mapping[str, float] | None
"""One number, several by their names, or `None` where nothing was counted."""


@runtime_checkable
class Metric(Protocol):
    """A number, or several, gathered over steps and processes, and reported every few steps.

    Whoever has a metric updates it, on the device and without waiting for it; how is between the two. The loop asks for
    its share, resets it at once, and computes the value some steps later, when the shares of all processes have come
    together. No more than one flat tensor a process is exchanged.
    """

    @property
    def reduction(self) -> Reduction:
        """How the shares of all processes become one."""

    def share(self) -> torch.Tensor:
        """Return what this process has gathered since the last reset, without waiting for the device.

        Returns:
            A tensor `[number]` on the device, of one size at all times and on all processes; the loop copies it. After
            a reset it changes nothing about what others have gathered: zeros for a sum, for instance, since some
            processes of a pipeline gather nothing.
        """

    def compute(self, reduced: torch.Tensor, /) -> MetricValue:
        """Compute the value.

        Args:
            reduced: The shares of all processes, reduced: `[number]` on the host, in the widest floating-point format
                of the device.

        Returns:
            The value; `None` if there is none.
        """

    def reset(self) -> None:
        """Begin anew, without waiting for the device."""
