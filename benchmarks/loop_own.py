"""The job of the loop benchmark in the loops of this project, with a handler on every event of a step."""

from pathlib import Path
from typing import Any

import torch
from loop_job import BATCH_SIZE, LEARNING_RATE, NUM_SAMPLES, Job, keep, loss_of

from d9d.core.stepper import Stepper
from d9d.loop import control
from d9d.loop.component import OptimizerBuilder
from d9d.loop.component.sampler import SequentialBatchSampler, SequentialSteps, ShufflingBatchSampler, StepBatchSampler
from d9d.loop.config import InferenceConfig, ReportingConfig, TrainingConfig
from d9d.loop.event import Event
from d9d.loop.event.catalogue import inference, train
from d9d.loop.run import InferenceConfigurator, TrainingConfigurator

SILENT = ReportingConfig(progress_bar=False, period_steps=None)
TRAIN_EVENTS = (
    train.EVENT_TRAIN_STEP_PRE,
    train.EVENT_TRAIN_FORWARD_BACKWARD_PRE,
    train.EVENT_TRAIN_FORWARD_BACKWARD_POST,
    train.EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    train.EVENT_TRAIN_OPTIMIZER_STEP_POST,
    train.EVENT_TRAIN_STEP_POST,
)
INFERENCE_EVENTS = (
    inference.EVENT_INFERENCE_STEP_PRE,
    inference.EVENT_INFERENCE_FORWARD_PRE,
    inference.EVENT_INFERENCE_FORWARD_POST,
    inference.EVENT_INFERENCE_STEP_POST,
)


def orders(num_steps: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the samples of each step of training and of inference."""
    stepper = Stepper(num_steps)
    sizes = {"global_batch_size": BATCH_SIZE, "num_samples": NUM_SAMPLES}
    samplers: tuple[StepBatchSampler, ...] = (
        ShufflingBatchSampler(**sizes, micro_batch_size=BATCH_SIZE, seed=0, stepper=stepper),
        SequentialBatchSampler(SequentialSteps(**sizes), micro_batch_size=BATCH_SIZE, stepper=stepper),
    )
    shuffled, sequential = ([list(batch) for batch in sampler] for sampler in samplers)
    return shuffled, sequential


class _Model(control.ModelProvider):
    def __init__(self, job: Job) -> None:
        self._job = job

    def initialize_model_stage(self, ctx: control.InitializeModelStageContext) -> control.InitializeModelStageResult:
        return control.InitializeModelStageResult(model=self._job.model)


class _Counting:
    """Counts the events of the steps."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, ctx: object) -> None:
        """Count one event."""
        self.count += 1


class _Train(control.TrainTask):
    def __init__(self, counting: _Counting, heard: Event[Any] | None) -> None:
        self._counting = counting
        self._events: tuple[Event[Any], ...] = TRAIN_EVENTS if heard is None else (*TRAIN_EVENTS, heard)

    def register_events(self, ctx: control.RegisterTaskEventsContext) -> None:
        for event in self._events:
            ctx.event_bus.subscribe(event, self._counting.note)

    def build_forward_inputs(self, ctx: control.BuildForwardInputsContext) -> control.BuildForwardInputsResult:
        return control.BuildForwardInputsResult(inputs={"rows": ctx.batch[0]})

    def compute_loss(self, ctx: control.ComputeLossContext) -> control.ComputeLossResult:
        return control.ComputeLossResult(loss=loss_of(ctx.outputs, ctx.batch[1]))


class _Predict(control.InferenceTask):
    def __init__(self, job: Job, counting: _Counting) -> None:
        self._job = job
        self._counting = counting

    def register_events(self, ctx: control.RegisterTaskEventsContext) -> None:
        for event in INFERENCE_EVENTS:
            ctx.event_bus.subscribe(event, self._counting.note)

    def build_forward_inputs(self, ctx: control.BuildForwardInputsContext) -> control.BuildForwardInputsResult:
        return control.BuildForwardInputsResult(inputs={"rows": ctx.batch[0]})

    def process_outputs(self, ctx: control.ProcessOutputsContext) -> None:
        self._job.outputs.append(ctx.outputs)


def _dataset(job: Job) -> control.DatasetProvider:
    return lambda ctx: control.InitializeDatasetResult(dataset=job.dataset, collate=keep)  # type: ignore[arg-type]


def train_with(job: Job, reporting: ReportingConfig = SILENT, heard: Event[Any] | None = None) -> None:
    """Train in the loop of this project.

    Args:
        job: The job.
        reporting: What is reported of the run.
        heard: One more event to listen to, which is triggered once in a step.
    """
    counting = _Counting()
    TrainingConfigurator(
        config=TrainingConfig(
            total_steps=job.num_steps,
            global_batch_size=BATCH_SIZE,
            device="cpu",
            max_gradient_norm=None,
            reporting=reporting,
        ),
        task=_Train(counting, heard),
        model_provider=_Model(job),
        dataset_provider=_dataset(job),
        optimizer_provider=OptimizerBuilder(torch.optim.SGD, lr=LEARNING_RATE, fused=False),
    ).configure().train()
    _require_all(counting, (len(TRAIN_EVENTS) + (heard is not None)) * job.num_steps)


def train_reporting(job: Job, folder: Path) -> None:
    """Train with a progress bar and a report every ten steps.

    Args:
        job: The job.
        folder: The folder for the reports.
    """
    train_with(job, ReportingConfig(progress_bar=True, period_steps=10, json_lines=folder / "metrics.jsonl"))


def predict_with(job: Job) -> None:
    """Predict in the loop of this project.

    Args:
        job: The job.
    """
    counting = _Counting()
    InferenceConfigurator(
        config=InferenceConfig(global_batch_size=BATCH_SIZE, device="cpu", reporting=SILENT),
        task=_Predict(job, counting),
        model_provider=_Model(job),
        dataset_provider=_dataset(job),
    ).configure().infer()
    _require_all(counting, len(INFERENCE_EVENTS) * job.num_steps)


def _require_all(counting: _Counting, expected: int) -> None:
    if counting.count != expected:
        raise RuntimeError(f"{counting.count} events instead of {expected}")
