"""The parts of a training run, before it is put together."""

import dataclasses
from typing import TYPE_CHECKING

from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.core.stepper import Stepper
from d9d.loop.component.data.data_loader import TrainingData
from d9d.loop.component.model.model_builder import ModelStage
from d9d.loop.component.profiler import Profiler
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.report.reporter import Reporter
from d9d.loop.event import EventBus

if TYPE_CHECKING:
    from d9d.loop.component.checkpoint.source_checkpoint import WeightSource


@dataclasses.dataclass(kw_only=True, frozen=True)
class TrainingParts:
    """What a trainer is made of, once all events of its configuration have been triggered."""

    event_bus: EventBus
    dist_context: DistributedContext
    random_state: RandomState
    stepper: Stepper
    reporter: Reporter
    data: TrainingData
    profiler: Profiler
    source: "WeightSource | None"
    stages: list[ModelStage]
    optimizer: OptimizerProtocol
    lr_scheduler: LRSchedulerProtocol

    @property
    def modules(self) -> list[nn.Module]:
        """The stages of the model that this process holds, in pipeline order."""
        return [stage.module for stage in self.stages]
