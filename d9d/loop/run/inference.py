"""Inference: how a run is assembled, and its steps."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from d9d.core.dist_context import is_launched_as_main
from d9d.core.marks import collective
from d9d.core.mesh import num_launched
from d9d.core.protocol import Stateful
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.job_state import inference_state
from d9d.loop.component.checkpoint.sharded_state import describe_model
from d9d.loop.component.checkpoint.weight_mapping import WeightMapping
from d9d.loop.component.data import build_data_loader, count_samples
from d9d.loop.component.model import ModelRunner, evaluation_mode, without_gradients
from d9d.loop.component.sampler import MicroBatchSamples, SequentialBatchSampler, SequentialSteps, StepBatchSampler
from d9d.loop.config import InferenceConfig
from d9d.loop.control import InferenceTask, ProcessOutputsContext
from d9d.loop.control.provider import (
    DatasetSource,
    ModelSource,
    as_dataset_provider,
    as_model_provider,
    require_instance,
)
from d9d.loop.event import EventBus
from d9d.loop.event.bus import Emitter
from d9d.loop.event.catalogue.inference import (
    EVENT_INFERENCE_CHECKPOINT_LOADED,
    EVENT_INFERENCE_CHECKPOINT_SAVED,
    EVENT_INFERENCE_CHECKPOINT_STARTED,
    EVENT_INFERENCE_CLOSED,
    EVENT_INFERENCE_CONFIG_STARTED,
    EVENT_INFERENCE_DATA_LOADER_READY,
    EVENT_INFERENCE_FAILED,
    EVENT_INFERENCE_FINISHED,
    EVENT_INFERENCE_FORWARD_POST,
    EVENT_INFERENCE_FORWARD_PRE,
    EVENT_INFERENCE_MODEL_STAGES_READY,
    EVENT_INFERENCE_OUTPUTS_READY,
    EVENT_INFERENCE_READY,
    EVENT_INFERENCE_REPORT_READY,
    EVENT_INFERENCE_STEP_POST,
    EVENT_INFERENCE_STEP_PRE,
    EventConfigurationStartedContext,
    EventDataLoaderReadyContext,
    EventInferenceClosedContext,
    EventInferenceFailedContext,
    EventInferenceFinishedContext,
    EventInferenceOutputsReadyContext,
    EventInferenceReadyContext,
    EventModelStagesReadyContext,
    EventStepContext,
)
from d9d.loop.run.assembly import Assembly, require_stateful, require_task
from d9d.loop.run.loop import Loop, Moments, Outcome, Run
from d9d.loop.run.subscribers import SubscriberSource


class InferenceMoments(Moments):
    """The events of an inference run that belong to no step."""

    model_stages_ready = EVENT_INFERENCE_MODEL_STAGES_READY
    ready = EVENT_INFERENCE_READY
    finished = EVENT_INFERENCE_FINISHED
    step_pre = EVENT_INFERENCE_STEP_PRE
    report_ready = EVENT_INFERENCE_REPORT_READY
    checkpoint_loaded = EVENT_INFERENCE_CHECKPOINT_LOADED
    checkpoint_started = EVENT_INFERENCE_CHECKPOINT_STARTED
    checkpoint_saved = EVENT_INFERENCE_CHECKPOINT_SAVED
    failed = EVENT_INFERENCE_FAILED
    closed = EVENT_INFERENCE_CLOSED

    def trigger_failed(self, error: BaseException, last_event: str | None) -> None:  # noqa: D102 -- inherited
        self.trigger(EVENT_INFERENCE_FAILED, EventInferenceFailedContext, error=error, last_event=last_event)

    def trigger_closed(self, outcome: Outcome, reason: str) -> None:  # noqa: D102 -- inherited
        self.trigger(EVENT_INFERENCE_CLOSED, EventInferenceClosedContext, outcome=outcome, reason=reason)


class Inference(Run):
    """Runs the inference that an `InferenceConfigurator` has assembled.

    Attributes:
        task: Uses the outputs of the model.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        config: InferenceConfig,
        task: InferenceTask,
        model_runner: ModelRunner,
        batch_sampler: StepBatchSampler,
        random_state: Mapping[str, Any],
    ) -> None:
        super().__init__(loop, config.timeouts)
        self.task = task
        self._random_state = dict(random_state)
        self._model_runner = model_runner
        self._batch_sampler = batch_sampler

    @collective
    def infer(self) -> None:
        """Run the model over all samples, from the newest checkpoint of this run if there is one.

        The modes of the modules, the global random number generators, the handlers of signals and the garbage
        collector are afterwards as they were before, also after an error.

        Raises:
            CheckpointError: If the weights cannot be loaded, or the run cannot resume from its checkpoints.
            StopRequest: After a checkpoint, if a signal asked to stop; `launch` turns it into exit status 75.
        """
        random_state = self._loop.random_state
        with random_state.preserved(), evaluation_mode(self.modules), self._running():
            random_state.load_state_dict(self._random_state)
            self._load_state()
            # A resumed run triggers this event again: random numbers that its handlers draw must not shift those of
            # steps.
            with random_state.preserved():
                self._loop.moments.trigger(EVENT_INFERENCE_READY, EventInferenceReadyContext)
            with self._loop, without_gradients(self.modules):
                self._run_steps()
            self._loop.moments.trigger(EVENT_INFERENCE_FINISHED, EventInferenceFinishedContext)

    def _run_steps(self) -> None:
        loop, moments, bus, stepper = self._loop, self._loop.moments, self.event_bus, self.stepper
        context = EventStepContext(stepper=stepper, control=loop.control)
        step_pre, step_post = bus.emitter(EVENT_INFERENCE_STEP_PRE), bus.emitter(EVENT_INFERENCE_STEP_POST)
        forward_pre, forward_post = bus.emitter(EVENT_INFERENCE_FORWARD_PRE), bus.emitter(EVENT_INFERENCE_FORWARD_POST)
        outputs_ready = bus.emitter(EVENT_INFERENCE_OUTPUTS_READY)
        while not self._is_complete:
            moments.last = EVENT_INFERENCE_STEP_PRE
            step_pre.call(context)
            samples = self._batch_sampler.micro_batches(stepper.current_step)
            batches = loop.next_micro_batches(len(samples))
            moments.last = EVENT_INFERENCE_FORWARD_PRE
            forward_pre.call(context)
            self._forward(samples, batches, outputs_ready)
            moments.last = EVENT_INFERENCE_FORWARD_POST
            forward_post.call(context)
            if loop.reporter.is_due:
                loop.reporter.record()
            moments.last = EVENT_INFERENCE_STEP_POST
            step_post.call(context)
            self._boundary()

    def _forward(
        self,
        samples: Sequence[MicroBatchSamples],
        batches: Iterable[Any],
        outputs_ready: Emitter[EventInferenceOutputsReadyContext],
    ) -> None:
        stepper = self.stepper

        def use_outputs(number: int, batch: Any, outputs: Any) -> None:
            own = samples[number]
            # A repeated micro-batch ran only to keep this process in step: another process hands over its outputs.
            if own.is_repeated:
                return
            indices = tuple(own)
            self.task.process_outputs(
                ProcessOutputsContext(outputs=outputs, batch=batch, stepper=stepper, samples=indices)
            )
            self._loop.moments.last = EVENT_INFERENCE_OUTPUTS_READY
            if outputs_ready.handlers:
                outputs_ready.call(
                    EventInferenceOutputsReadyContext(
                        stepper=stepper,
                        control=self._loop.control,
                        batch=batch,
                        outputs=outputs,
                        samples=indices,
                    )
                )

        self._model_runner.forward(batches, [len(own) for own in samples], use_outputs)


