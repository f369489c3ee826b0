"""The layers of the model, with their initial values."""

import torch
from torch import nn

INITIAL_STD = 0.02
"""The standard deviation of the initial values of matrices, unless stated otherwise."""


class Projection(nn.Linear):
    """A linear layer without a bias.

    Args:
        in_features: The number of input features.
        out_features: The number of output features.
        std: The standard deviation of its initial values; 0 sets them to zero.
    """

    def __init__(self, in_features: int, out_features: int, *, std: float = INITIAL_STD) -> None:
        self.std = std  # before super().__init__(), which calls reset_parameters
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Initialise the matrix."""
        nn.init.normal_(self.weight, std=self.std)


class TokenEmbedding(nn.Embedding):
    """A vector for each token, initialised like other matrices."""

    def reset_parameters(self) -> None:
        """Initialise the vectors."""
        nn.init.normal_(self.weight, std=INITIAL_STD)


class RotaryPositions(nn.Module):
    """Rotates queries and keys by their positions (Su et al. 2021, "RoFormer", arXiv:2104.09864).

    Args:
        head_width: The number of features of a head.
        context_length: The longest sequence, in tokens.
    """

    cosine: torch.Tensor
    sine: torch.Tensor

    def __init__(self, head_width: int, context_length: int) -> None:
        super().__init__()
        self.register_buffer("cosine", torch.empty(context_length, head_width // 2), persistent=False)
        self.register_buffer("sine", torch.empty(context_length, head_width // 2), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Compute the tables."""
        context_length, num_pairs = self.cosine.shape
        frequencies = 10_000.0 ** (-torch.arange(num_pairs, device=self.cosine.device) / num_pairs)
        angles = torch.outer(torch.arange(context_length, device=self.cosine.device), frequencies)
        self.cosine.copy_(angles.cos())
        self.sine.copy_(angles.sin())

    def forward(self, heads: torch.Tensor) -> torch.Tensor:
        """Rotate pairs of features by their position; float [batch, heads, time, head_width] to the same."""
        first, second = heads.chunk(2, dim=-1)
        cosine, sine = self.cosine[: heads.shape[-2]], self.sine[: heads.shape[-2]]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
