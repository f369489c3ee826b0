"""A training run of several ranks that can be killed: a script which the tests of exact resuming start by torchrun.

It draws from each random number generator that a user may draw from, in the loop and in the processes that read data.
It takes one argument, the fields of `Plan` in JSON. Each rank appends to `home/rank-N` a line for its process, for
each step that it starts, and for each loss; at the end `home/weights` holds the full weights.
"""

import dataclasses
import json
import logging
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from layout_job import full_weights, record_losses
from torch import nn
from torch.utils.data import Dataset

from d9d.core.parallel import shard_data_parallel
from d9d.core.protocol import LRSchedulerProtocol
from d9d.loop.component import OptimizerBuilder
from d9d.loop.component.evaluation import Evaluation
from d9d.loop.config import (
    CheckpointingConfig,
    DataLoadingConfig,
    DeviceMeshParameters,
    ReportingConfig,
    TrainingConfig,
)
from d9d.loop.control import (
    BuildForwardInputsContext,
    BuildForwardInputsResult,
    ComputeLossContext,
    ComputeLossResult,
    InitializeDatasetContext,
    InitializeDatasetResult,
    InitializeLRSchedulerContext,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ParallelizeModelStageContext,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event.catalogue import train
from d9d.loop.run import Trainer, TrainingConfigurator, launch

RANK, NUM_RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
NUM_FEATURES, WIDTH = 8, 32
NUM_STEPS, PERIOD_STEPS, NUM_TO_KEEP = 24, 2, 2
STEP_SECONDS = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the run is, and how it saves."""

    home: str
    asynchronous: bool = False
    """Whether checkpoints are written in the background."""


class NoisySamples(Dataset[dict[str, torch.Tensor]]):
    """Features `[feature]` that three random number generators change each time they are read, and their product."""

    def __init__(self) -> None:
        self._features = torch.randn(100, NUM_FEATURES, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        features = self._features[index]
        noise = random.gauss(0.0, 0.1) + np.random.normal(0.0, 0.1) + torch.randn(()).item() / 10
        return {"features": features + noise, "target": features.prod()}


class Provider(ModelProvider):
    """Provides a model with dropout that is sharded over all ranks."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        model = nn.Sequential(
            nn.Linear(NUM_FEATURES, WIDTH), nn.GELU(), nn.Dropout(0.3), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        )
        return InitializeModelStageResult(model=model)

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        shard_data_parallel(ctx.model, ctx.dist_context, blocks=nn.Linear)


class WeighingTask(TrainTask):
    """Weighs each micro-batch by random numbers, by their sum as well, and carries that over a restart.

    Args:
        file: Where the beginnings of steps are noted, and their losses.
    """

    def __init__(self, file: TextIO) -> None:
        self.losses: list[torch.Tensor] = []
        self._file = file
        self._weight_sum = torch.zeros(())
        self._results: list[float] = []

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(train.EVENT_TRAIN_STEP_PRE, self._begin_step)
        ctx.event_bus.subscribe(train.EVENT_TRAIN_STEP_POST, self._end_step)
        ctx.event_bus.subscribe(train.EVENT_TRAIN_EVALUATION_FINISHED, self._keep_results)

    def _begin_step(self, ctx: train.EventStepContext) -> None:
        print("step", ctx.stepper.current_step, file=self._file)
        time.sleep(STEP_SECONDS)

    def _end_step(self, ctx: train.EventStepContext) -> None:
        loss = float(self.losses[-1])  # d9d: ignore[d9d-host-sync]  # each loss is compared
        print("loss", ctx.stepper.current_step, loss.hex(), file=self._file)

    def _keep_results(self, ctx: train.EventEvaluationFinishedContext) -> None:
        self._results += [float(ctx.stepper.current_step), ctx.metrics["loss"]]

    def build_forward_inputs(self, ctx: BuildForwardInputsContext) -> BuildForwardInputsResult:
        return BuildForwardInputsResult(inputs={"input": ctx.batch["features"]})

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        weight = torch.tensor(np.random.uniform(0.5, 1.5) + abs(random.gauss(0.0, 0.1)), dtype=torch.float32)
        weight = weight + torch.rand(()) + self._weight_sum / 1000
        self._weight_sum = self._weight_sum + weight
        return ComputeLossResult(
            loss=nn.functional.mse_loss(ctx.outputs[:, 0], ctx.batch["target"]), loss_weight=weight
        )

    def state_dict(self) -> dict[str, Any]:
        return {"weight_sum": self._weight_sum, "results": list(self._results)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._weight_sum, self._results = state_dict["weight_sum"], state_dict["results"]


def provide_dataset(ctx: InitializeDatasetContext) -> InitializeDatasetResult:
    """Provide the data."""
    return InitializeDatasetResult(dataset=NoisySamples())


def provide_lr_scheduler(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    """Provide a scheduler whose rate, and the optimizer's moments, differ in each step."""
    return torch.optim.lr_scheduler.OneCycleLR(ctx.torch_optimizer, max_lr=0.02, total_steps=ctx.total_steps + 1)


def configure(plan: Plan, task: WeighingTask) -> Trainer:
    """Configure the run."""
    trainer = TrainingConfigurator(
        config=TrainingConfig(
            total_steps=NUM_STEPS,
            global_batch_size=16,
            micro_batch_size=2,
            device="cpu",
            max_gradient_norm=0.5,
            mesh=DeviceMeshParameters(data_parallel_shard=NUM_RANKS),
            data_loading=DataLoadingConfig(num_workers=2),
            checkpointing=CheckpointingConfig(
                folder=Path(plan.home) / "checkpoints",
                period_steps=PERIOD_STEPS,
                num_to_keep=NUM_TO_KEEP,
                asynchronous=plan.asynchronous,
            ),
            reporting=ReportingConfig(progress_bar=False, json_lines=None),
        ),
        task=task,
        model_provider=Provider(),
        dataset_provider=provide_dataset,
        optimizer_provider=OptimizerBuilder(torch.optim.AdamW, fused=True),
        lr_scheduler_provider=provide_lr_scheduler,
        evaluations={"validation": Evaluation(dataset_provider=provide_dataset, period_steps=5, max_steps=1)},
    ).configure()
    task.losses = record_losses(trainer)
    return trainer


def main() -> None:
    """Train to the end, and write the weights."""
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    plan = Plan(**json.loads(sys.argv[1]))
    with (Path(plan.home) / f"rank-{RANK}").open("a", buffering=1) as file:
        print("pid", os.getpid(), file=file)
        trainer = configure(plan, WeighingTask(file))
        trainer.train()
    weights = full_weights(trainer)
    if RANK == 0:
        torch.save(weights, Path(plan.home) / "weights")


if __name__ == "__main__":
    launch(main)
