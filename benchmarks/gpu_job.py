"""A Transformer of about 125 million parameters, or a tiny one, its data, and a clock for the steps of a loop."""

import copy
import dataclasses
import gc
import time
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
        batch_size: The number of samples in a step.
        num_warmup_steps: How many steps come before the measured ones.
        num_steps: How many steps are measured.
        num_profiled_steps: How many steps are measured in a run with the profiler.
        num_rounds: How often each loop runs.
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
    num_steps: int
    num_profiled_steps: int
    num_rounds: int
    num_workers: int
    compiler: str


LARGE = Scale(
    num_tokens=32_768,
    width=768,
    num_layers=12,
    num_heads=12,
    length=1024,
    batch_size=16,
    num_warmup_steps=20,
    num_steps=100,
    num_profiled_steps=10,
    num_rounds=3,
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
    num_steps=4,
    num_profiled_steps=2,
    num_rounds=1,
    num_workers=1,
    compiler="eager",
)
"""Takes seconds on a CPU, and needs no C++ compiler."""


class Texts(Dataset[torch.Tensor]):
    """Random tokens."""

    def __init__(self, num_samples: int, scale: Scale) -> None:
        self._num_samples, self._scale = num_samples, scale

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(self._scale.num_tokens, (self._scale.length + 1,), generator=generator)


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


@dataclasses.dataclass
class Job:
    """One run of a loop.

    Attributes:
        device: The device.
        scale: The size of the job.
        is_compiled: Whether the model goes through `torch.compile`.
        num_steps: How many steps are measured, after the warm-up.
        seconds: What the measured steps took, including the work of the device.
        peak_bytes: The peak of the device memory that tensors took in these steps; not counted on a CPU.
    """

    device: torch.device
    scale: Scale
    is_compiled: bool
    num_steps: int
    seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def is_accelerated(self) -> bool:
        """Whether the device is not the CPU."""
        return self.device.type != "cpu"

    @property
    def total_steps(self) -> int:
        """How many steps there are, including the warm-up."""
        return self.scale.num_warmup_steps + self.num_steps

    @property
    def num_samples(self) -> int:
        """How many samples all steps take."""
        return self.total_steps * self.scale.batch_size

    @property
    def tokens_per_second(self) -> float:
        """The speed of the measured steps."""
        return self.num_steps * self.scale.batch_size * self.scale.length / self.seconds

    def model(self) -> nn.Module:
        """Return a new model, with the same weights each time, and note how much memory earlier runs still use."""
        gc.collect()
        self._bytes_before = torch.accelerator.memory_allocated(self.device) if self.is_accelerated else 0
        torch.manual_seed(0)
        model = copy.deepcopy(Transformer(self.scale)).to(self.device)
        if self.is_compiled:
            model.compile(backend=self.scale.compiler)
        return model

    def data(self) -> Texts:
        """Return the samples."""
        return Texts(self.num_samples, self.scale)

    def loader(self, order: Iterable[Iterable[int]]) -> "DataLoader[torch.Tensor]":
        """Return a data loader for the samples of each step, with pinned memory on an accelerator."""
        return DataLoader(
            self.data(),
            batch_sampler=[list(batch) for batch in order],
            num_workers=self.scale.num_workers,
            pin_memory=self.is_accelerated,
        )

    def begin_step(self, number: int) -> None:
        """Start the clock at the first step after the warm-up, once the device has finished the warm-up."""
        if number == self.scale.num_warmup_steps:
            if self.is_accelerated:
                torch.accelerator.synchronize(self.device)
                torch.accelerator.reset_peak_memory_stats(self.device)
            self._started = time.perf_counter()

    def end_step(self, number: int) -> None:
        """Stop the clock after the last step, once the device has finished it."""
        if number + 1 == self.total_steps:
            if self.is_accelerated:
                torch.accelerator.synchronize(self.device)
                self.peak_bytes = torch.accelerator.max_memory_allocated(self.device) - self._bytes_before
            self.seconds = time.perf_counter() - self._started
