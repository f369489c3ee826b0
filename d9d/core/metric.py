"""Metrics: numbers that are accumulated on the device and reduced over all processes of a job."""

import math
from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch

__all__ = ["MaxMetric", "Metric", "MetricValue", "Reduction", "SumMetric", "WeightedMeanMetric"]


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return the widest floating-point dtype of a device, so that counts stay exact and sums do not drift.

    Args:
        device: Where the sum is kept.

    Returns:
        `float64`, or `float32` on `mps`, which has no wider one; counts are exact up to 2^24 there.
    """
    return torch.float32 if device.type == "mps" else torch.float64


def to_accumulate(number: torch.Tensor | float, total: torch.Tensor) -> torch.Tensor:
    """Convert numbers to the dtype and device of a sum, without synchronising with the device.

    Args:
        number: A tensor of any shape, or a Python number.
        total: The sum that they will be added to.

    Returns:
        The numbers, detached from the autograd graph.
    """
    if isinstance(number, torch.Tensor):
        return number.detach().to(total.device, total.dtype)
    # `full` passes the number as a kernel argument. `as_tensor` would copy it from the host, and synchronise.
    return torch.full((), number, dtype=total.dtype, device=total.device)


Reduction: TypeAlias = Literal["sum", "max", "min"]
"""How the values of all processes are reduced to one, element by element."""

MetricValue: TypeAlias = float | Mapping[str, float] | None
"""One number, several by name, or `None` if nothing was counted."""


@runtime_checkable
class Metric(Protocol):
    """A number, or several, accumulated over steps and processes and reported every few steps.

    The task that owns a metric updates it, on the device and without synchronising; the protocol does not say how. The
    loop takes the share of this process, resets the metric at once, and computes the value some steps later, when the
    shares of all processes have been reduced. Each process contributes one flat tensor.
    """

    @property
    def reduction(self) -> Reduction:
        """How the shares of all processes are reduced to one."""

    def share(self) -> torch.Tensor:
        """Return what this process has accumulated since the last reset, without synchronising with the device.

        Returns:
            A tensor `[number]` on the device, always of the same size on all processes; the loop copies it. After a
            reset it must be the neutral element of the reduction, such as zeros for a sum, because in a pipeline some
            processes accumulate nothing.
        """

    def compute(self, reduced: torch.Tensor, /) -> MetricValue:
        """Compute the value.

        Args:
            reduced: The reduced shares of all processes: `[number]` on the host, in the widest floating-point dtype of
                the device.

        Returns:
            The value; `None` if nothing was counted.
        """

    def reset(self) -> None:
        """Start over, without synchronising with the device."""


class MaxMetric:
    """The largest value, such as the longest sequence, over all steps and processes since the last report.

    Args:
        device: Where it is kept.
    """

    reduction: Reduction = "max"

    def __init__(self, device: torch.device) -> None:
        self._largest = torch.full((1,), -math.inf, dtype=accumulation_dtype(device), device=device)

    def update(self, value: torch.Tensor | float) -> None:
        """Take values into account.

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
    """A sum, such as the number of tokens, over all steps and processes since the last report.

    Args:
        device: Where the sum is kept.
    """

    reduction: Reduction = "sum"

    def __init__(self, device: torch.device) -> None:
        self._total = torch.zeros(1, dtype=accumulation_dtype(device), device=device)

    def update(self, value: torch.Tensor | float) -> None:
        """Add to the sum.

        Args:
            value: A number, or a tensor of any shape, whose elements are all added.
        """
        self._total += to_accumulate(value, self._total).sum()

    def share(self) -> torch.Tensor:  # noqa: D102 -- inherited
        return self._total

    def compute(self, reduced: torch.Tensor, /) -> float:  # noqa: D102 -- inherited
        return reduced.item()

    def reset(self) -> None:  # noqa: D102 -- inherited
        self._total.zero_()


class WeightedMeanMetric:
    """A weighted mean, such as the accuracy over tokens, over all steps and processes since the last report.

    With values `v_i` and weights `w_i` from all of them, it is `sum(w_i * v_i) / sum(w_i)`.

    Args:
        device: Where the sums are kept.
    """

    reduction: Reduction = "sum"

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, dtype=accumulation_dtype(device), device=device)

    def update(self, value: torch.Tensor | float, weight: torch.Tensor | float = 1.0) -> None:
        """Take values into account.

        Args:
            value: A number, or a tensor of any shape.
            weight: The weight of each value, in a shape that can be broadcast with that of the values. A value of
                weight zero is ignored even if it is NaN, like a mean over no tokens.
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
