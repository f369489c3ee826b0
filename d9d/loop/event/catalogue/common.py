# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue fdc0a52667e78533, body 5a13cb2ccd020701
"""Contexts shared by the training and the inference loop."""

import dataclasses
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
from d9d.core.stepper import (
    Stepper,
)

__all__ = [
    "EventConfigurationStartedContext",
    "EventDataLoaderReadyContext",
    "EventModelStagesReadyContext",
    "EventStepContext",
]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventConfigurationStartedContext:
    """Context of the event at the start of a loop's configuration.

    Attributes:
        dist_context: The processes of the job and the device of this one, already initialised.
    """

    dist_context: DistributedContext


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
    """

    stepper: Stepper
