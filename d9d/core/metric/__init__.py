"""Numbers that are gathered over steps and processes, and looked at now and then."""

from d9d.core.metric.max import MaxMetric
from d9d.core.metric.metric import Metric, MetricValue, Reduction
from d9d.core.metric.sum import SumMetric
from d9d.core.metric.weighted_mean import WeightedMeanMetric

__all__ = ["MaxMetric", "Metric", "MetricValue", "Reduction", "SumMetric", "WeightedMeanMetric"]
