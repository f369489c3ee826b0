"""A sharded run resumes into a model that has changed, on the same mesh or another one."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from ranks import run_on_ranks
from torch import nn
from torch.distributed.tensor import DTensor

from d9d import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    CheckpointingConfig,
    ComputeLossContext,
    ComputeLossResult,
    DeviceMeshParameters,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    OptimizerBuilder,
    ParallelizeModelStageContext,
    ReportingConfig,
    TrainingConfig,
    TrainingConfigurator,
    TrainTask,
    WeightMapping,
    WeightRule,
    shard_data_parallel,
)

FSDP = {"data_parallel_shard": 2}
MAPPING = WeightMapping(
    rules=[WeightRule("both.*", ["left.*", "right.*"]), WeightRule("head.weight", "output", transpose=True)],
    unexpected=["head.bias"],
)


class Old(nn.Module):
    """Two projections in one matrix; its shards are uneven."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.head = nn.Linear(3, 10), nn.Linear(5, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        left, right = self.both(features).chunk(2, dim=-1)
        outputs: torch.Tensor = self.head(left.tanh() * right)
        return outputs - self.head.bias


class New(nn.Module):
    """The same, with other names and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 5), nn.Linear(3, 5)
        self.output = nn.Parameter(torch.zeros(5, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = (self.left(features).tanh() * self.right(features)) @ self.output
        return outputs


class Provider(ModelProvider):
    def __init__(self, kind: type[nn.Module]) -> None:
        self._kind = kind

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=self._kind())

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        shard_data_parallel(ctx.model, ctx.dist_context)


class Task(TrainTask):
    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"features": ctx.batch})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=nn.functional.mse_loss(ctx.outputs, ctx.batch.sum(-1, keepdim=True)))


def train(
    kind: type[nn.Module],
    folder: Path,
    total_steps: int,
    mesh: Mapping[str, int],
    mapping: WeightMapping | None = None,
) -> dict[str, torch.Tensor]:
    """Train, or resume, and return the weights."""
    trainer = TrainingConfigurator(
        config=TrainingConfig(
            total_steps=total_steps,
            global_batch_size=8,
            device="cpu",
            max_gradient_norm=None,
            mesh=DeviceMeshParameters(**mesh),
            checkpointing=CheckpointingConfig(folder=folder),
            reporting=ReportingConfig(progress_bar=False, json_lines=None),
        ),
        task=Task(),
        model_provider=Provider(kind),
        dataset_provider=list(torch.randn(64, 3, generator=torch.Generator().manual_seed(0))),
        optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=0.1),
        resume_mapping=mapping,
    ).configure()
    trainer.train()
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in trainer.modules[0].state_dict().items()
    }


@pytest.mark.parametrize("mesh", [FSDP, pytest.param({}, marks=pytest.mark.slow)], ids=["fsdp", "one process"])
def test_shards_of_weights_and_moments_follow_the_mapping(mesh: Mapping[str, int], tmp_path: Path) -> None:
    """Later steps are those of a run whose model has not changed."""
    old = run_on_ranks(2, train, Old, tmp_path / "unchanged", 5, FSDP)[0]
    run_on_ranks(2, train, Old, tmp_path / "changed", 3, FSDP)
    num_ranks = DeviceMeshParameters(**mesh).world_size
    found = run_on_ranks(num_ranks, train, New, tmp_path / "changed", 5, mesh, MAPPING)[0]

    expected = {
        **{f"left.{kind}": old[f"both.{kind}"][:5] for kind in ("weight", "bias")},
        **{f"right.{kind}": old[f"both.{kind}"][5:] for kind in ("weight", "bias")},
        "output": old["head.weight"].T,
    }
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
