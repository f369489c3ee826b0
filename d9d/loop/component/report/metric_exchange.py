"""The metrics of all processes, brought together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import torch
from torch import distributed
from torch.distributed import ProcessGroup, Work

from d9d.core.dist_context import DistributedContext
from d9d.core.metric import Metric, Reduction
from d9d.core.metric.accumulation import accumulation_dtype

_OPERATIONS = {
    "sum": distributed.ReduceOp.SUM,
    "max": distributed.ReduceOp.MAX,
    "min": distributed.ReduceOp.MIN,
}


class MetricExchange:
    """Reduces all metrics of a task over all that count, with one collective operation for each kind of reduction.

    Args:
        metrics: The metrics, by their names, the same on all processes.
        dist_context: The processes.
    """

    def __init__(self, metrics: Mapping[str, Metric], dist_context: DistributedContext) -> None:
        self._dtype = accumulation_dtype(dist_context.device)
        self._group: ProcessGroup | None = None
        if dist_context.world_size > 1:
            self._group = dist_context.mesh_for("loss").get_group("loss")
        by_kind = {
            kind: {name: metric for name, metric in metrics.items() if metric.reduction == kind}
            for kind in get_args(Reduction)
        }
        # All processes have the same kinds, and exchange them in the same order.
        self._by_kind = {kind: chosen for kind, chosen in by_kind.items() if chosen}
        self._sizes = {name: len(metric.share()) for name, metric in metrics.items()}

    def begin(self) -> tuple[list[torch.Tensor], list[Work]]:
        """Take the share of each metric, reset it, and begin to reduce.

        Returns:
            A flat tensor for each kind of reduction, and the operations that complete them.

        Raises:
            ValueError: If the share of a metric has changed its size.
        """
        packs, works = [], []
        for kind, metrics in self._by_kind.items():
            pack = torch.cat([self._share(name, metric).to(self._dtype) for name, metric in metrics.items()])
            for metric in metrics.values():
                metric.reset()
            packs.append(pack)
            if self._group is not None:
                work = distributed.all_reduce(pack, _OPERATIONS[kind], self._group, async_op=True)
                works.append(work)
        return packs, works

    def numbers(self, packs: Sequence[torch.Tensor]) -> Iterator[tuple[str, float]]:
        """Compute the values.

        Args:
            packs: What `begin` returned, complete and on the host.

        Yields:
            The name and the value of each number.
        """
        for metrics, pack in zip(self._by_kind.values(), packs, strict=True):
            shares = torch.split(pack, [self._sizes[name] for name in metrics])
            for (name, metric), reduced in zip(metrics.items(), shares, strict=True):
                value = metric.compute(reduced)
                if isinstance(value, Mapping):
                    yield from ((f"{name}/{key}", float(number)) for key, number in value.items())
                elif value is not None:
                    yield name, float(value)

    def _share(self, name: str, metric: Metric) -> torch.Tensor:
        share = metric.share()
        if share.shape != (self._sizes[name],):
            raise ValueError(
                f"the share of metric {name!r} has the shape {list(share.shape)}, and had [{self._sizes[name]}] at "
                "first: make it one flat tensor of one size at all times"
            )
        return share
