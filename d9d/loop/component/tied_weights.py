"""Weights that stages of a pipeline share, such as an embedding that is also the output layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import OptimizerProtocol
from d9d.core.settings import ConfigurationError
from d9d.loop.component.checkpoint.sharded_state import unwrapped_name
from d9d.loop.component.model import ModelStage
from d9d.loop.component.ranks import Ranks


class TiedWeights:
    """Keeps weights equal that stages of a pipeline declare as tied.

    Each stage has a parameter of its own for a tied weight. All start with one value, and take the same steps, because
    each gets the sum of the gradients of all. The first of them counts as the weight: in the norm of the gradients, and
    in checkpoints and exports, under its name.

    Args:
        stages: The stages of this process.
        dist_context: The processes of the job; all of them create this.

    Raises:
        ConfigurationError: On all processes, if a declared weight does not exist, or differs from the other one in its
            shape, in how it is sharded, or in whether it requires a gradient.
    """

    def __init__(self, stages: Sequence[ModelStage], dist_context: DistributedContext) -> None:
        self._ranks = Ranks.of(dist_context)
        self._own = {
            unwrapped_name(name): parameter for stage in stages for name, parameter in stage.module.named_parameters()
        }
        declared = self._gather_declared(stages)
        place = dist_context.pipeline_rank
        described = {name: (place, _describe(self._own[name])) for name in declared if name in self._own}
        described |= {name: (place, _describe(self._own[name])) for name in declared.values() if name in self._own}
        self._places = {name: found for each in self._ranks.gather(described) for name, found in each.items()}
        self.names: Mapping[str, str] = declared
        """The name of each tied weight, with the name of the one that it equals."""
        self._require_equal_kinds()
        self._groups = self._make_groups(dist_context) if declared else {}

    @property
    def copies(self) -> frozenset[nn.Parameter]:
        """The parameters of this process that are not the first of their weight."""
        return frozenset(self._own[name] for name in self.names if name in self._own)

    @torch.no_grad()
    def copy_values(self) -> None:
        """Give all parameters of a tied weight the value of the first one; all processes call this."""
        for name, (group, sources) in self._groups.items():
            first, *others = self._locals(name)
            if group is not None:
                distributed.broadcast(first, group=group, group_src=sources.index(self._places[name][0]))
            for other in others:
                other.copy_(first)

    @torch.no_grad()
    def sum_gradients(self) -> None:
        """Give all parameters of a tied weight the sum of their gradients, after the last backward pass of a step.

        The host does not wait for the device. All processes call this.
        """
        for name, (group, _) in self._groups.items():
            parameters = self._parameters(name)
            if not parameters[0].requires_grad:
                continue
            first, *others = [_local_gradient(parameter) for parameter in parameters]
            for other in others:
                first += other
            if group is not None:
                distributed.all_reduce(first, group=group)
            for other in others:
                other.copy_(first)

    def require_same_steps(self, optimizer: OptimizerProtocol) -> None:
        """Check that the optimizer treats all parameters of a tied weight alike; all processes call this.

        Args:
            optimizer: The optimizer; one that is not torch's is not checked.

        Raises:
            ConfigurationError: On all processes, if its groups give them different settings.
        """
        if not self.names:
            return
        settings: dict[str, Any] = {}
        if isinstance(optimizer, torch.optim.Optimizer):
            names = {parameter: name for name, parameter in self._own.items() if name in self._places}
            for group in optimizer.param_groups:
                options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
                settings |= {names[each]: repr(options) for each in group["params"] if each in names}
        found = {name: options for each in self._ranks.gather(settings) for name, options in each.items()}
        for name, other in self.names.items():
            if found.get(name) != found.get(other):
                raise ConfigurationError(
                    f"the optimizer has different settings for {name!r} and {other!r}, which are tied and must take "
                    f"the same steps: {found.get(name)} and {found.get(other)}. Give them equal settings"
                )

    def _gather_declared(self, stages: Sequence[ModelStage]) -> dict[str, str]:
        """Return the weights that are tied across stages, as all processes have declared them."""
        of_ranks = self._ranks.gather(([*self._own], [dict(stage.tied) for stage in stages]))
        known = {name for names, _ in of_ranks for name in names}
        declared: dict[str, str] = {}
        for name, other in (pair for _, ties in of_ranks for tie in ties for pair in tie.items()):
            if declared.setdefault(name, other) != other or other in declared:
                raise ConfigurationError(
                    f"stages declare {name!r} as tied to {other!r} and to {declared.get(other, declared[name])!r}: "
                    "return the same tied_weights from all stages, with one weight that all others are tied to"
                )
        for name in {*declared, *declared.values()} - known:
            raise ConfigurationError(
                f"tied_weights names {name!r}, which is a parameter of no stage: name weights as in the whole model"
            )
        return declared

    def _require_equal_kinds(self) -> None:
        for name, other in self.names.items():
            (_, own), (_, first) = self._places[name], self._places[other]
            if own != first:
                raise ConfigurationError(
                    f"tied_weights ties {name!r} to {other!r}, but one is {own} and the other {first}: give both the "
                    "same shape, dtype, sharding and requires_grad"
                )

    def _make_groups(
        self, dist_context: DistributedContext
    ) -> dict[str, tuple[distributed.ProcessGroup | None, list[int]]]:
        """Return the processes that hold each tied weight, with their places in the pipeline; all call this."""
        rows = dist_context.mesh_for("dense").mesh.flatten(1).T.tolist()
        groups: dict[str, tuple[distributed.ProcessGroup | None, list[int]]] = {}
        made: dict[tuple[int, ...], distributed.ProcessGroup | None] = {}
        for first in dict.fromkeys(self.names.values()):
            tied = [first, *(name for name, other in self.names.items() if other == first)]
            places = sorted({self._places[name][0] for name in tied})
            key = tuple(places)
            if key not in made:
                made[key] = None
                for row in rows if len(places) > 1 else []:
                    members = [row[place] for place in places]
                    group = distributed.new_group(members)
                    if dist_context.rank in members:
                        made[key] = group
            if any(name in self._own for name in tied):
                groups[first] = (made[key], places)
        return groups

    def _parameters(self, first: str) -> list[nn.Parameter]:
        """Return the parameters of this process for a tied weight, the first one of all of them first."""
        names = [first, *(name for name, other in self.names.items() if other == first)]
        return [self._own[name] for name in names if name in self._own]

    def _locals(self, first: str) -> list[torch.Tensor]:
        return [_local(parameter) for parameter in self._parameters(first)]


def _describe(parameter: nn.Parameter) -> str:
    placements = f" sharded as {parameter.placements}" if isinstance(parameter, DTensor) else ""
    gradient = "" if parameter.requires_grad else ", frozen"
    return f"{str(parameter.dtype).removeprefix('torch.')}{list(parameter.shape)}{placements}{gradient}"


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _local_gradient(parameter: nn.Parameter) -> torch.Tensor:
    """Return the local part of a gradient; one that is missing, as without a backward pass, becomes zero."""
    gradient = parameter.grad
    if gradient is None:
        gradient = torch.zeros_like(parameter, dtype=parameter.grad_dtype or parameter.dtype)
    elif isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
        gradient = gradient.redistribute(placements=parameter.placements)
    parameter.grad = gradient
    return _local(gradient)
