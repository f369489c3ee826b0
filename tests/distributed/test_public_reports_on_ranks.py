"""What people reported about resuming on several processes of other trainers does not happen here."""

import itertools
from pathlib import Path

import torch
from ranks import run_on_ranks
from torch import distributed, nn

from d9d.core.dist_context import DeviceMeshParameters
from d9d.core.parallel import shard_data_parallel
from d9d.loop.config import CheckpointingConfig, ReportingConfig, TrainingConfig
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ParallelizeModelStageContext,
    TrainTask,
)
from d9d.loop.run import TrainingConfigurator


class Noting(TrainTask):
    """Notes the samples of each micro-batch."""

    def __init__(self) -> None:
        self.samples: list[int] = []

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        self.samples += ctx.batch.int().flatten().tolist()
        return BuildForwardInputsResult(inputs={"input": ctx.batch})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        return ComputeLossResult(loss=ctx.outputs.square().mean())


class Replicated(ModelProvider):
    """Provides a linear layer, with gradients that are averaged over processes."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=nn.Linear(1, 1))

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        if ctx.dist_context.world_size > 1:
            shard_data_parallel(ctx.model, ctx.dist_context)


def samples_until(folder: Path, num_steps: int) -> list[int]:
    """Train on all ranks until some steps are complete, and return the samples of this rank."""
    num_ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    task = Noting()
    trainer = TrainingConfigurator(
        config=TrainingConfig(
            total_steps=9,
            global_batch_size=4,
            micro_batch_size=2,
            device="cpu",
            mesh=DeviceMeshParameters(data_parallel_shard=num_ranks),
            checkpointing=CheckpointingConfig(folder=folder, period_steps=1),
            reporting=ReportingConfig(progress_bar=False, json_lines=None),
        ),
        task=task,
        model_provider=Replicated(),
        dataset_provider=[torch.full((1,), float(index)) for index in range(12)],
    ).configure()
    for ctx in trainer.steps():
        if ctx.stepper.current_step == num_steps:
            break
    return task.samples


def test_each_epoch_has_a_new_order_and_each_sample_once_on_any_number_of_processes(tmp_path: Path) -> None:
    """People's processes read the same order in each epoch, or lost the position of some of them on fewer processes.

    pytorch/pytorch#31771, #31232 and #11324, pytorch/torchtitan#811.
    """
    by_two = run_on_ranks(2, samples_until, tmp_path, 4)
    by_one = samples_until(tmp_path, 9)

    steps = [sorted(sample for rank in by_two for sample in rank[2 * step : 2 * step + 2]) for step in range(4)]
    steps += [sorted(by_one[4 * step : 4 * step + 4]) for step in range(5)]
    epochs = [steps[number : number + 3] for number in (0, 3, 6)]
    assert [sorted(itertools.chain(*epoch)) for epoch in epochs] == [[*range(12)]] * 3
    assert epochs[0] != epochs[1] != epochs[2]
