"""The loops that run the Transformer, for training and inference: by hand, and those of this project."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from gpu_job import Job
from torch import nn

from d9d.core.stepper import Stepper
from d9d.loop import control
from d9d.loop.component import OptimizerBuilder
from d9d.loop.component.sampler import SequentialBatchSampler, ShufflingBatchSampler
from d9d.loop.config import DataLoadingConfig, InferenceConfig, ReportingConfig, TrainingConfig
from d9d.loop.event.catalogue import inference, train
from d9d.loop.run import InferenceConfigurator, TrainingConfigurator

Loop: TypeAlias = Callable[[Job], list[torch.Tensor]]
"""Runs a job, and returns the trained weights, or the loss of each step."""

LEARNING_RATE = 3e-4
SILENT = ReportingConfig(progress_bar=False, json_lines=None)


def train_by_hand(job: Job) -> list[torch.Tensor]:
    """Train without any library, with batches from pinned memory."""
    model = job.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    size = job.scale.batch_size
    order = ShufflingBatchSampler(
        num_samples=job.num_samples,
        global_batch_size=size,
        micro_batch_size=size,
        seed=0,
        stepper=Stepper(job.total_steps),
    )
    for number, tokens in enumerate(job.loader(order)):
        job.begin_step(number)
        with torch.autocast(job.device.type, dtype=torch.bfloat16):
            loss = model(tokens.to(job.device, non_blocking=True))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        job.end_step(number)
    return list(model.parameters())


def infer_by_hand(job: Job) -> list[torch.Tensor]:
    """Run the model without any library, with batches from pinned memory."""
    model = job.model().eval()
    size = job.scale.batch_size
    order = SequentialBatchSampler(
        num_samples=job.num_samples, global_batch_size=size, micro_batch_size=size, stepper=Stepper(job.total_steps)
    )
    losses = []
    with torch.no_grad():
        for number, tokens in enumerate(job.loader(order)):
            job.begin_step(number)
            with torch.autocast(job.device.type, dtype=torch.bfloat16):
                losses.append(model(tokens.to(job.device, non_blocking=True)))
            job.end_step(number)
    return losses


class _Inputs(control.BaseTask):
    """What training and inference share."""

    def build_forward_inputs(self, ctx: control.BuildForwardInputsContext) -> control.BuildForwardInputsResult:
        return control.BuildForwardInputsResult(inputs={"tokens": ctx.batch})


class _Train(_Inputs, control.TrainTask):
    def __init__(self, job: Job) -> None:
        self._job = job

    def register_events(self, ctx: control.RegisterTaskEventsContext) -> None:
        bus, job = ctx.event_bus, self._job
        bus.subscribe(train.EVENT_TRAIN_STEP_PRE, lambda moment: job.begin_step(moment.stepper.current_step))
        bus.subscribe(train.EVENT_TRAIN_STEP_POST, lambda moment: job.end_step(moment.stepper.current_step))

    def compute_loss(self, ctx: control.ComputeLossContext) -> control.ComputeLossResult:
        return control.ComputeLossResult(loss=ctx.outputs)


class _Infer(_Inputs, control.InferenceTask):
    def __init__(self, job: Job) -> None:
        self._job = job
        self.losses: list[torch.Tensor] = []

    def register_events(self, ctx: control.RegisterTaskEventsContext) -> None:
        bus, job = ctx.event_bus, self._job
        bus.subscribe(inference.EVENT_INFERENCE_STEP_PRE, lambda moment: job.begin_step(moment.stepper.current_step))
        bus.subscribe(inference.EVENT_INFERENCE_STEP_POST, lambda moment: job.end_step(moment.stepper.current_step))

    def process_outputs(self, ctx: control.ProcessOutputsContext) -> None:
        self.losses.append(ctx.outputs)


class _Model(control.ModelProvider):
    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def initialize_model_stage(self, ctx: control.InitializeModelStageContext) -> control.InitializeModelStageResult:
        return control.InitializeModelStageResult(model=self._model)


def train_with_loop(job: Job) -> list[torch.Tensor]:
    """Train in the loop of this project with its default settings, but without checkpoints and clipping."""
    model = job.model()
    TrainingConfigurator(
        config=TrainingConfig(
            total_steps=job.total_steps,
            global_batch_size=job.scale.batch_size,
            device=str(job.device),
            precision="bf16-autocast",
            max_gradient_norm=None,
            data_loading=DataLoadingConfig(num_workers=job.scale.num_workers),
            reporting=SILENT,
        ),
        task=_Train(job),
        model_provider=_Model(model),
        dataset_provider=lambda ctx: control.InitializeDatasetResult(dataset=job.data()),
        optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=LEARNING_RATE, fused=True),
    ).configure().train()
    return list(model.parameters())


def infer_with_loop(job: Job) -> list[torch.Tensor]:
    """Run the model in the loop of this project with its default settings, but without checkpoints."""
    task = _Infer(job)
    InferenceConfigurator(
        config=InferenceConfig(
            global_batch_size=job.scale.batch_size,
            device=str(job.device),
            precision="bf16-autocast",
            data_loading=DataLoadingConfig(num_workers=job.scale.num_workers),
            reporting=SILENT,
        ),
        task=task,
        model_provider=_Model(job.model()),
        dataset_provider=lambda ctx: control.InitializeDatasetResult(dataset=job.data()),
    ).configure().infer()
    return task.losses


LOOPS: dict[str, tuple[Loop, Loop]] = {
    "train": (train_by_hand, train_with_loop),
    "infer": (infer_by_hand, infer_with_loop),
}
"""The loop by hand and that of this project, for each kind of job."""
