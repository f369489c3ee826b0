"""An inference run of two processes that resumes with more samples, and with other sizes of batches."""

from pathlib import Path
from typing import Any

import torch
from ranks import run_on_ranks
from torch import nn

from d9d.core.dist_context import DeviceMeshParameters
from d9d.core.parallel import shard_data_parallel
from d9d.loop.config import CheckpointingConfig, InferenceConfig, ReportingConfig, ResumeConfig
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    InferenceTask,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ParallelizeModelStageContext,
    ProcessOutputsContext,
)
from d9d.loop.run import InferenceConfigurator


class Collect(InferenceTask):
    """Keeps the samples of this rank and their values in its state."""

    def __init__(self) -> None:
        self.samples: list[int] = []
        self.values: list[int] = []

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input": ctx.batch})

    def process_outputs(self, ctx: ProcessOutputsContext) -> None:
        self.samples += ctx.samples
        self.values += ctx.batch.int().flatten().tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.samples, "values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.samples, self.values = state_dict["samples"], state_dict["values"]


class Sharded(ModelProvider):
    """Provides a linear layer that is sharded over the processes."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return InitializeModelStageResult(model=nn.Linear(1, 2))

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        shard_data_parallel(ctx.model, ctx.dist_context)


def infer(folder: Path, num_samples: int, global_batch_size: int, micro_batch_size: int) -> tuple[list[int], list[int]]:
    """Run inference on this rank, and return the samples that it has processed, in all runs, and their values."""
    task = Collect()
    InferenceConfigurator(
        config=InferenceConfig(
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            device="cpu",
            mesh=DeviceMeshParameters(data_parallel_shard=2),
            checkpointing=CheckpointingConfig(folder=folder, period_steps=1),
            resume=ResumeConfig(allow=["num_samples"]),
            reporting=ReportingConfig(progress_bar=False, json_lines=None, period_steps=1),
        ),
        task=task,
        model_provider=Sharded(),
        dataset_provider=[torch.full((1,), float(index)) for index in range(num_samples)],
    ).configure().infer()
    return task.samples, task.values


def infer_in_turn(folder: Path, sizes: list[tuple[int, int, int]]) -> list[tuple[list[int], list[int]]]:
    """Run one inference after the other."""
    return [infer(folder, *each) for each in sizes]


def test_each_sample_is_processed_once_by_one_process(tmp_path: Path) -> None:
    """After each change, and with last steps in which processes have different numbers of samples."""
    sizes = [(9, 4, 2), (14, 4, 1), (23, 8, 2), (23, 2, 1), (24, 16, 4)]

    by_rank = run_on_ranks(2, infer_in_turn, tmp_path, sizes)

    for (num_samples, _, _), *found in zip(sizes, *by_rank, strict=True):
        assert sorted(sample for samples, _ in found for sample in samples) == [*range(num_samples)]
        assert all(samples == values for samples, values in found)
