# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue 26e10622b79a5c48, body e580f8a5512e1e02
"""Contexts shared by the training and the inference loop."""

import dataclasses
from collections.abc import (
    Mapping,
)
from pathlib import (
    Path,
)
from typing import (
    Any,
)

from torch.nn import (
    Module,
)
from torch.utils.data import (
    DataLoader,
)

from d9d.core.dist_context import (
    DistributedContext,
)
from d9d.core.loop_control import (
    LoopControl,
)
from d9d.core.report import (
    Report,
)
from d9d.core.stepper import (
    Stepper,
)

__all__ = [
    "EventCheckpointContext",
    "EventConfigurationStartedContext",
    "EventDataLoaderReadyContext",
    "EventModelStagesReadyContext",
    "EventReportReadyContext",
    "EventStepContext",
]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventConfigurationStartedContext:
    """Context of the event at the start of a loop's configuration.

    Attributes:
        dist_context: The processes of the job and the device of this one, already initialised.
        settings: The whole configuration of the run, ready for JSON, as a tracker records it.
    """

    dist_context: DistributedContext
    settings: Mapping[str, Any]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventDataLoaderReadyContext:
    """Context of the event after the data loader is built.

    Attributes:
        data_loader: The data loader from which the loop will read its micro-batches.
    """

    data_loader: DataLoader[Any]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventModelStagesReadyContext:
    """Context of the event after the model stages are built and parallelised.

    Attributes:
        modules: The model stages of this process, in pipeline order. Without a pipeline it is one, the whole model.
    """

    modules: list[Module]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventStepContext:
    """Context of the events within a step.

    Attributes:
        stepper: The index of the current step and the total number of steps.
        control: Asks the loop to stop, save or evaluate.
    """

    stepper: Stepper
    control: LoopControl


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventReportReadyContext:
    """Context of the event at which the numbers of a report have reached the host.

    Attributes:
        stepper: The index of the current step and the total number of steps.
        control: Asks the loop to stop, save or evaluate.
        report: The step that it describes, the time, and the numbers by name. They are the same on every process, but
            for the time and the speeds, `steps_per_second` and `samples_per_second`, which each process measures
            itself.
    """

    stepper: Stepper
    control: LoopControl
    report: Report


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventCheckpointContext:
    """Context of the events of a checkpoint.

    Attributes:
        stepper: The index of the current step and the total number of steps.
        step: How many steps were complete in the state that the checkpoint holds.
        path: The folder of the checkpoint.
    """

    stepper: Stepper
    step: int
    path: Path
