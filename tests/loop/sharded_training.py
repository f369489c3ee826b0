"""Trains sharded models with several optimizers, as a script that two processes run and as a module that tests import.

Usage: `python sharded_training.py RANK FOLDER`. Rank 0 writes the final weights of each layout and optimizer to
`weights.pt` in the folder.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from d9d.core.dist_context import DistributedContext
from d9d.loop.component import OptimizerBuilder, ParameterGroup
from d9d.loop.control import InitializeOptimizerContext

NUM_STEPS = 3


def is_vector(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim <= 1


BUILDERS = {
    "adamw": OptimizerBuilder(torch.optim.AdamW, lr=0.1, groups=[ParameterGroup(is_vector, weight_decay=0.0)]),
    "sgd": OptimizerBuilder(torch.optim.SGD, lr=0.1, groups=[ParameterGroup(is_vector, momentum=0.9)]),
}


def mlp() -> nn.Sequential:
    """Return a model with the same weights in each call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.LayerNorm(4))


def shard(model: nn.Module) -> None:
    """Shard all parameters, as FSDP2 does."""
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))


def split(model: nn.Module) -> None:
    """Split the matrices and replicate the norm, as tensor parallelism does."""
    parallelize_module(model, init_device_mesh("cpu", (2,)), {"0": ColwiseParallel(), "2": RowwiseParallel()})


LAYOUTS = {"fsdp": shard, "tensor-parallel": split}


def build(builder: OptimizerBuilder, model: nn.Module) -> torch.optim.Optimizer:
    """Build an optimizer in one of two processes."""
    dist_context = DistributedContext(device=torch.device("cpu"), world_size=2)
    optimizer = builder(InitializeOptimizerContext(dist_context=dist_context, modules=[model]))
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def train(builder: OptimizerBuilder, model: nn.Module) -> torch.optim.Optimizer:
    """Build an optimizer, and train a few steps with it."""
    optimizer = build(builder, model)
    train_on(model, optimizer)
    return optimizer


def train_on(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Train a few steps on the same data in every process."""
    for step in range(NUM_STEPS):
        inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        torch.autograd.backward((model(inputs) - inputs).square().mean())
        optimizer.step()
        optimizer.zero_grad()


def full_weights(model: nn.Module) -> list[torch.Tensor]:
    """Gather the full weights of a model."""
    return [(p.full_tensor() if isinstance(p, DTensor) else p).detach() for p in model.parameters()]


def main(rank: int, folder: Path) -> None:
    """Train as one of two processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    weights = {}
    for layout, parallelize in LAYOUTS.items():
        for name, builder in BUILDERS.items():
            model = mlp()
            parallelize(model)
            train(builder, model)
            weights[layout, name] = full_weights(model)
    if rank == 0:
        torch.save(weights, folder / "weights.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
