"""A metric accumulates a number over steps and processes."""

import functools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d9d.core.metric import MaxMetric, Metric, MetricValue, SumMetric, WeightedMeanMetric

CPU = torch.device("cpu")
COMBINE: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"sum": torch.add, "max": torch.maximum}
# Halves of small integers, whose sums are exact in any order.
VALUES = st.lists(st.integers(-(2**20), 2**20).map(lambda number: number / 2))


def combined(metrics: Sequence[Metric]) -> MetricValue:
    """Compute the value from the metrics of several processes."""
    shares = [metric.share() for metric in metrics]
    return metrics[0].compute(functools.reduce(COMBINE[metrics[0].reduction], shares))


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_sum_includes_all_processes(parts: list[list[float]]) -> None:
    """However the values are divided among them."""
    metrics = [SumMetric(CPU) for _ in parts]
    for metric, values in zip(metrics, parts, strict=True):
        metric.update(torch.tensor(values))

    assert combined(metrics) == sum(sum(values) for values in parts)


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_weighted_mean_includes_all_processes(parts: list[list[float]]) -> None:
    """Each value has a weight, here its magnitude; a process without values changes nothing."""
    metrics = [WeightedMeanMetric(CPU) for _ in parts]
    for metric, values in zip(metrics, parts, strict=True):
        metric.update(torch.tensor(values), torch.tensor(values).abs())
    flat = [value for values in parts for value in values]
    weight = sum(abs(value) for value in flat)
    expected = sum(value * abs(value) for value in flat) / weight if weight else None

    assert combined(metrics) == expected


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_maximum_includes_all_processes(parts: list[list[float]]) -> None:
    """A process without values changes nothing."""
    metrics = [MaxMetric(CPU) for _ in parts]
    for metric, values in zip(metrics, parts, strict=True):
        metric.update(torch.tensor(values))

    assert combined(metrics) == max((value for values in parts for value in values), default=None)


def test_python_numbers_and_tensors_of_any_dtype_are_accepted() -> None:
    """Integers, booleans and bfloat16, for example."""
    total, mean, largest = SumMetric(CPU), WeightedMeanMetric(CPU), MaxMetric(CPU)
    for value in (1, torch.tensor([True, False, True]), torch.tensor(2.5, dtype=torch.bfloat16)):
        total.update(value)
        largest.update(value)
    mean.update(1.0, 3.0)
    mean.update(torch.tensor([2.0, 3.0]), 0.5)

    assert combined([total]) == 5.5
    assert combined([largest]) == 2.5
    assert combined([mean]) == (3.0 + 2.5) / 4.0


def test_a_value_of_weight_zero_is_ignored() -> None:
    """Even if it is NaN, like the mean over no tokens."""
    mean = WeightedMeanMetric(CPU)
    mean.update(math.nan, 0.0)

    assert combined([mean]) is None
    mean.update(torch.tensor([math.nan, 7.0]), torch.tensor([0, 2]))
    assert combined([mean]) == 7.0


def test_a_nan_with_a_weight_is_reported() -> None:
    """It is not silently dropped."""
    mean = WeightedMeanMetric(CPU)
    mean.update(torch.tensor([math.nan, 7.0]))
    value = combined([mean])

    assert isinstance(value, float)
    assert math.isnan(value)


def test_counts_do_not_drift() -> None:
    """In float32, 2^24 + 1 is 2^24."""
    total = SumMetric(CPU)
    total.update(2.0**24)
    for _ in range(3):
        total.update(torch.ones((), dtype=torch.float32))

    assert combined([total]) == 2**24 + 3


@pytest.mark.parametrize("kind", [SumMetric, WeightedMeanMetric, MaxMetric])
def test_a_reset_metric_equals_a_new_one(kind: type[SumMetric | WeightedMeanMetric | MaxMetric]) -> None:
    """Its share is the same."""
    metric, fresh = kind(CPU), kind(CPU)
    metric.update(3.0)
    metric.reset()

    assert torch.equal(metric.share(), fresh.share())


@pytest.mark.parametrize("kind", [SumMetric, WeightedMeanMetric, MaxMetric])
def test_metrics_keep_no_graph_and_work_in_inference_mode(
    kind: type[SumMetric | WeightedMeanMetric | MaxMetric],
) -> None:
    """They may be updated inside and outside of it."""
    metric = kind(CPU)
    metric.update(torch.ones(2, requires_grad=True) * 2)
    with torch.inference_mode():
        metric.update(torch.ones(2))
        metric.reset()
        metric.update(torch.ones(2))
    metric.update(torch.ones(2))

    assert not metric.share().requires_grad
    assert isinstance(metric, Metric)
