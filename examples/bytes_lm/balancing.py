"""Balances the load of the experts over all layers and processes, and reports it."""

import dataclasses
import math

import torch
from torch import distributed

from d9d import DistributedContext, MeshName
from experts import MixtureOfExperts


@dataclasses.dataclass(frozen=True)
class RoutingStatistics:
    """How each layer has distributed its tokens over its experts since the statistics were last taken.

    Attributes:
        shares: The share of all choices that went to each expert, float32 [num_layers, num_experts]; rows sum to 1.
        balance: The entropy of the shares, divided by that of an even distribution: 1 is even, 0 is all tokens to one
            expert; [num_layers].
    """

    shares: torch.Tensor
    balance: torch.Tensor


class LoadBalancer:
    """Moves the biases of the experts after each step, by the tokens of all processes, equally on all of them.

    Nothing here waits for the device.

    Args:
        layers: The layers of this process, by their index in the whole model; at least one.
        num_layers: How many there are in the whole model.
        rate: By how much each expert's bias moves in a step.
        dist_context: The processes of the job; all of them call this.
    """

    def __init__(
        self, layers: dict[int, MixtureOfExperts], *, num_layers: int, rate: float, dist_context: DistributedContext
    ) -> None:
        self._layers = layers
        self._rate = rate
        self._processes_with_other_tokens = _group(dist_context, "expert", "expert_replicate")
        self._processes_with_other_layers = _group(dist_context, "dense", "pipeline_parallel")
        num_experts = next(iter(layers.values())).num_experts
        self._counts = torch.zeros(num_layers, num_experts, device=dist_context.device)

    def step(self) -> None:
        """Update the biases from the token counts of the step."""
        step_counts = torch.stack([layer.step_counts for layer in self._layers.values()])
        # Processes that divide the experts exchange all tokens, so they have the same counts.
        if self._processes_with_other_tokens is not None:
            distributed.all_reduce(step_counts, group=self._processes_with_other_tokens)
        for (index, layer), num_tokens in zip(self._layers.items(), step_counts, strict=True):
            layer.balance_load(num_tokens, self._rate)
            self._counts[index] += num_tokens

    def take_statistics(self) -> RoutingStatistics:
        """Return the statistics of all layers since they were last taken; they stay on the device."""
        counts = self._counts.clone()
        self._counts.zero_()
        if self._processes_with_other_layers is not None:
            distributed.all_reduce(counts, group=self._processes_with_other_layers)
        shares = counts / counts.sum(1, keepdim=True)
        evenly_spread = math.log(counts.shape[1])
        return RoutingStatistics(shares=shares, balance=torch.special.entr(shares).sum(1) / evenly_spread)


def _group(dist_context: DistributedContext, mesh: MeshName, dimension: str) -> distributed.ProcessGroup | None:
    """Return the process group of a dimension of a mesh, or `None` if its size is 1."""
    if dist_context.mesh_parameters.shape_of(mesh)[dimension] == 1:
        return None
    return dist_context.mesh_for(mesh).get_group(dimension)