class InferenceConfigurator:
    """Assembles an inference run, in the order in which the events of its configuration are declared.

    Args:
        config: Every setting that is a number, a name or a path.
        task: Uses the outputs of the model.
        model_provider: Provides the model. In a job of one process it may be the model itself, or a function or class
            that returns it.
        dataset_provider: Provides the data, which is read once and in order; may be a dataset or a list of samples.
        subscribers: Objects that listen to events, in a list, or in a mapping under names of your own. One with
            `register_events` subscribes its handlers there; of any other, all methods with `@subscribe` are subscribed.
            Metrics of its `create_metrics` are reported. If it has `state_dict` and `load_state_dict`, its state is
            saved under its name in the mapping, or else under that of its class.
        stateful: Further objects whose state belongs into checkpoints, by name. Providers, and objects whose methods
            are handlers, need not be named: their state is saved if they have `state_dict` and `load_state_dict`.
        weight_mapping: How the weights of the model correspond to those in the files of `source_checkpoint`; by default
            they have the same names and shapes.

    Raises:
        ConfigurationError: If the task is a torch module.
        TypeError: If an argument is nothing that this accepts. The message says what to pass.
    """

    def __init__(
        self,
        *,
        config: InferenceConfig,
        task: InferenceTask,
        model_provider: ModelSource,
        dataset_provider: DatasetSource,
        subscribers: SubscriberSource = (),
        stateful: Mapping[str, Stateful] | None = None,
        weight_mapping: WeightMapping | None = None,
    ) -> None:
        require_instance("config", config, InferenceConfig, remedy="pass an InferenceConfig(...)")
        require_task(task, InferenceTask)
        require_stateful(stateful)
        self._config = config
        self._task = task
        self._model_provider = as_model_provider(model_provider)
        self._dataset_provider = as_dataset_provider(dataset_provider)
        self._subscribers = subscribers
        self._stateful = stateful
        self._weight_mapping = weight_mapping or WeightMapping()

    @collective
    def configure(self) -> Inference:
        """Build everything that inference needs. The global random number generators are afterwards as before.

        Returns:
            The inference, which has not loaded its weights yet.

        Raises:
            CheckpointError: If the weights to start from cannot be read, or do not fit the model.
            ConfigurationError: If the data does not suit the configuration, or a handler can never be called; the
                model is not built then.
        """
        moments = InferenceMoments(EventBus(is_main_process=is_launched_as_main()))
        closing_seconds = self._config.timeouts.closing_seconds
        with (
            moments.failing(has_peers=num_launched() > 1, closing_seconds=closing_seconds),
            contextlib.ExitStack() as exits,
        ):
            return self._configure(moments, exits)

    def _configure(self, moments: InferenceMoments, exits: contextlib.ExitStack) -> Inference:
        config = self._config
        run = Assembly.start(
            "infer",
            config,
            moments=moments,
            task=self._task,
            model_provider=self._model_provider,
            providers={"dataset_provider": self._dataset_provider},
            subscribers=self._subscribers,
            stateful=self._stateful,
            exits=exits,
        )
        dist_context = run.dist_context
        source = run.find_source(self._weight_mapping)
        moments.trigger(
            EVENT_INFERENCE_CONFIG_STARTED,
            EventConfigurationStartedContext,
            dist_context=dist_context,
            settings=config.model_dump(mode="json"),
        )
        provided = run.provide_dataset(self._dataset_provider)
        num_samples = count_samples(provided)
        steps = SequentialSteps(num_samples, config.global_batch_size)
        stepper = Stepper(steps.num_steps)
        sampler = SequentialBatchSampler(
            steps, micro_batch_size=config.samples_per_micro_batch, stepper=stepper, share=run.data_share
        )
        loader = build_data_loader(provided, sampler, config, dist_context.device)
        reporter = run.build_reporter(stepper, steps.start_of)
        moments.trigger(EVENT_INFERENCE_DATA_LOADER_READY, EventDataLoaderReadyContext, data_loader=loader)
        housekeeping = run.build_housekeeping(stepper)
        run.verify_handlers()
        stages, tied = run.build_stages(self._model_provider, source)
        modules = [stage.module for stage in stages]
        moments.trigger(EVENT_INFERENCE_MODEL_STAGES_READY, EventModelStagesReadyContext, modules=modules)
        run.seed_per_rank()
        runner = run.build_runner(stages, stepper)
        state = inference_state(
            run.ranks,
            stepper=stepper,
            task=self._task,
            random=run.random_state,
            stateful=run.find_stateful(modules, []),
        )
        described: dict[str, Any] = {}
        if config.checkpointing is not None:
            described = describe_model(modules, run.ranks, tied.names)
            state.describe()  # state that a checkpoint cannot keep is refused now, not at the first save
        loop = run.build_loop(
            stepper=stepper,
            data_loader=loader,
            modules=modules,
            source=source,
            tied=tied,
            reporter=reporter,
            housekeeping=housekeeping,
            state=state,
            steps=steps,
            settings={
                "loop": "inference",
                "num_samples": num_samples,
                # Outputs of two sets of weights must not mix in one run.
                "source_checkpoint": None if source is None else source.identity,
                **described,
            },
        )
        return Inference(
            loop,
            config=config,
            task=self._task,
            model_runner=runner,
            batch_sampler=sampler,
            random_state=run.random_state.state_dict(),
        )
