"""Metrics: numbers that are accumulated on the device and reduced over all processes of a job."""

import math
from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch

__all__ = ["MaxMetric", "Metric", "MetricValue", "Reduction", "SumMetric", "WeightedMeanMetric"]


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return the widest floating-point format of a device, in which counts are exact and sums do not drift.

    Args:
        device: Where the sum is kept.

    Returns:
        64 bits wherever the device has them; Apple's has 32, with which counts are exact up to 2^24.
    """
    return torch.float32 if device.type == "mps" else torch.float64


def to_accumulate(number: torch.Tensor | float, total: torch.Tensor) -> torch.Tensor:
    """Bring numbers into the format and onto the device of what they are added to, without waiting for the device.

    Args:
        number: A tensor of any shape, or a number of the host.
        total: What they are added to.

    Returns:
        The numbers, outside of any graph of gradients.
    """
    if isinstance(number, torch.Tensor):
        return number.detach().to(total.device, total.dtype)
    # Filling takes the number along with the kernel; copying it from the host would wait.
    return torch.full((), number, dtype=total.dtype, device=total.device)


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


class MaxMetric:
    """Keeps the largest of something, such as the length of a text, over all steps and processes since the last report.

    Args:
        device: Where it is kept.
    """

    reduction: Reduction = "max"

    def __init__(self, device: torch.device) -> None:
        self._largest = torch.full((1,), -math.inf, dtype=accumulation_dtype(device), device=device)

    def update(self, value: torch.Tensor | float) -> None:
        """Look at values.

        Args:
            value: A number, or a tensor of any shape.
        """
        values = to_accumulate(value, self._largest)
        self._largest.copy_(torch.cat([self._largest, values.flatten()]).max())

    def share(self) -> torch.Tensor:  # noqa: D102 -- inherited
        return self._largest

    def compute(self, reduced: torch.Tensor, /) -> float | None:  # noqa: D102 -- inherited
        largest = reduced.item()
        return None if largest == -math.inf else largest

    def reset(self) -> None:  # noqa: D102 -- inherited
        self._largest.fill_(-math.inf)


class SumMetric:
    """Counts something, such as tokens, over all steps and processes since the last report.

    Args:
        device: Where the sum is kept.
    """

    reduction: Reduction = "sum"

    def __init__(self, device: torch.device) -> None:
        self._total = torch.zeros(1, dtype=accumulation_dtype(device), device=device)

    def update(self, value: torch.Tensor | float) -> None:
        """Add to the sum.

        Args:
            value: A number, or a tensor of any shape, all elements of which are added.
        """
        self._total += to_accumulate(value, self._total).sum()

    def share(self) -> torch.Tensor:  # noqa: D102 -- inherited
        return self._total

    def compute(self, reduced: torch.Tensor, /) -> float:  # noqa: D102 -- inherited
        return reduced.item()

    def reset(self) -> None:  # noqa: D102 -- inherited
        self._total.zero_()


class WeightedMeanMetric:
    """Averages something, such as the accuracy over tokens, over all steps and processes since the last report.

    With values `v_i` and weights `w_i`, wherever they were counted, it is `sum(w_i * v_i) / sum(w_i)`.

    Args:
        device: Where the sums are kept.
    """

    reduction: Reduction = "sum"

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, dtype=accumulation_dtype(device), device=device)

    def update(self, value: torch.Tensor | float, weight: torch.Tensor | float = 1.0) -> None:
        """Count values.

        Args:
            value: A number, or a tensor of any shape, each element of which counts.
            weight: How much each counts, in a shape that can be broadcast with that of the values. What has no weight
                counts for nothing, even if it is NaN, as a mean over no token is.
        """
        values, weights = to_accumulate(value, self._sums), to_accumulate(weight, self._sums)
        weighted = torch.where(weights == 0, 0.0, values) * weights
        self._sums += torch.stack([weighted.sum(), weights.expand_as(weighted).sum()])

    def share(self) -> torch.Tensor:  # noqa: D102 -- inherited
        return self._sums

    def compute(self, reduced: torch.Tensor, /) -> float | None:  # noqa: D102 -- inherited
        weighted_sum, weight_sum = reduced.tolist()
        return weighted_sum / weight_sum if weight_sum else None

    def reset(self) -> None:  # noqa: D102 -- inherited
        self._sums.zero_()
