# Generated from catalogue.yaml by `d9d-catalogue generate`; edit the catalogue, not this file.
# Digests: catalogue d36c1b073473286e, body 7a744de5ec9aea0d
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
    """Context of the moment at which a loop begins to configure itself.

    Attributes:
        dist_context: The distributed execution context, already initialised.
    """

    dist_context: DistributedContext


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventDataLoaderReadyContext:
    """Context of the moment at which the data loader is fully initialised.

    Attributes:
        data_loader: The data loader that the loop will read its batches from.
    """

    data_loader: DataLoader[Any]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventModelStagesReadyContext:
    """Context of the moment at which the model stages are initialised and parallelised.

    Attributes:
        modules: The model stages that this process holds, in pipeline order.
    """

    modules: list[Module]


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class EventStepContext:
    """Context of a moment within one step of a loop.

    Attributes:
        stepper: Knows the index of the current step and the total number of steps.
    """

    stepper: Stepper
