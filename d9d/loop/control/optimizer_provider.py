"""How training comes by its optimizer."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import OptimizerProtocol


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeOptimizerContext:
    """What an optimizer can be built from.

    Attributes:
        dist_context: The process and its device.
        modules: The stages of the model that this process holds, on its device, in the order of the pipeline; one,
            the whole model, where there is no pipeline.
    """

    dist_context: DistributedContext
    modules: list[nn.Module]

    @property
    def holds_whole_model(self) -> bool:
        """Whether all parameters of the model are here, be it in part: true unless there is a pipeline."""
        return self.dist_context.mesh_parameters.pipeline_parallel == 1

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the parameters of all stages, frozen ones too, each once and with its name.

        Returns:
            Names, as `nn.Module.named_parameters` has them, and parameters. One that several modules share comes once,
            under its first name.

        Raises:
            ValueError: If one name stands for different parameters in two of the stages.
        """
        seen: dict[str, nn.Parameter] = {}
        identities: set[int] = set()
        for index, module in enumerate(self.modules):
            for name, parameter in module.named_parameters():
                if seen.setdefault(name, parameter) is not parameter:
                    raise ValueError(
                        f"two stages of this process have a parameter named {name!r}, the later of them "
                        f"modules[{index}]: give each layer the name that it has in the whole model, for example by "
                        "keeping the layers of a stage in an nn.ModuleDict under their numbers"
                    )
                if id(parameter) not in identities:
                    identities.add(id(parameter))
                    yield name, parameter

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters of all stages, frozen ones too, each once.

        Returns:
            The parameters, in the order of `named_parameters`.

        Raises:
            ValueError: As `named_parameters`.
        """
        return (parameter for _, parameter in self.named_parameters())


class OptimizerProvider(Protocol):
    """A function, or an object that is called like one, which brings the optimizer."""

    def __call__(self, ctx: InitializeOptimizerContext, /) -> OptimizerProtocol:
        """Build the optimizer."""
