"""Largest values."""

import math

import torch

from d9d.core.metric.accumulation import accumulation_dtype, to_accumulate
from d9d.core.metric.metric import Reduction


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
