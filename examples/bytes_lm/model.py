"""A byte-level Transformer with a mixture of experts in each block."""

import dataclasses

import torch
from torch import nn
from torch.nn import functional

from corpus import START_OF_FILE, VOCABULARY_SIZE
from experts import MixtureOfExperts


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of the model.

    Attributes:
        context_length: The longest sequence, in tokens.
        width: How many features a token has.
        num_blocks: How many blocks follow each other.
        num_heads: How many attention heads a block has.
        num_experts: How many experts a block has.
        top_k: How many of them each token goes to.
        expert_width: How many features an expert has inside.
    """

    context_length: int = 256
    width: int = 128
    num_blocks: int = 4
    num_heads: int = 4
    num_experts: int = 8
    top_k: int = 2
    expert_width: int = 128


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normalised queries and keys.

    Rotary positions are those of Su et al. 2021, "RoFormer", arXiv:2104.09864.

    Args:
        config: The shape of the model.
    """

    cosine: torch.Tensor
    sine: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        head_width = config.width // config.num_heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)
        self.query_norm = nn.RMSNorm(head_width)
        self.key_norm = nn.RMSNorm(head_width)
        frequencies = 10_000.0 ** (-torch.arange(0, head_width, 2) / head_width)
        angles = torch.outer(torch.arange(config.context_length), frequencies)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Let each token attend to those before it; float [batch, time, width] to the same."""
        batch, time, _ = features.shape
        projected = self.query_key_value(features).view(batch, time, 3, self.num_heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        query, key = self._rotate(self.query_norm(query)), self._rotate(self.key_norm(key))
        attended = functional.scaled_dot_product_attention(query, key, value.to(query.dtype), is_causal=True)
        output: torch.Tensor = self.output(attended.transpose(1, 2).reshape(batch, time, -1))
        return output

    def _rotate(self, heads: torch.Tensor) -> torch.Tensor:
        """Turn pairs of features by their position; float [batch, heads, time, head_width] to the same."""
        first, second = heads.chunk(2, dim=-1)
        cosine, sine = self.cosine[: heads.shape[-2]], self.sine[: heads.shape[-2]]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class Block(nn.Module):
    """Attention, then experts, each on normalised features and added to them.

    Args:
        config: The shape of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width)
        self.attention = Attention(config)
        self.experts_norm = nn.RMSNorm(config.width)
        self.experts = MixtureOfExperts(
            width=config.width,
            hidden_width=config.expert_width,
            num_experts=config.num_experts,
            top_k=config.top_k,
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Transform the features; float [batch, time, width] to the same."""
        features = features + self.attention(self.attention_norm(features))
        mixed: torch.Tensor = features + self.experts(self.experts_norm(features))
        return mixed


class BytesLM(nn.Module):
    """Predicts each next byte of a text.

    Args:
        config: The shape of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(VOCABULARY_SIZE, config.width)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.num_blocks)))
        self.norm = nn.RMSNorm(config.width)
        self.head = nn.Linear(config.width, VOCABULARY_SIZE, bias=False)
        self._initialize()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Predict what follows each token.

        Args:
            tokens: Int64 [batch, time], with time at most the context length.

        Returns:
            Logits, float [batch, time, vocabulary].
        """
        logits: torch.Tensor = self.head(self.norm(self.blocks(self.embedding(tokens))))
        return logits

    def _initialize(self) -> None:
        """Draw all matrices with a standard deviation of 0.02, and begin with even predictions.

        What ends in the residual stream is drawn smaller by the square root of the number of additions, as in GPT-2.
        """
        residual_scale = (2 * self.config.num_blocks) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                ends_in_stream = name.endswith(("attention.output.weight", "experts.down"))
                nn.init.normal_(parameter, std=0.02 * (residual_scale if ends_in_stream else 1.0))
        nn.init.zeros_(self.head.weight)


@torch.inference_mode()
def continue_text(model: BytesLM, prompt: bytes, num_bytes: int, *, temperature: float, seed: int) -> bytes:
    """Write on from a prompt, one byte after the other.

    Args:
        model: A trained model, in evaluation mode.
        prompt: What the text begins with; may be empty.
        num_bytes: How many bytes to add.
        temperature: How far to stray from the likeliest byte.
        seed: Decides where it strays.

    Returns:
        The prompt and what follows it.
    """
    device = model.embedding.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    text = torch.tensor([[START_OF_FILE, *prompt]], device=device)
    for _ in range(num_bytes):
        logits = model(text[:, -model.config.context_length :])[:, -1, :256].float()
        following = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        text = torch.cat([text, following], dim=1)
    return bytes(text[0, 1:].tolist())
