"""Weights that are frozen, and unfrozen by a handler, in a run that resumes on several ranks."""

from pathlib import Path

import pytest
import torch
from ranks import run_on_ranks
from torch import nn
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import ProcessRaisedException

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
    ParallelizeModelStageContext,
    ReportingConfig,
    StagePosition,
    Trainer,
    TrainingConfig,
    TrainingConfigurator,
    TrainTask,
    shard_data_parallel,
)
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE, EventStepContext

NUM_LAYERS = 4
FROZEN = "2"
"""A layer of the second stage: the rank that writes `state.json` does not have it."""


class Layers(nn.Module):
    """Some of the layers, each with the name that it has in the whole model."""

    def __init__(self, position: StagePosition, frozen_value: float) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(index): nn.Linear(3, 3) for index in position.layers(NUM_LAYERS)})
        if FROZEN in self.layers:
            frozen = self.layers[FROZEN].requires_grad_(requires_grad=False)
            for parameter in frozen.parameters():
                nn.init.constant_(parameter, frozen_value)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        for layer in self.layers.values():
            features = layer(features)
        return features


class Provider(ModelProvider):
    def __init__(self, frozen_value: float) -> None:
        self._frozen_value = frozen_value

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=Layers(ctx.stage, self._frozen_value))

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        if ctx.dist_context.world_size > 1:
            shard_data_parallel(ctx.model, ctx.dist_context, blocks=nn.Linear)


class Task(TrainTask):
    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"features": ctx.batch})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=nn.functional.mse_loss(ctx.outputs, ctx.batch))


def configure(
    folder: Path | None,
    mesh: DeviceMeshParameters,
    *,
    total_steps: int = 6,
    frozen_value: float = 0.5,
    trainable_only: bool = False,
) -> Trainer:
    checkpointing = None
    if folder is not None:
        checkpointing = CheckpointingConfig(folder=folder, period_steps=1, trainable_only=trainable_only)
    trainer = TrainingConfigurator(
        config=TrainingConfig(
            total_steps=total_steps,
            global_batch_size=8,
            micro_batch_size=2,
            device="cpu",
            mesh=mesh,
            checkpointing=checkpointing,
            reporting=ReportingConfig(progress_bar=False, json_lines=None),
        ),
        task=Task(),
        model_provider=Provider(frozen_value),
        dataset_provider=list(torch.randn(64, 3, generator=torch.Generator().manual_seed(0))),
        optimizer_provider=lambda ctx: torch.optim.AdamW(ctx.parameters(), lr=0.1),
    ).configure()

    def unfreeze(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 2:
            for name, parameter in trainer.modules[0].named_parameters():
                if f".{FROZEN}." in name:
                    parameter.requires_grad_()

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, unfreeze)
    return trainer


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in trainer.modules[0].state_dict().items()
    }


def undisturbed_and_resumed(folder: Path, mesh: DeviceMeshParameters) -> list[dict[str, torch.Tensor]]:
    undisturbed = configure(None, mesh)
    undisturbed.train()
    for ctx in configure(folder, mesh).steps():
        if ctx.stepper.current_step == 4:
            break
    resumed = configure(folder, mesh)
    resumed.train()
    return [weights_of(undisturbed), weights_of(resumed)]


@pytest.mark.parametrize(
    "mesh",
    [DeviceMeshParameters(data_parallel_shard=2), DeviceMeshParameters(pipeline_parallel=2)],
    ids=["fsdp", "pipeline"],
)
def test_a_layer_of_any_rank_is_trained_after_a_resume(mesh: DeviceMeshParameters, tmp_path: Path) -> None:
    """Every rank ends with the weights of an undisturbed run."""
    for expected, found in run_on_ranks(2, undisturbed_and_resumed, tmp_path, mesh):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def train_adapter(folder: Path, mesh: DeviceMeshParameters, total_steps: int, frozen_value: float = 0.5) -> None:
    """Train with checkpoints that leave out the frozen layer, before a handler unfreezes it."""
    configure(folder, mesh, total_steps=total_steps, frozen_value=frozen_value, trainable_only=True).train()


@pytest.mark.parametrize(
    "mesh",
    [
        DeviceMeshParameters(data_parallel_shard=2),
        DeviceMeshParameters(data_parallel_replicate=2),
        DeviceMeshParameters(pipeline_parallel=2),
    ],
    ids=["fsdp", "replicated", "pipeline"],
)
def test_frozen_weights_are_recognised_on_another_mesh(mesh: DeviceMeshParameters, tmp_path: Path) -> None:
    """The same ones are accepted, and others refused."""
    run_on_ranks(2, train_adapter, tmp_path, mesh, 1)
    run_on_ranks(1, train_adapter, tmp_path, DeviceMeshParameters(), 2)

    with pytest.raises(ProcessRaisedException, match=r"model_provider/frozen_weights is '\w+' here and '\w+' in the"):
        run_on_ranks(2, train_adapter, tmp_path, mesh, 2, 0.25)
