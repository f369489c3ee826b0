"""A small job on any mesh, for tests of what is saved on one and loaded on another."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.job_state import JobState, training_state
from d9d.loop.component.checkpoint.manager import Checkpointer
from d9d.loop.component.checkpoint.source import find_source, load_weights
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.config import CheckpointingConfig

# Neither number can be divided by two or four, so that shards are uneven and some are empty.
NUM_FEATURES = 5
NUM_HIDDEN = 3
NUM_LAYERS = 4


class Block(nn.Module):
    """A residual block with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(NUM_FEATURES, NUM_HIDDEN)
        self.down = nn.Linear(NUM_HIDDEN, NUM_FEATURES, bias=False)
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.num_calls, torch.Tensor)
        self.num_calls += 1
        outputs: torch.Tensor = features + self.down(self.up(features).tanh())
        return outputs


class Stage(nn.Module):
    """Some layers of a model, under their names in the whole model."""

    def __init__(self, layers: Mapping[str, Block]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        for layer in self.layers.values():
            features = layer(features)
        return features


class RowOptimizer(torch.optim.Optimizer):
    """Keeps one moment for each row of a weight, as optimizers that save memory do."""

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for weight in group["params"]:
                moments = self.state[weight]
                rows = weight.grad.square().mean(dim=-1, keepdim=True)
                moments["rows"] = moments["rows"] * 0.9 + rows if "rows" in moments else rows
                weight.sub_(group["lr"] * weight.grad / (moments["rows"] + 1.0))


@dataclasses.dataclass(frozen=True)
class Sharding:
    """How the job is sharded.

    Attributes:
        num_ranks: The number of ranks.
        mesh: The size of each dimension of the mesh.
        stages: For each place in the pipeline, the layers of each of its stages.
    """

    num_ranks: int
    mesh: dict[str, int]
    stages: tuple[tuple[tuple[int, ...], ...], ...] = (((0, 1, 2, 3),),)


ALONE = Sharding(1, {})
SHARDINGS = {
    "alone": ALONE,
    "fsdp": Sharding(2, {"data_parallel_shard": 2}),
    "tensor": Sharding(2, {"tensor_parallel": 2}),
    "replicated": Sharding(2, {"data_parallel_replicate": 2}),
    "pipeline": Sharding(2, {"pipeline_parallel": 2}, (((0, 1),), ((2, 3),))),
    "v-shaped pipeline": Sharding(2, {"pipeline_parallel": 2}, (((0,), (3,)), ((1,), (2,)))),
    "hsdp": Sharding(4, {"data_parallel_replicate": 2, "data_parallel_shard": 2}),
    "fsdp of four": Sharding(4, {"data_parallel_shard": 4}),
    "fsdp and tensor": Sharding(4, {"data_parallel_shard": 2, "tensor_parallel": 2}),
    "pipeline of fsdp": Sharding(4, {"pipeline_parallel": 2, "data_parallel_shard": 2}, (((0,), (3,)), ((1,), (2,)))),
}


class Job:
    """One rank of the job: real modules, a real optimizer, real checkpoints."""

    def __init__(
        self, sharding: Sharding, folder: Path, optimizer_type: type[torch.optim.Optimizer] | None = None, **parts: Any
    ) -> None:
        torch.manual_seed(0)
        self.context = DistributedContext.start("cpu", DeviceMeshParameters(**sharding.mesh))
        layers = [Block() for _ in range(NUM_LAYERS)]
        place = self.context.pipeline_rank
        self.stages = [Stage({str(index): layers[index] for index in indices}) for indices in sharding.stages[place]]
        for stage in self.stages:
            self._shard(stage, sharding)
        decaying = [weight for weight in self._parameters() if weight.ndim == 2]
        others = [weight for weight in self._parameters() if weight.ndim != 2]
        groups: list[dict[str, Any]] = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
        make_optimizer: Callable[..., torch.optim.Optimizer] = optimizer_type or torch.optim.AdamW
        self.optimizer = make_optimizer(groups, lr=0.1)
        self.lr_scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, gamma=0.5)
        self.stepper = Stepper(100)
        self.random = RandomState(self.context.device)
        self.ranks = Ranks.of(self.context)
        self.state = self._state(parts)
        self.checkpointer = Checkpointer(
            CheckpointingConfig(folder=folder, period_steps=1),
            stepper=self.stepper,
            state=self.state,
            settings=self.state.describe("model", "optimizer", "lr_scheduler"),
            ranks=self.ranks,
            job_metadata={"mesh": sharding.mesh},
        )

    def _state(self, parts: Mapping[str, Any]) -> JobState:
        defaults = {
            "stepper": self.stepper,
            "lr_scheduler": self.lr_scheduler,
            "task": Nothing(),
            "random": self.random,
        }
        return training_state(self.ranks, modules=self.stages, optimizer=self.optimizer, **{**defaults, **parts})

    def _parameters(self) -> list[nn.Parameter]:
        return [weight for stage in self.stages for weight in stage.parameters()]

    def _shard(self, stage: Stage, sharding: Sharding) -> None:
        if len(sharding.mesh) == 0 or set(sharding.mesh) == {"pipeline_parallel"}:
            return
        mesh = self.context.mesh_for("dense")
        if "tensor_parallel" in sharding.mesh:
            plan = {"layers.*.up": ColwiseParallel(), "layers.*.down": RowwiseParallel()}
            parallelize_module(stage, mesh["tensor_parallel"], plan)
        if "data_parallel_shard" in sharding.mesh:
            replicate = ("data_parallel_replicate",) if "data_parallel_replicate" in sharding.mesh else ()
            fully_shard(stage, mesh=mesh[(*replicate, "data_parallel_shard")])

    def step(self) -> None:
        """Change all weights, moments and the learning rate, in the same way on any mesh."""
        for stage in self.stages:
            for name, weight in stage.named_parameters():
                # An operation on each value by itself is the same for any sharding.
                weight.grad = weight.detach() * 0.5 + (len(name) - self.stepper.current_step)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.stepper.advance()

    def numbers(self) -> dict[str, torch.Tensor]:
        """Return all weights and moments of the stages of this rank, in full."""
        names: dict[torch.Tensor, str] = {
            weight: name for stage in self.stages for name, weight in stage.named_parameters()
        }
        found = {name: value for stage in self.stages for name, value in stage.state_dict().items()}
        for weight, moments in self.optimizer.state.items():
            found |= {f"{names[weight]}/{key}": value for key, value in moments.items()}
        return {
            name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
            for name, value in found.items()
        }


class Nothing:
    """A task without state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        assert state_dict == {}


def save(
    sharding: Sharding, folder: Path, optimizer_type: type[torch.optim.Optimizer] | None = None
) -> dict[str, torch.Tensor]:
    """Run three steps, save, and return the values after two more."""
    job = Job(sharding, folder, optimizer_type)
    for _ in range(3):
        job.step()
    job.checkpointer.save()
    for _ in range(2):
        job.step()
    return job.numbers()


def weights(sharding: Sharding, folder: Path) -> dict[str, torch.Tensor]:
    """Load the weights of the newest checkpoint, as inference does, and return them."""
    job = Job(sharding, folder / "unused")
    load_weights(find_source(folder, job.ranks), job.stages, job.ranks)
    return job.numbers()


def resume(
    sharding: Sharding, folder: Path, optimizer_type: type[torch.optim.Optimizer] | None = None
) -> dict[str, torch.Tensor]:
    """Resume from a checkpoint, and return the values after two more steps."""
    job = Job(sharding, folder, optimizer_type)
    job.checkpointer.resume()
    assert job.stepper.current_step == 3
    for _ in range(2):
        job.step()
    return job.numbers()
