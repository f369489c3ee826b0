"""Training, step by step."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpointer import Checkpointer
from d9d.loop.component.data_loader import begin_reading
from d9d.loop.component.device_transfer import DeviceTransfer
from d9d.loop.component.garbage_collector import GarbageCollector
from d9d.loop.component.gradient_accumulator import GradientAccumulator
from d9d.loop.component.gradient_clipper import GradientClipper
from d9d.loop.component.model_stage import ModelStage
from d9d.loop.component.profiler import Profiler
from d9d.loop.component.progress import ProgressReporter
from d9d.loop.component.provided import expect_result
from d9d.loop.component.random_state import RandomState
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


@dataclasses.dataclass(kw_only=True)
class Trainer:
    """Runs the training that a `TrainingConfigurator` has assembled.

    Attributes:
        event_bus: Carries the events of the loop.
        stepper: Knows which step runs, of how many.
        task: Computes the loss.
        data_loader: Yields one micro-batch after the other.
        model: The model, on its device.
        optimizer: Updates the parameters of the model.
        lr_scheduler: Sets the learning rate.
        num_micro_batches: How many micro-batches a step has.
        device_transfer: Moves them to the device.
        model_stage: Runs the model.
        gradient_accumulator: Gathers the gradients of a step.
        gradient_clipper: Bounds them.
        progress: Shows people how far the run is.
        random_state: The random number generators of the process.
        checkpointer: Saves the state of the job, and gives it back.
        garbage_collector: Collects garbage between steps.
        profiler: Records some of them.
    """

    event_bus: EventBus
    stepper: Stepper
    task: TrainTask
    data_loader: DataLoader[Any]
    model: nn.Module
    optimizer: OptimizerProtocol
    lr_scheduler: LRSchedulerProtocol
    num_micro_batches: int
    device_transfer: DeviceTransfer
    model_stage: ModelStage
    gradient_accumulator: GradientAccumulator
    gradient_clipper: GradientClipper
    progress: ProgressReporter
    random_state: RandomState
    checkpointer: Checkpointer
    garbage_collector: GarbageCollector
    profiler: Profiler

    def train(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises:
            CheckpointError: If there are checkpoints and none can be gone on from.
            RuntimeError: If the data ends before the last step.
        """
        self.checkpointer.resume()
        self.gradient_accumulator.discard()
        self.model.train()
        # A resumed run triggers this event once more: what its handlers draw must not shift the steps' random numbers.
        with self.random_state.preserved():
            self.event_bus.trigger(EVENT_TRAIN_READY, EventTrainReadyContext())
        moment = EventStepContext(stepper=self.stepper)
        micro_batches = begin_reading(self.data_loader, self.stepper)
        with self.progress, self.garbage_collector, self.profiler:
            while not self.stepper.is_finished:
                self._run_step(moment, itertools.islice(micro_batches, self.num_micro_batches))
                self.stepper.advance()
                self.checkpointer.save_if_due()
                self.garbage_collector.collect_if_due()
                self.profiler.step_done()
        self.event_bus.trigger(EVENT_TRAIN_FINISHED, EventTrainFinishedContext())

    def _run_step(self, moment: EventStepContext, micro_batches: Iterable[Any]) -> None:
        bus = self.event_bus
        with bus.bounded(EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STEP_POST, moment):
            moved = self.device_transfer.move(micro_batches)
            with bus.bounded(EVENT_TRAIN_FORWARD_BACKWARD_PRE, EVENT_TRAIN_FORWARD_BACKWARD_POST, moment):
                for micro_batch in moved:
                    self.gradient_accumulator.add(self._compute_loss(micro_batch))
            loss = self.gradient_accumulator.finish()
            self.gradient_clipper.clip()
            with bus.bounded(EVENT_TRAIN_OPTIMIZER_STEP_PRE, EVENT_TRAIN_OPTIMIZER_STEP_POST, moment):
                self.optimizer.step()
            self.optimizer.zero_grad()
            self.gradient_accumulator.discard()
            self.lr_scheduler.step()
            self.progress.step_done(loss)

    def _compute_loss(self, micro_batch: Any) -> ComputeLossResult:
        with self.model_stage.precision():
            outputs = self.model_stage.forward(micro_batch)
            ctx = ComputeLossContext(outputs=outputs, batch=micro_batch, stepper=self.stepper)
            result = self.task.compute_loss(ctx)
        return expect_result(result, ComputeLossResult, self.task.compute_loss)
