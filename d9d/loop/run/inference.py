"""Inference: its assembly and its steps."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import Stateful
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.export import WeightSource
from d9d.loop.component.checkpoint.job_state import find_participants, inference_state
from d9d.loop.component.checkpoint.manager import Checkpointer
from d9d.loop.component.checkpoint.sharded_state import describe_model
from d9d.loop.component.checkpoint.storage import describe_job
from d9d.loop.component.data import DeviceTransfer, read
from d9d.loop.component.garbage_collector import GarbageCollector
from d9d.loop.component.model import ModelRunner, without_gradients
from d9d.loop.component.profiler import Profiler
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.reporting import Reporter, build_reporter
from d9d.loop.component.sampler import MicroBatchSamples, StepBatchSampler
from d9d.loop.component.shutdown import Shutdown
from d9d.loop.config import InferenceConfig
from d9d.loop.control import (
    DatasetProvider,
    InferenceTask,
    ModelProvider,
    ProcessOutputsContext,
)
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.inference import (
    EVENT_INFERENCE_CONFIG_STARTED,
    EVENT_INFERENCE_DATA_LOADER_READY,
    EVENT_INFERENCE_FINISHED,
    EVENT_INFERENCE_FORWARD_POST,
    EVENT_INFERENCE_FORWARD_PRE,
    EVENT_INFERENCE_MODEL_STAGES_READY,
    EVENT_INFERENCE_READY,
    EVENT_INFERENCE_STEP_POST,
    EVENT_INFERENCE_STEP_PRE,
    EventConfigurationStartedContext,
    EventDataLoaderReadyContext,
    EventInferenceFinishedContext,
    EventInferenceReadyContext,
    EventModelStagesReadyContext,
    EventStepContext,
)
from d9d.loop.run.assembly import (
    build_inference_data,
    build_runner,
    build_stages,
    find_source,
    identify,
    load_source,
    seed_apart,
    start_run,
)


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
    source: WeightSource | None
    ranks: Ranks
    random_state: RandomState
    checkpointer: Checkpointer
    garbage_collector: GarbageCollector
    profiler: Profiler
    interruption: Shutdown

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
            self.reporter.record()
            step_post(moment)
            self._end_step()

    def _end_step(self) -> None:
        self.stepper.advance()
        self.interruption.step_done()
        self.reporter.step_done()
        self.checkpointer.step_done()
        self.garbage_collector.step_done()
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


class InferenceConfigurator:
    """Assembles an inference run, in the order in which the events of its configuration are declared.

    Args:
        config: Every setting that is a number, a name or a path.
        task: Uses the outputs of the model.
        model_provider: Brings the model.
        dataset_provider: Brings the data, which is run through once and in order.
        stateful: Anything else whose state belongs into checkpoints, by name. Providers, and objects whose methods
            listen to events, need not be named: those that have a `state_dict` and a `load_state_dict` take part.
    """

    def __init__(
        self,
        *,
        config: InferenceConfig,
        task: InferenceTask,
        model_provider: ModelProvider,
        dataset_provider: DatasetProvider,
        stateful: Mapping[str, Stateful] | None = None,
    ) -> None:
        self._config = config
        self._task = task
        self._model_provider = model_provider
        self._dataset_provider = dataset_provider
        self._stateful = stateful or {}

    def configure(self) -> Inference:
        """Build everything that inference needs.

        Returns:
            The inference, which has not loaded its weights yet.

        Raises:
            CheckpointError: If the source of the weights cannot be loaded; the model is not built then.
            ConfigurationError: If the data does not suit the configuration; the model is not built then.
        """
        config, bus = self._config, EventBus()
        dist_context, random_state = start_run(bus, config, self._task, self._model_provider)
        ranks = Ranks.of(dist_context)
        source = find_source(config, ranks)
        bus.trigger(EVENT_INFERENCE_CONFIG_STARTED, EventConfigurationStartedContext(dist_context=dist_context))
        data = build_inference_data(self._dataset_provider, config, dist_context)
        stepper, num_samples = data.stepper, data.num_samples
        reporter = build_reporter(
            "infer", config, task=self._task, stepper=stepper, dist_context=dist_context, num_samples=num_samples
        )
        bus.trigger(EVENT_INFERENCE_DATA_LOADER_READY, EventDataLoaderReadyContext(data_loader=data.loader))
        profiler = Profiler(config.profiling, dist_context, stepper)
        stages = build_stages(self._model_provider, config, dist_context)
        modules = [stage.module for stage in stages]
        bus.trigger(EVENT_INFERENCE_MODEL_STAGES_READY, EventModelStagesReadyContext(modules=modules))
        seed_apart(random_state, config, dist_context)
        interruption = Shutdown(dist_context, stepper, config.timeouts)
        return Inference(
            event_bus=bus,
            stepper=stepper,
            task=self._task,
            batch_sampler=data.sampler,
            data_loader=data.loader,
            device_transfer=DeviceTransfer(dist_context.device),
            modules=modules,
            model_runner=build_runner(
                stages, config=config, task=self._task, stepper=stepper, dist_context=dist_context
            ),
            reporter=reporter,
            source=source,
            ranks=ranks,
            random_state=random_state,
            garbage_collector=GarbageCollector(config.garbage_collection_period_steps, stepper),
            profiler=profiler,
            interruption=interruption,
            checkpointer=self._build_checkpointer(
                num_samples,
                source,
                dist_context,
                bus=bus,
                stepper=stepper,
                modules=modules,
                random=random_state,
                interruption=interruption,
            ),
        )

    def _build_checkpointer(
        self,
        num_samples: int,
        source: WeightSource | None,
        dist_context: DistributedContext,
        *,
        bus: EventBus,
        stepper: Stepper,
        modules: Sequence[nn.Module],
        random: RandomState,
        interruption: Shutdown,
    ) -> Checkpointer:
        config = self._config
        ranks = Ranks.of(dist_context)
        participants = self._find_participants(bus, modules, ranks)
        state = inference_state(ranks, stepper=stepper, task=self._task, random=random, participants=participants)
        settings = {
            "loop": "inference",
            "global_batch_size": config.global_batch_size,
            "micro_batch_size": config.samples_per_micro_batch,
            "seed": config.seed,
            "precision": config.precision,
            "num_samples": num_samples,
            # Outputs of two sets of weights must not mix in one run.
            "source_checkpoint": identify(source),
            **(describe_model(modules, ranks) if config.checkpointing is not None else {}),
        }
        if config.checkpointing is not None:
            state.describe()  # state that cannot be kept is refused now, not at the first save
        return Checkpointer(
            config.checkpointing,
            stepper=stepper,
            state=state,
            settings=settings,
            ranks=ranks,
            notes=describe_job(config),
            is_stopping=lambda: interruption.is_due,
        )

    def _find_participants(self, bus: EventBus, modules: Sequence[nn.Module], ranks: Ranks) -> dict[str, Stateful]:
        if self._config.checkpointing is None:
            return {}
        providers = {"model_provider": self._model_provider, "dataset_provider": self._dataset_provider}
        return find_participants(
            providers, self._stateful, bus.subscribers, others=[self._task], modules=modules, ranks=ranks
        )
