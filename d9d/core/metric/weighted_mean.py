"""Weighted means."""

import torch

from d9d.core.metric.accumulation import accumulation_dtype, to_accumulate
from d9d.core.metric.metric import Reduction


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
