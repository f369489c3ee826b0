"""Training, step by step."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.checkpointer import Checkpointer
from d9d.loop.component.checkpoint.weight_exporter import WeightExporter
from d9d.loop.component.data.data_loader import begin_reading
from d9d.loop.component.data.device_transfer import DeviceTransfer
from d9d.loop.component.ending.interruption import Interruption
from d9d.loop.component.garbage_collector import GarbageCollector
from d9d.loop.component.gradient.gradient_accumulator import GradientAccumulator
from d9d.loop.component.gradient.gradient_clipper import GradientClipper
from d9d.loop.component.gradient.gradient_format import GradientFormat
from d9d.loop.component.gradient.non_finite_gradients import NonFiniteGradients
from d9d.loop.component.model.model_runner import ModelRunner
from d9d.loop.component.profiler import Profiler
from d9d.loop.component.provided import expect_result
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.report.reporter import Reporter
from d9d.loop.control import ComputeLossContext, ComputeLossResult, TrainTask
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_FORWARD_BACKWARD_POST,
    EVENT_TRAIN_FORWARD_BACKWARD_PRE,
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventStepContext,
    EventTrainFinishedContext,
    EventTrainReadyContext,
)
from d9d.loop.run.source import load_source

if TYPE_CHECKING:
    from d9d.loop.component.checkpoint.source_checkpoint import WeightSource


@dataclasses.dataclass(kw_only=True)
class Trainer:
    """Runs the training that a `TrainingConfigurator` has assembled.

    Attributes:
        event_bus: Carries the events of the loop.
        stepper: Knows which step runs, of how many.
        task: Computes the loss.
        data_loader: Yields one micro-batch after the other.
        modules: The stages of the model that this process holds, in pipeline order; one, unless there is a pipeline.
        source: Holds the weights to begin with; `None` keeps those that the model provider made.
        ranks: The processes of the job.
        optimizer: Updates the parameters of the model.
        lr_scheduler: Sets the learning rate.
        num_micro_batches: How many micro-batches a step has in this process.
        device_transfer: Moves them to the device.
        model_runner: Runs the model.
        gradient_accumulator: Gathers the losses of a step, and makes its gradients theirs.
        gradient_clipper: Bounds them.
        gradient_format: Gathers them in more bits than the optimizer gets.
        non_finite_gradients: Leaves out steps whose gradients are not finite.
        reporter: Tells how far the run is, and its numbers.
        random_state: The random number generators of the process.
        checkpointer: Saves the state of the job, and gives it back.
        weight_exporter: Writes the weights for other tools.
        garbage_collector: Collects garbage between steps.
        profiler: Records some of them.
        interruption: Ends the loop before its last step, where it has to.
    """

    event_bus: EventBus
    stepper: Stepper
    task: TrainTask
    data_loader: DataLoader[Any]
    modules: Sequence[nn.Module]
    source: "WeightSource | None"
    ranks: Ranks
    optimizer: OptimizerProtocol
    lr_scheduler: LRSchedulerProtocol
    num_micro_batches: int
    device_transfer: DeviceTransfer
    model_runner: ModelRunner
    gradient_accumulator: GradientAccumulator
    gradient_clipper: GradientClipper
    gradient_format: GradientFormat
    non_finite_gradients: NonFiniteGradients
    reporter: Reporter
    random_state: RandomState
    checkpointer: Checkpointer
    weight_exporter: WeightExporter
    garbage_collector: GarbageCollector
    profiler: Profiler
    interruption: Interruption

    def train(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises:
            CheckpointError: If there are checkpoints and none can be gone on from, or the weights to begin with cannot
                be loaded.
            StopRequest: After a checkpoint, if a signal asked to stop; `launch` makes it the exit status 75.
            RuntimeError: If the data ends before the last step.
        """
        if not self.checkpointer.resume():
            load_source(self.source, self.modules, self.ranks)
        self.gradient_accumulator.discard()
        for module in self.modules:
            module.train()
        # A resumed run triggers this event once more: what its handlers draw must not shift the steps' random numbers.
        with self.random_state.preserved():
            self.event_bus.trigger(EVENT_TRAIN_READY, EventTrainReadyContext())
        micro_batches = begin_reading(self.data_loader, self.stepper)
        with self.interruption, self.checkpointer, self.reporter, self.garbage_collector, self.profiler:
            self._run_steps(micro_batches)
        self.event_bus.trigger(EVENT_TRAIN_FINISHED, EventTrainFinishedContext())

    def export(self, folder: Path) -> None:
        """Write the weights as they are, as files of safetensors with an index; all processes call this.

        Args:
            folder: Where to; is not there yet, or empty. All processes see the same.

        Raises:
            CheckpointError: On all processes, if the weights cannot be written, or the folder holds something.
        """
        self.weight_exporter.export(folder)

    def _run_steps(self, micro_batches: Iterator[Any]) -> None:
        bus, moment = self.event_bus, EventStepContext(stepper=self.stepper)
        step_pre, step_post = bus.emitter(EVENT_TRAIN_STEP_PRE), bus.emitter(EVENT_TRAIN_STEP_POST)
        forward_backward_pre = bus.emitter(EVENT_TRAIN_FORWARD_BACKWARD_PRE)
        forward_backward_post = bus.emitter(EVENT_TRAIN_FORWARD_BACKWARD_POST)
        optimizer_step_pre = bus.emitter(EVENT_TRAIN_OPTIMIZER_STEP_PRE)
        optimizer_step_post = bus.emitter(EVENT_TRAIN_OPTIMIZER_STEP_POST)
        while not self.stepper.is_finished:
            step_pre(moment)
            moved = self.device_transfer.move(itertools.islice(micro_batches, self.num_micro_batches))
            self.gradient_format.widen()
            forward_backward_pre(moment)
            self.model_runner.forward_backward(moved, self._compute_loss)
            forward_backward_post(moment)
            loss = self.gradient_accumulator.finish()
            gradient_norm = self.gradient_clipper.clip()
            self.non_finite_gradients.judge(gradient_norm)
            self.gradient_format.narrow()
            optimizer_step_pre(moment)
            self.optimizer.step()
            optimizer_step_post(moment)
            self.gradient_accumulator.discard(self.optimizer)
            self.reporter.step_done(loss, gradient_norm, self.optimizer)
            self.lr_scheduler.step()
            step_post(moment)
            self._end_step()

    def _end_step(self) -> None:
        self.stepper.advance()
        self.interruption.step_done()
        self.checkpointer.save_if_due(now=self.interruption.is_due)
        self.garbage_collector.collect_if_due()
        self.profiler.step_done()
        self.interruption.stop_if_due()

    def _compute_loss(self, outputs: Any, batch: Any) -> torch.Tensor:
        result = self.task.compute_loss(ComputeLossContext(outputs=outputs, batch=batch, stepper=self.stepper))
        return self.gradient_accumulator.weigh(expect_result(result, ComputeLossResult, self.task.compute_loss))
