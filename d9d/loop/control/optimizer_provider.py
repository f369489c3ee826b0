"""How training comes by its optimizer."""

import dataclasses
from typing import Protocol

from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import OptimizerProtocol


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeOptimizerContext:
    """What an optimizer can be built from.

    Attributes:
        dist_context: The process and its device.
        model: The model, on its device, whose parameters shall be optimized.
    """

    dist_context: DistributedContext
    model: nn.Module


class OptimizerProvider(Protocol):
    """A function, or an object that is called like one, which brings the optimizer."""

    def __call__(self, ctx: InitializeOptimizerContext, /) -> OptimizerProtocol:
        """Build the optimizer."""
