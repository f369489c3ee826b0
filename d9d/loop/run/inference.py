"""Inference, step by step."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.data import DataLoader

from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.checkpointer import Checkpointer
from d9d.loop.component.data.batch_sampler import MicroBatchSamples, StepBatchSampler
from d9d.loop.component.data.data_loader import read
from d9d.loop.component.data.device_transfer import DeviceTransfer
from d9d.loop.component.ending.interruption import Interruption
from d9d.loop.component.garbage_collector import GarbageCollector
from d9d.loop.component.model.gradient_mode import without_gradients
from d9d.loop.component.model.model_runner import ModelRunner
from d9d.loop.component.profiler import Profiler
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.report.reporter import Reporter
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
from d9d.loop.run.source import load_source

if TYPE_CHECKING:
    from d9d.loop.component.checkpoint.source_checkpoint import WeightSource


@dataclasses.dataclass(kw_only=True)
class Inference:
    """Runs the inference that an `InferenceConfigurator` has assembled.

    Attributes:
        event_bus: Carries the events of the loop.
        stepper: Knows which step runs, of how many.
        task: Uses the outputs.
        batch_sampler: Tells which samples each micro-batch has.
        data_loader: Yields one micro-batch after the other.
        device_transfer: Moves them to the device.
        modules: The stages of the model that this process holds, in pipeline order; one, unless there is a pipeline.
        model_runner: Runs the model.
        reporter: Tells how far the run is, and its numbers.
        source: Holds the weights; `None` keeps those that the model provider made.
        ranks: The processes of the job.
        random_state: The random number generators of the process.
        checkpointer: Saves the state of this run, and gives it back.
        garbage_collector: Collects garbage between steps.
        profiler: Records some of them.
        interruption: Ends the loop before its last step, where it has to.
    """

    event_bus: EventBus
    stepper: Stepper
    task: InferenceTask
    batch_sampler: StepBatchSampler
    data_loader: DataLoader[Any]
    device_transfer: DeviceTransfer
    modules: Sequence[nn.Module]
    model_runner: ModelRunner
    reporter: Reporter
    source: "WeightSource | None"
    ranks: Ranks
    random_state: RandomState
    checkpointer: Checkpointer
    garbage_collector: GarbageCollector
    profiler: Profiler
    interruption: Interruption

    def infer(self) -> None:
        """Run the model over all samples, from where the newest checkpoint of this run was taken if there is one.

        Raises:
            CheckpointError: If the weights cannot be loaded, or there are checkpoints of this run and none can be gone
                on from.
            StopRequest: After a checkpoint, if a signal asked to stop; `launch` makes it the exit status 75.
        """
        load_source(self.source, self.modules, self.ranks)
        self.checkpointer.resume()
        for module in self.modules:
            module.eval()
        # A resumed run triggers this event once more: what its handlers draw must not shift the steps' random numbers.
        with self.random_state.preserved():
            self.event_bus.trigger(EVENT_INFERENCE_READY, EventInferenceReadyContext())
        micro_batches = read(self.data_loader)
        with (
            self.interruption,
            self.checkpointer,
            self.reporter,
            self.garbage_collector,
            self.profiler,
            without_gradients(self.modules),
        ):
            self._run_steps(micro_batches)
        self.event_bus.trigger(EVENT_INFERENCE_FINISHED, EventInferenceFinishedContext())

    def _run_steps(self, micro_batches: Iterator[Any]) -> None:
        bus, moment = self.event_bus, EventStepContext(stepper=self.stepper)
        step_pre, step_post = bus.emitter(EVENT_INFERENCE_STEP_PRE), bus.emitter(EVENT_INFERENCE_STEP_POST)
        forward_pre, forward_post = bus.emitter(EVENT_INFERENCE_FORWARD_PRE), bus.emitter(EVENT_INFERENCE_FORWARD_POST)
        while not self.stepper.is_finished:
            step_pre(moment)
            samples = self.batch_sampler.micro_batches(self.stepper.current_step)
            batches = self.device_transfer.move(itertools.islice(micro_batches, len(samples)))
            forward_pre(moment)
            self._forward(samples, batches)
            forward_post(moment)
            self.reporter.step_done()
            step_post(moment)
            self._end_step()

    def _end_step(self) -> None:
        self.stepper.advance()
        self.interruption.step_done()
        self.checkpointer.save_if_due(now=self.interruption.is_due)
        self.garbage_collector.collect_if_due()
        self.profiler.step_done()
        self.interruption.stop_if_due()

    def _forward(self, samples: Sequence[MicroBatchSamples], batches: Iterable[Any]) -> None:
        def use_outputs(number: int, batch: Any, outputs: Any) -> None:
            own = samples[number]
            # Another process hands over what this one ran only to keep step with it.
            if not own.is_repeated:
                self.task.process_outputs(
                    ProcessOutputsContext(outputs=outputs, batch=batch, stepper=self.stepper, samples=tuple(own))
                )

        self.model_runner.forward(batches, [len(own) for own in samples], use_outputs)
