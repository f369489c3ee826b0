"""A small job on one thread, in which the cost of the loop itself stands out, and a clock for any loop.

Rows go through three layers, eight at a time. The data loader fetches a whole batch at once, in a given order, so that
all loops read the same data and reading takes little time.
"""

import copy
import dataclasses
import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

NUM_FEATURES = 64
BATCH_SIZE = 8
LEARNING_RATE = 1e-3
NUM_SAMPLES = 4096
STEPS_PER_READING = 100  # the default period of garbage collection in the loops of this project

Batch = tuple[torch.Tensor, torch.Tensor]


class Clock:
    """Reads the CPU time of the thread every `STEPS_PER_READING` steps."""

    def __init__(self) -> None:
        self.num_ticks = 0
        self.readings: list[int] = []

    def tick(self) -> None:
        """Count a step that begins."""
        if self.num_ticks % STEPS_PER_READING == 0:
            self.readings.append(time.thread_time_ns())
        self.num_ticks += 1

    def nanoseconds_per_step(self) -> list[float]:
        """Return what a step took between each two readings. The first interval is left out: it warms up."""
        pairs = zip(self.readings[1:], self.readings[2:], strict=False)
        return [(later - earlier) / STEPS_PER_READING for earlier, later in pairs]


class Network(nn.Module):
    """Three layers, whose forward passes a clock counts."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(NUM_FEATURES, NUM_FEATURES), nn.ReLU(), nn.Linear(NUM_FEATURES, 1))
        self._clock = clock

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Predict a number for each row."""
        self._clock.tick()
        outputs: torch.Tensor = self.layers(rows)
        return outputs


class Rows(Dataset[Batch]):
    """Rows and targets, which the data loader fetches a batch at a time."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator)
        self.targets = self.rows.sum(dim=1, keepdim=True) / NUM_FEATURES

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> Batch:
        return self.rows[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a whole batch."""
        return self.rows[indices], self.targets[indices]


def keep(batch: Batch) -> Batch:
    """Return what is a batch already."""
    return batch


_INITIAL = torch.random.manual_seed(0) and Network(Clock()).state_dict()


@dataclasses.dataclass
class Job:
    """The job that every loop runs.

    Attributes:
        num_steps: The number of steps.
        order: The samples of each step.
        clock: Measures the steps.
        dataset: The samples.
        model: The model, which starts with the same weights in each job.
        outputs: The predictions of an inference loop.
    """

    num_steps: int
    order: Sequence[list[int]]
    clock: Clock = dataclasses.field(default_factory=Clock)
    dataset: Rows = dataclasses.field(default_factory=Rows)
    outputs: list[torch.Tensor] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = Network(self.clock)
        self.model.load_state_dict(copy.deepcopy(_INITIAL))

    def optimizer(self) -> torch.optim.Optimizer:
        """Return a new optimizer over the model."""
        return torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE)

    def loader(self) -> DataLoader[Batch]:
        """Return a new data loader."""
        return DataLoader(self.dataset, batch_sampler=self.order, collate_fn=keep)


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the loss of a batch."""
    return nn.functional.mse_loss(outputs, targets)


def train_by_hand(job: Job) -> None:
    """Train without any library: the reference."""
    optimizer = job.optimizer()
    job.model.train()
    for rows, targets in job.loader():
        loss_of(job.model(rows), targets).backward()
        optimizer.step()
        optimizer.zero_grad()


def predict_by_hand(job: Job) -> None:
    """Predict without any library: the reference."""
    job.model.eval()
    with torch.inference_mode():
        for rows, _ in job.loader():
            job.outputs.append(job.model(rows))
