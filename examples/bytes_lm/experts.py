"""The mixture of experts: which experts each token goes to, and what they make of it."""

import dataclasses

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class RoutingStatistics:
    """How one layer has spread its tokens over its experts since the statistics were last reset.

    Attributes:
        shares: The share of all choices that went to each expert, float32 [num_experts]; sums to 1.
        balance: The entropy of the shares over that of an even spread: 1 is even, 0 is all to one expert.
    """

    shares: torch.Tensor
    balance: torch.Tensor


class MixtureOfExperts(nn.Module):
    """SwiGLU experts behind a top-k router whose load is balanced by a bias, without a loss of its own.

    Each expert's bias is added to its score when experts are chosen, and not when their outputs are weighed; after each
    step it rises where an expert had too few tokens and falls where it had too many (Wang et al. 2024,
    "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", arXiv:2408.15664). The experts themselves are
    those of Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202.

    Tokens are sorted by expert and multiplied in groups whose bounds stay on the device, so that nothing waits for it:
    accelerators have such a product for bfloat16, which the experts therefore compute in there.

    Args:
        width: How many features a token has.
        hidden_width: How many features an expert has inside.
        num_experts: How many experts there are.
        top_k: How many of them each token goes to.
    """

    bias: torch.Tensor
    counts: torch.Tensor
    step_counts: torch.Tensor

    def __init__(self, *, width: int, hidden_width: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.top_k = top_k
        self.router = nn.Linear(width, num_experts, bias=False)
        self.gate_and_up = nn.Parameter(torch.empty(num_experts, width, 2 * hidden_width))
        self.down = nn.Parameter(torch.empty(num_experts, hidden_width, width))
        self.register_buffer("bias", torch.zeros(num_experts))
        self.register_buffer("step_counts", torch.zeros(num_experts), persistent=False)
        self.register_buffer("counts", torch.zeros(num_experts), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Send each token through its experts.

        Args:
            features: Float [batch, time, width].

        Returns:
            The weighted sum of the experts' outputs, of the same shape.
        """
        tokens = features.reshape(-1, features.shape[-1])
        weights, choices = self._route(tokens)
        # Rows are (token, choice) pairs; sorted, those of one expert lie together.
        order = choices.flatten().argsort(stable=True)
        num_rows = torch.zeros(self.num_experts, device=tokens.device, dtype=torch.int32)
        num_rows.scatter_add_(0, choices.flatten(), torch.ones_like(choices.flatten(), dtype=torch.int32))
        if self.training:
            self.step_counts += num_rows
        outputs = self._experts(tokens[order // self.top_k], num_rows.cumsum(0, dtype=torch.int32))
        unsorted = outputs[order.argsort()].view(len(tokens), self.top_k, -1)
        return (unsorted * weights.unsqueeze(-1).to(unsorted.dtype)).sum(1).view_as(features)

    def _route(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose experts: weights and indices, both [num_tokens, top_k]."""
        scores = self.router(tokens).float().sigmoid()
        choices = (scores.detach() + self.bias).topk(self.top_k, dim=-1).indices
        chosen = scores.gather(-1, choices)
        return chosen / chosen.sum(-1, keepdim=True), choices

    def _experts(self, rows: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        """Run the experts over rows [num_rows, width], the rows of expert `e` ending at `bounds[e]`."""
        dtype = rows.dtype if rows.device.type == "cpu" else torch.bfloat16
        gate, up = functional.grouped_mm(rows.to(dtype), self.gate_and_up.to(dtype), offs=bounds).chunk(2, dim=-1)
        return functional.grouped_mm(functional.silu(gate) * up, self.down.to(dtype), offs=bounds)

    @torch.no_grad()
    def balance_load(self, rate: float) -> None:
        """Move the bias towards an even load, by the counts since the last call.

        Args:
            rate: By how much each expert's bias moves.
        """
        self.bias += rate * (self.step_counts.mean() - self.step_counts).sign()
        self.counts += self.step_counts
        self.step_counts.zero_()

    def take_statistics(self) -> RoutingStatistics:
        """Return the statistics of the steps since they were last taken; they stay on the device."""
        shares = self.counts / self.counts.sum()
        balance = torch.special.entr(shares).sum() / torch.tensor(self.num_experts, device=shares.device).log()
        self.counts.zero_()
        return RoutingStatistics(shares=shares, balance=balance)
