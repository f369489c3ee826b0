"""The mixture of experts: the router, the experts, and the exchange of tokens between processes."""

import dataclasses

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.nn import functional

from d9d import DistributedContext, shard_experts
from layers import INITIAL_STD, Projection


class Experts(nn.Module):
    """SwiGLU experts with stacked matrices (Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202).

    Rows are multiplied in groups whose bounds stay on the device, so nothing waits for it. Accelerators have this
    grouped product for bfloat16 only, so the experts compute in bfloat16 there.

    Args:
        width: How many features a token has.
        hidden_width: The number of hidden features of an expert.
        num_experts: How many experts there are.
        output_std: The standard deviation of the initial values of the output matrices.
    """

    def __init__(self, *, width: int, hidden_width: int, num_experts: int, output_std: float) -> None:
        super().__init__()
        self.output_std = output_std
        self.gate_and_up = nn.Parameter(torch.empty(num_experts, width, 2 * hidden_width))
        self.down = nn.Parameter(torch.empty(num_experts, hidden_width, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all matrices."""
        nn.init.normal_(self.gate_and_up, std=INITIAL_STD)
        nn.init.normal_(self.down, std=self.output_std)

    def forward(self, rows: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        """Apply the experts of this process to their rows.

        Args:
            rows: Float [num_rows, width], sorted by expert.
            bounds: Where the rows of each expert of this process end, int32 [num_own_experts]. The rows after the last
                bound are for experts of other processes.

        Returns:
            The outputs, of the same shape, with zeros in the rows of other processes.
        """
        if not isinstance(self.gate_and_up, DTensor) or not isinstance(self.down, DTensor):
            return _swiglu(rows, bounds, self.gate_and_up, self.down)
        # The grouped product leaves rows past the last bound uninitialised, in gradients as well.
        is_own = (torch.arange(len(rows), device=rows.device) < bounds[-1]).unsqueeze(-1)
        outputs = _swiglu(torch.where(is_own, rows, 0), bounds, self.gate_and_up.to_local(), self.down.to_local())
        return torch.where(is_own, outputs, 0)


class MixtureOfExperts(nn.Module):
    """Experts with a top-k router whose load is balanced by a bias, without an auxiliary loss.

    The bias of an expert is added to its score when experts are chosen, but not to the weight of its output. After each
    step, the bias rises if the expert had too few tokens, and falls if it had too many (Wang et al. 2024,
    "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", arXiv:2408.15664).

    Args:
        width: How many features a token has.
        hidden_width: The number of hidden features of an expert.
        num_experts: How many experts there are.
        top_k: How many of them each token goes to.
        output_std: The standard deviation of the initial values of the experts' output matrices.
    """

    bias: torch.Tensor
    step_counts: torch.Tensor

    def __init__(self, *, width: int, hidden_width: int, num_experts: int, top_k: int, output_std: float) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.top_k = top_k
        self.router = Projection(width, num_experts)
        self.experts = Experts(width=width, hidden_width=hidden_width, num_experts=num_experts, output_std=output_std)
        self.register_buffer("bias", torch.empty(num_experts))
        self.register_buffer("step_counts", torch.empty(num_experts), persistent=False)
        self._exchange: TokenExchange | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the bias and the counts to zero."""
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.step_counts)

    def divide_experts(self, dist_context: DistributedContext) -> None:
        """Divide the experts over the processes of `expert_parallel`."""
        shard_experts(self.experts, dist_context)
        if dist_context.mesh_parameters.expert_parallel > 1:
            self._exchange = TokenExchange(dist_context.mesh_for("expert")["expert_parallel"])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Apply to each token the experts that the router chooses.

        Args:
            features: Float [batch, time, width].

        Returns:
            The weighted sum of the experts' outputs, of the same shape.
        """
        tokens = features.reshape(-1, features.shape[-1])
        weights, choices = self._route(tokens)
        if self._exchange is None:
            return self._mix(tokens, weights, choices, own=range(self.num_experts)).view_as(features)
        mixed = self._mix(
            self._exchange.gather(tokens),
            self._exchange.gather(weights),
            self._exchange.gather(choices),
            own=self._exchange.own(self.num_experts),
        )
        return self._exchange.add_and_return(mixed).view_as(features)

    def _mix(self, tokens: torch.Tensor, weights: torch.Tensor, choices: torch.Tensor, own: range) -> torch.Tensor:
        """Sum the weighted outputs of the experts `own`, those of this process, for tokens [num_tokens, width]."""
        num_rows = torch.zeros(self.num_experts, device=tokens.device, dtype=torch.int32)
        num_rows.scatter_add_(0, choices.flatten(), torch.ones_like(choices.flatten(), dtype=torch.int32))
        if self.training:
            self.step_counts += num_rows
        # A row is a pair of a token and a choice. Sorting puts the rows of one expert together, own experts first.
        order = ((choices.flatten() - own.start) % self.num_experts).argsort(stable=True)
        bounds = num_rows[own.start : own.stop].cumsum(0, dtype=torch.int32)
        outputs = self.experts(tokens[order // self.top_k], bounds)
        unsorted = outputs[order.argsort()].view(len(tokens), self.top_k, -1)
        mixed: torch.Tensor = (unsorted * weights.unsqueeze(-1).to(unsorted.dtype)).sum(1)
        return mixed

    def _route(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose experts: weights and indices, both [num_tokens, top_k]."""
        scores = self.router(tokens).float().sigmoid()
        choices = (scores.detach() + self.bias).topk(self.top_k, dim=-1).indices
        chosen = scores.gather(-1, choices)
        return chosen / chosen.sum(-1, keepdim=True), choices

    @torch.no_grad()
    def balance_load(self, num_tokens: torch.Tensor, rate: float) -> None:
        """Move the bias towards an even load, and reset the counts.

        Args:
            num_tokens: The number of tokens of each expert in the step, over all processes, [num_experts].
            rate: By how much the bias of each expert moves.
        """
        self.bias += rate * (num_tokens.mean() - num_tokens).sign()
        self.step_counts.zero_()


@dataclasses.dataclass(frozen=True)
class TokenExchange:
    """Gathers the tokens of a group of processes on each of them, and sums the outputs on their way back.

    Only the device knows how many tokens go to each process. To send each token only to its experts, the host would
    have to wait for these numbers in every layer. So all tokens go to all processes: more is sent, and nothing waits.

    Attributes:
        mesh: The processes, each with the same number of tokens.
    """

    mesh: DeviceMesh

    def own(self, num_experts: int) -> range:
        """Return the indices of the experts of this process."""
        num_own = num_experts // self.mesh.size()
        start = self.mesh.get_local_rank() * num_own
        return range(start, start + num_own)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows for the tokens of all processes; the sum of all gradients of a row goes to where it came from."""
        gathered = DTensor.from_local(rows, self.mesh, [Shard(0)]).redistribute(placements=[Replicate()])
        return gathered.to_local(grad_placements=[Partial()])

    def add_and_return(self, outputs: torch.Tensor) -> torch.Tensor:
        """Add up, over all processes, what they made of the gathered tokens; each gets back those that it brought."""
        return DTensor.from_local(outputs, self.mesh, [Partial()]).redistribute(placements=[Shard(0)]).to_local()


def _swiglu(rows: torch.Tensor, bounds: torch.Tensor, gate_and_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    dtype = rows.dtype if rows.device.type == "cpu" else torch.bfloat16
    gate, up = functional.grouped_mm(rows.to(dtype), gate_and_up.to(dtype), offs=bounds).chunk(2, dim=-1)
    return functional.grouped_mm(functional.silu(gate) * up, down.to(dtype), offs=bounds)
