"""A byte-level Transformer with a mixture of experts in each block."""

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional

from corpus import START_OF_FILE, VOCABULARY_SIZE
from d9d import StagePosition
from experts import MixtureOfExperts
from layers import INITIAL_STD, Projection, RotaryPositions, TokenEmbedding

WHOLE_MODEL = StagePosition()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of the model.

    Attributes:
        context_length: The longest sequence, in tokens.
        width: The number of features of a token.
        num_blocks: The number of blocks.
        num_heads: The number of attention heads of a block.
        num_experts: The number of experts of a block.
        top_k: How many of them each token goes to.
        expert_width: The number of hidden features of an expert.
    """

    context_length: int = 256
    width: int = 128
    num_blocks: int = 4
    num_heads: int = 4
    num_experts: int = 8
    top_k: int = 2
    expert_width: int = 128

    @property
    def residual_std(self) -> float:
        """The initial standard deviation of matrices that write to the residual stream; as in GPT-2."""
        return INITIAL_STD / math.sqrt(2 * self.num_blocks)


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normalised queries and keys.

    Args:
        config: The shape of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        head_width = config.width // config.num_heads
        self.query_key_value = Projection(config.width, 3 * config.width)
        self.output = Projection(config.width, config.width, std=config.residual_std)
        self.query_norm = nn.RMSNorm(head_width)
        self.key_norm = nn.RMSNorm(head_width)
        self.rotate = RotaryPositions(head_width, config.context_length)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Attend to earlier tokens; float [batch, time, width] to the same."""
        batch, time, _ = features.shape
        projected = self.query_key_value(features).view(batch, time, 3, self.num_heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        query, key = self.rotate(self.query_norm(query)), self.rotate(self.key_norm(key))
        attended = functional.scaled_dot_product_attention(query, key, value.to(query.dtype), is_causal=True)
        output: torch.Tensor = self.output(attended.transpose(1, 2).reshape(batch, time, -1))
        return output


class Block(nn.Module):
    """Pre-norm attention and experts, each with a residual connection.

    Args:
        config: The shape of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width)
        self.attention = Attention(config)
        self.mixture_norm = nn.RMSNorm(config.width)
        self.mixture = MixtureOfExperts(
            width=config.width,
            hidden_width=config.expert_width,
            num_experts=config.num_experts,
            top_k=config.top_k,
            output_std=config.residual_std,
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the block; float [batch, time, width] to the same."""
        features = features + self.attention(self.attention_norm(features))
        mixed: torch.Tensor = features + self.mixture(self.mixture_norm(features))
        return mixed


class BytesLM(nn.Module):
    """Predicts the next byte of a text, or is one pipeline stage of the model that does.

    The weights of a stage have the names that they have in the whole model. Each module initialises itself. Matrices
    that write to the residual stream have smaller initial values, and the head is zero, so the first predictions are
    uniform.

    Args:
        config: The shape of the whole model.
        stage: Which part of it this is.
    """

    def __init__(self, config: ModelConfig, stage: StagePosition = WHOLE_MODEL) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(VOCABULARY_SIZE, config.width) if stage.is_first else nn.Identity()
        self.blocks = nn.ModuleDict({str(index): Block(config) for index in stage.layers(config.num_blocks)})
        self.norm = nn.RMSNorm(config.width) if stage.is_last else nn.Identity()
        self.head = Projection(config.width, VOCABULARY_SIZE, std=0.0) if stage.is_last else nn.Identity()

    @property
    def mixtures(self) -> dict[int, MixtureOfExperts]:
        """The mixtures of experts, by the index of their block in the whole model."""
        return {int(index): block.mixture for index, block in self.blocks.items() if isinstance(block, Block)}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predict the token after each token.

        Args:
            inputs: Tokens, int64 [batch, time], with time at most the context length. Stages after the first take the
                output of the stage before them.

        Returns:
            Logits, float [batch, time, vocabulary]. Stages before the last return features, [batch, time, width].
        """
        features = self.embedding(inputs)
        for block in self.blocks.values():
            features = block(features)
        logits: torch.Tensor = self.head(self.norm(features))
        return logits


@torch.inference_mode()
def continue_text(model: BytesLM, prompt: bytes, num_bytes: int, *, temperature: float, seed: int) -> bytes:
    """Continue a prompt, byte by byte.

    Args:
        model: A trained model, whole and in evaluation mode.
        prompt: The beginning of the text; may be empty.
        num_bytes: How many bytes to add.
        temperature: Divides the logits before sampling.
        seed: The seed of the sampling.

    Returns:
        The prompt and its continuation.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    text = torch.tensor([[START_OF_FILE, *prompt]], device=device)
    for _ in range(num_bytes):
        logits = model(text[:, -model.config.context_length :])[:, -1, :256].float()
        following = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        text = torch.cat([text, following], dim=1)
    return bytes(text[0, 1:].tolist())
