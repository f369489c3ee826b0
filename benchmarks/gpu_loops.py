"""The loops that run the Transformer, for training and inference: by hand, and those of this project."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from gpu_job import Block, Job

from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.core.parallel import shard_data_parallel
from d9d.core.stepper import Stepper
from d9d.loop import control
from d9d.loop.component import OptimizerBuilder
from d9d.loop.component.sampler import DataShare, SequentialBatchSampler, SequentialSteps, ShufflingBatchSampler
from d9d.loop.config import DataLoadingConfig, InferenceConfig, ReportingConfig, TrainingConfig
from d9d.loop.event.catalogue import inference, train
from d9d.loop.run import InferenceConfigurator, TrainingConfigurator

ByHand: TypeAlias = Callable[[Job], Iterator[torch.Tensor]]
"""Runs a job; yields the loss of each step on the device."""

Own: TypeAlias = Callable[[Job, Callable[[int], None]], list[torch.Tensor]]
"""Runs a job; calls a function with the number of complete steps before each step, and returns the losses."""

LEARNING_RATE = 3e-4
SILENT = ReportingConfig(progress_bar=False, json_lines=None)


def train_by_hand(job: Job) -> Iterator[torch.Tensor]:
    """Train without any library, with batches from pinned memory."""
    model, case = job.model(), job.case
    share = DataShare()
    if case.num_processes > 1:
        mesh = DeviceMeshParameters(data_parallel_shard=case.num_processes)
        dist_context = DistributedContext.start(str(job.device), mesh)
        shard_data_parallel(model, dist_context, blocks=Block)
        share = DataShare(dist_context.data_parallel_rank, case.num_processes)
    job.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    order = ShufflingBatchSampler(
        num_samples=job.num_samples,
        global_batch_size=job.global_batch_size,
        micro_batch_size=job.micro_batch_size,
        seed=0,
        stepper=Stepper(job.num_steps),
        share=share,
    )
    micro_batches = iter(job.loader(order))
    for _ in range(job.num_steps):
        total = torch.zeros((), device=job.device)
        for _ in range(case.num_micro_batches):
            tokens = next(micro_batches).to(job.device, non_blocking=True)
            with torch.autocast(job.device.type, dtype=torch.bfloat16):
                loss = model(tokens) / case.num_micro_batches
            loss.backward()
            total += loss.detach()
        if case.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), case.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield total


def infer_by_hand(job: Job) -> Iterator[torch.Tensor]:
    """Run the model without any library, with batches from pinned memory."""
    model = job.model().eval()
    job.compile(model)
    order = SequentialBatchSampler(
        SequentialSteps(job.num_samples, job.global_batch_size),
        micro_batch_size=job.micro_batch_size,
        stepper=Stepper(job.num_steps),
    )
    for tokens in job.loader(order):
        with torch.no_grad(), torch.autocast(job.device.type, dtype=torch.bfloat16):
            loss = model(tokens.to(job.device, non_blocking=True))
        yield loss


class _Inputs(control.BaseTask):
    """What training and inference share."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []

    def build_forward_inputs(self, ctx: control.BuildForwardInputsContext) -> control.BuildForwardInputsResult:
        return control.BuildForwardInputsResult(inputs={"tokens": ctx.batch})


class _Train(_Inputs, control.TrainTask):
    def compute_loss(self, ctx: control.ComputeLossContext) -> control.ComputeLossResult:
        self.losses.append(ctx.outputs.detach())
        return control.ComputeLossResult(loss=ctx.outputs)


class _Infer(_Inputs, control.InferenceTask):
    def process_outputs(self, ctx: control.ProcessOutputsContext) -> None:
        self.losses.append(ctx.outputs)


class _Model(control.ModelProvider):
    def __init__(self, job: Job) -> None:
        self._job = job

    def initialize_model_stage(self, ctx: control.InitializeModelStageContext) -> control.InitializeModelStageResult:
        return control.InitializeModelStageResult(model=self._job.model())

    def parallelize_model_stage(self, ctx: control.ParallelizeModelStageContext) -> None:
        shard_data_parallel(ctx.model, ctx.dist_context, blocks=Block)
        self._job.compile(ctx.model)


def train_with_loop(job: Job, before_step: Callable[[int], None]) -> list[torch.Tensor]:
    """Train in the loop of this project with its default settings, but without checkpoints."""
    task = _Train()
    trainer = TrainingConfigurator(
        config=TrainingConfig(
            mesh=DeviceMeshParameters(data_parallel_shard=job.case.num_processes),
            total_steps=job.num_steps,
            global_batch_size=job.global_batch_size,
            micro_batch_size=job.micro_batch_size,
            device=_name_of(job),
            precision="bf16-autocast",
            max_gradient_norm=job.case.max_norm,
            data_loading=DataLoadingConfig(num_workers=job.scale.num_workers),
            reporting=SILENT,
        ),
        task=task,
        model_provider=_Model(job),
        dataset_provider=lambda ctx: control.InitializeDatasetResult(dataset=job.data()),
        optimizer_provider=OptimizerBuilder(torch.optim.AdamW, lr=LEARNING_RATE, fused=True),
    ).configure()
    trainer.event_bus.subscribe(train.EVENT_TRAIN_STEP_PRE, lambda moment: before_step(moment.stepper.current_step))
    trainer.train()
    num = job.case.num_micro_batches
    return [torch.stack(task.losses[start : start + num]).mean() for start in range(0, len(task.losses), num)]


def infer_with_loop(job: Job, before_step: Callable[[int], None]) -> list[torch.Tensor]:
    """Run the model in the loop of this project with its default settings, but without checkpoints."""
    task = _Infer()
    run = InferenceConfigurator(
        config=InferenceConfig(
            global_batch_size=job.global_batch_size,
            device=_name_of(job),
            precision="bf16-autocast",
            data_loading=DataLoadingConfig(num_workers=job.scale.num_workers),
            reporting=SILENT,
        ),
        task=task,
        model_provider=_Model(job),
        dataset_provider=lambda ctx: control.InitializeDatasetResult(dataset=job.data()),
    ).configure()
    run.event_bus.subscribe(inference.EVENT_INFERENCE_STEP_PRE, lambda moment: before_step(moment.stepper.current_step))
    run.infer()
    return task.losses


def _name_of(job: Job) -> str:
    return job.device.type if job.case.num_processes > 1 else str(job.device)
