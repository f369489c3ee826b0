"""Sums."""

import torch

from d9d.core.metric.accumulation import accumulation_dtype, to_accumulate
from d9d.core.metric.metric import Reduction


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
