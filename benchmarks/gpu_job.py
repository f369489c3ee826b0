"""A Transformer of about 125 million parameters, or a tiny one, its data, and what loops do with it."""

import copy
import dataclasses
from collections.abc import Iterable

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a job is.

    Attributes:
        num_tokens: The size of the vocabulary.
        width: The number of features of a token.
        num_layers: The number of blocks.
        num_heads: The number of attention heads.
        length: The number of tokens in a sample.
        batch_size: The number of samples in a step of one process.
        num_warmup_steps: How many steps come before the measured ones.
        num_steps_per_block: How many steps of one loop run before it is the turn of the other.
        num_rounds: How many blocks of each loop are measured.
        num_profiled_steps: How many steps are measured with the profiler.
        num_workers: How many processes read the data.
        compiler: The backend of `torch.compile`.
    """

    num_tokens: int
    width: int
    num_layers: int
    num_heads: int
    length: int
    batch_size: int
    num_warmup_steps: int
    num_steps_per_block: int
    num_rounds: int
    num_profiled_steps: int
    num_workers: int
    compiler: str


LARGE = Scale(
    num_tokens=32_768,
    width=768,
    num_layers=12,
    num_heads=12,
    length=1024,
    batch_size=16,
    num_warmup_steps=10,
    num_steps_per_block=10,
    num_rounds=12,
    num_profiled_steps=10,
    num_workers=4,
    compiler="inductor",
)
SMALL = Scale(
    num_tokens=64,
    width=16,
    num_layers=1,
    num_heads=2,
    length=8,
    batch_size=4,
    num_warmup_steps=2,
    num_steps_per_block=2,
    num_rounds=3,
    num_profiled_steps=2,
    num_workers=1,
    compiler="eager",
)
"""Takes seconds on a CPU, and needs no C++ compiler."""

_NUM_USED_TOKENS = 61  # a prime number


class Texts(Dataset[torch.Tensor]):
    """Sequences in which each token follows from the one before, so that a loop that learns has a falling loss."""

    def __init__(self, num_samples: int, scale: Scale) -> None:
        self._num_samples = num_samples
        powers = [1]
        while len(powers) <= scale.length:
            powers.append(powers[-1] * 2 % _NUM_USED_TOKENS)
        self._powers = torch.tensor(powers)

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> torch.Tensor:
        first = int(torch.randint(1, _NUM_USED_TOKENS, (), generator=torch.Generator().manual_seed(index)))
        return self._powers * first % _NUM_USED_TOKENS


class Block(nn.Module):
    """Attention and a two-layer network, each with normalised inputs."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self._num_heads = num_heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention_inputs, self.attention_outputs = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states `[sample, position, width]`."""
        inputs = self.attention_inputs(self.norms[0](hidden))
        split = inputs.unflatten(-1, (3, self._num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True)
        hidden = hidden + self.attention_outputs(attended.transpose(1, 2).flatten(2))
        outputs: torch.Tensor = hidden + self.network(self.norms[1](hidden))
        return outputs


class Transformer(nn.Module):
    """Predicts each next token, and returns the mean loss."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        width = scale.width
        self.tokens, self.positions = nn.Embedding(scale.num_tokens, width), nn.Embedding(scale.length, width)
        self.blocks = nn.Sequential(*(Block(width, scale.num_heads) for _ in range(scale.num_layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, scale.num_tokens, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the loss over tokens `[sample, position]`."""
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        hidden = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1], device=tokens.device))
        scores = self.head(self.norm(self.blocks(hidden)))
        return nn.functional.cross_entropy(scores.float().flatten(0, 1), targets.flatten())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What a loop does.

    Attributes:
        trains: Whether it trains the model; else it only runs it.
        is_compiled: Whether the model goes through `torch.compile`.
        num_micro_batches: How many micro-batches a step of training has.
        max_norm: The bound of the norm of the gradients, if they are clipped.
        num_processes: How many processes run it, each on its own device, with FSDP.
    """

    trains: bool = True
    is_compiled: bool = False
    num_micro_batches: int = 1
    max_norm: float | None = None
    num_processes: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A case at a scale, on the device of this process.

    Attributes:
        device: The device.
        scale: The size of the job.
        case: What it does.
        num_steps: How many steps it takes.
    """

    device: torch.device
    scale: Scale
    case: Case
    num_steps: int

    @property
    def is_accelerated(self) -> bool:
        """Whether the device is not the CPU."""
        return self.device.type != "cpu"

    @property
    def global_batch_size(self) -> int:
        """How many samples all processes take in a step."""
        return self.scale.batch_size * self.case.num_processes

    @property
    def micro_batch_size(self) -> int:
        """How many samples a micro-batch has."""
        return self.scale.batch_size // self.case.num_micro_batches

    @property
    def num_samples(self) -> int:
        """How many samples all steps take."""
        return self.num_steps * self.global_batch_size

    def model(self) -> Transformer:
        """Return a new model on the device, with the same weights each time."""
        torch.manual_seed(0)
        return copy.deepcopy(Transformer(self.scale)).to(self.device)

    def compile(self, model: nn.Module) -> None:
        """Compile a model in place, if the case has it compiled."""
        if self.case.is_compiled:
            model.compile(backend=self.scale.compiler)

    def data(self) -> Texts:
        """Return the samples."""
        return Texts(self.num_samples, self.scale)

    def loader(self, order: Iterable[Iterable[int]]) -> "DataLoader[torch.Tensor]":
        """Return a data loader for micro-batches of samples, with pinned memory on an accelerator."""
        return DataLoader(
            self.data(),
            batch_sampler=[list(batch) for batch in order],
            num_workers=self.scale.num_workers,
            pin_memory=self.is_accelerated,
        )

    def synchronize(self) -> None:
        """Wait until the device has finished its work."""
        if self.is_accelerated:
            torch.accelerator.synchronize(self.device)
