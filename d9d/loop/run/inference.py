"""Inference, step by step."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint import Checkpoint
from d9d.loop.component.checkpointer import Checkpointer
from d9d.loop.component.model_stage import ModelStage
from d9d.loop.component.progress import ProgressReporter
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.source_checkpoint import load_weights
from d9d.loop.control import InferenceTask, ProcessOutputsContext
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.inference import (
    EVENT_INFERENCE_FINISHED,
    EVENT_INFERENCE_FORWARD_POST,
    EVENT_INFERENCE_FORWARD_PRE,
    EVENT_INFERENCE_READY,
    EVENT_INFERENCE_STEP_POST,
    EVENT_INFERENCE_STEP_PRE,
    EventInferenceFinishedContext,
    EventInferenceReadyContext,
    EventStepContext,
)


@dataclasses.dataclass(kw_only=True)
class Inference:
    """Runs the inference that an `InferenceConfigurator` has assembled.

    Attributes:
        event_bus: Carries the events of the loop.
        stepper: Knows which step runs, of how many.
        task: Uses the outputs.
        data_loader: Yields one micro-batch after the other.
        model: The model, on its device.
        num_micro_batches: How many micro-batches a full step has.
        model_stage: Runs the model.
        progress: Shows people how far the run is.
        source: Holds the weights; `None` keeps those that the model provider made.
        ranks: The processes of the job.
        random_state: The random number generators of the process.
        checkpointer: Saves the state of this run, and gives it back.
    """

    event_bus: EventBus
    stepper: Stepper
    task: InferenceTask
    data_loader: DataLoader[Any]
    model: nn.Module
    num_micro_batches: int
    model_stage: ModelStage
    progress: ProgressReporter
    source: Checkpoint | None
    ranks: Ranks
    random_state: RandomState
    checkpointer: Checkpointer

    def infer(self) -> None:
        """Run the model over all samples, from where the newest checkpoint of this run was taken if there is one.

        Raises:
            CheckpointError: If the weights cannot be loaded, or there are checkpoints of this run and none can be gone
                on from.
        """
        if self.source is not None:
            load_weights(self.source, [self.model], self.ranks)
        self.checkpointer.resume()
        self.model.eval()
        # A resumed run triggers this event once more: what its handlers draw must not shift the steps' random numbers.
        with self.random_state.preserved():
            self.event_bus.trigger(EVENT_INFERENCE_READY, EventInferenceReadyContext())
        moment = EventStepContext(stepper=self.stepper)
        micro_batches = iter(self.data_loader)
        with self.progress, torch.inference_mode():
            while not self.stepper.is_finished:
                self._run_step(moment, itertools.islice(micro_batches, self.num_micro_batches))
                self.stepper.advance()
                self.checkpointer.save_if_due()
        self.event_bus.trigger(EVENT_INFERENCE_FINISHED, EventInferenceFinishedContext())

    def _run_step(self, moment: EventStepContext, micro_batches: Iterable[Any]) -> None:
        bus = self.event_bus
        with bus.bounded(EVENT_INFERENCE_STEP_PRE, EVENT_INFERENCE_STEP_POST, moment):
            fetched = list(micro_batches)
            with bus.bounded(EVENT_INFERENCE_FORWARD_PRE, EVENT_INFERENCE_FORWARD_POST, moment):
                for micro_batch in fetched:
                    self._process(micro_batch)
            self.progress.step_done()

    def _process(self, micro_batch: Any) -> None:
        with self.model_stage.precision():
            batch, outputs = self.model_stage.forward(micro_batch)
        self.task.process_outputs(ProcessOutputsContext(outputs=outputs, batch=batch, stepper=self.stepper))
