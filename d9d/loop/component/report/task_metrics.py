"""The metrics of a task, checked before anything is counted."""

import itertools
from collections.abc import Mapping, Sequence
from typing import get_args

from d9d.core.dist_context import DistributedContext
from d9d.core.metric import Metric, Reduction
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.report.report import RESERVED_NAMES
from d9d.loop.config import ConfigurationError
from d9d.loop.control import BaseTask, CreateMetricsContext


def create_task_metrics(task: BaseTask, dist_context: DistributedContext) -> dict[str, Metric]:
    """Have a task create its metrics, and refuse those that cannot be reported.

    Args:
        task: The task.
        dist_context: The processes that have to agree on them.

    Returns:
        The metrics, by their names.

    Raises:
        ConfigurationError: If the metrics, or their names, cannot be reported; on all processes alike.
    """
    metrics = task.create_metrics(CreateMetricsContext(dist_context=dist_context))
    problem = _problem(metrics)
    problems = filter(None, Ranks.of(dist_context).gather(problem))
    layouts = Ranks.of(dist_context).gather([] if problem else _layout(metrics))
    problem = next(problems, None) or _disagreement(layouts)
    if problem:
        raise ConfigurationError(f"{type(task).__qualname__}.create_metrics {problem}")
    return dict(metrics)


def _problem(metrics: object) -> str | None:
    if not isinstance(metrics, Mapping):
        return f"returned a {type(metrics).__qualname__}: return a mapping from names to metrics"
    problems = (_problem_of_name(name) or _problem_of_metric(name, metric) for name, metric in metrics.items())
    return next(filter(None, problems), None) or _ambiguity(list(metrics))


def _problem_of_name(name: object) -> str | None:
    if not isinstance(name, str) or not name:
        return f"names a metric {name!r}: use a string that is not empty"
    if name.split("/")[0] not in RESERVED_NAMES:
        return None
    taken = ", ".join(sorted(RESERVED_NAMES))
    return f"names a metric {name!r}, and the loop has that name already: use none of {taken}, alone or before a slash"


def _problem_of_metric(name: str, metric: object) -> str | None:
    if not isinstance(metric, Metric):
        return f"returned a {type(metric).__qualname__} as {name!r}: return a Metric, such as a SumMetric"
    if metric.reduction not in get_args(Reduction):
        return f"returned {name!r} with reduction={metric.reduction!r}: use one of {', '.join(get_args(Reduction))}"
    shape = list(metric.share().shape)
    return None if len(shape) == 1 else f"returned {name!r}, whose share has the shape {shape}: flatten it"


def _ambiguity(names: Sequence[str]) -> str | None:
    for shorter, longer in itertools.permutations(names, 2):
        if longer.startswith(f"{shorter}/"):
            return (
                f"names metrics {shorter!r} and {longer!r}, and {shorter!r} may have numbers of that name: rename one"
            )
    return None


def _layout(metrics: Mapping[str, Metric]) -> list[str]:
    """Describe what is exchanged, in its order."""
    return [f"{name} ({metric.reduction} of {len(metric.share())})" for name, metric in metrics.items()]


def _disagreement(layouts: Sequence[list[str]]) -> str | None:
    for rank, layout in enumerate(layouts):
        if layout != layouts[0]:
            return (
                f"returned {', '.join(layout) or 'nothing'} on rank {rank}, and {', '.join(layouts[0]) or 'nothing'} "
                "on rank 0: create the same metrics in one order on all ranks; those that have nothing to count there "
                "are left as they are"
            )
    return None
