"""Training: how a run is assembled, and its steps."""

import datetime as dt
import logging
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset

from d9d.core.dist_context import is_launched_as_main
from d9d.core.marks import collective, waits_for_device
from d9d.core.mesh import num_launched
from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol, Stateful
from d9d.core.report import Report
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.export import ExportedFiles, WeightExporter
from d9d.loop.component.checkpoint.job_state import JobState, training_state
from d9d.loop.component.checkpoint.resume import FROZEN_WEIGHTS
from d9d.loop.component.checkpoint.sharded_state import digest_of_frozen
from d9d.loop.component.checkpoint.source import SourceWeights
from d9d.loop.component.checkpoint.weight_mapping import WeightMapping
from d9d.loop.component.data import TrainingData, build_data_loader, count_samples, load_iterable_data
from d9d.loop.component.evaluation import Evaluation, Evaluator
from d9d.loop.component.exchange import Flags
from d9d.loop.component.gradients import Gradients, ignore_without_weight, is_norm_needed
from d9d.loop.component.model import ModelRunner, ModuleModes
from d9d.loop.component.optim import OptimizerBuilder, constant_lr
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.sampler import Epochs, ShufflingBatchSampler
from d9d.loop.component.sleeping import SLEEP_TAGS, Sleeper, SleepTag
from d9d.loop.component.tied_weights import TiedWeights
from d9d.loop.config import ConfigurationError, TrainingConfig
from d9d.loop.control import (
    ComputeLossContext,
    InitializeLRSchedulerContext,
    InitializeOptimizerContext,
    LRSchedulerProvider,
    OptimizerProvider,
    TrainTask,
)
from d9d.loop.control.provider import (
    DatasetSource,
    ModelSource,
    as_dataset_provider,
    as_model_provider,
    expect_methods,
    require_instance,
    require_lr_scheduler_provider,
    require_optimizer_provider,
)
from d9d.loop.control.task import as_loss_result
from d9d.loop.event import Event, EventBus
from d9d.loop.event.bus import Subscription
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CHECKPOINT_LOADED,
    EVENT_TRAIN_CHECKPOINT_SAVED,
    EVENT_TRAIN_CHECKPOINT_STARTED,
    EVENT_TRAIN_CLOSED,
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_DATA_LOADER_READY,
    EVENT_TRAIN_EPOCH_FINISHED,
    EVENT_TRAIN_EPOCH_STARTED,
    EVENT_TRAIN_EVALUATION_FINISHED,
    EVENT_TRAIN_EVALUATION_STARTED,
    EVENT_TRAIN_FAILED,
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_FORWARD_BACKWARD_POST,
    EVENT_TRAIN_FORWARD_BACKWARD_PRE,
    EVENT_TRAIN_GRADIENTS_READY,
    EVENT_TRAIN_LOSS_READY,
    EVENT_TRAIN_LR_SCHEDULER_READY,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_READY,
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_REPORT_READY,
    EVENT_TRAIN_SLEEP_POST,
    EVENT_TRAIN_SLEEP_PRE,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EVENT_TRAIN_WAKE_POST,
    EVENT_TRAIN_WAKE_PRE,
    EventConfigurationStartedContext,
    EventDataLoaderReadyContext,
    EventEpochContext,
    EventEvaluationFinishedContext,
    EventEvaluationStartedContext,
    EventGradientsReadyContext,
    EventLossReadyContext,
    EventLRSchedulerReadyContext,
    EventModelStagesReadyContext,
    EventOptimizerReadyContext,
    EventSleepContext,
    EventStepContext,
    EventTrainClosedContext,
    EventTrainFailedContext,
    EventTrainFinishedContext,
    EventTrainReadyContext,
)
from d9d.loop.event.handler import describe_handler, place_of
from d9d.loop.run.assembly import Assembly, require_names, require_stateful, require_task
from d9d.loop.run.loop import Loop, Moments, Outcome, P, Run, TContext
from d9d.loop.run.subscribers import SubscriberSource

_NUM_NAMED = 5

logger = logging.getLogger(__name__)

_ADAMW = OptimizerBuilder()


class TrainMoments(Moments):
    """The events of a training run that belong to no step."""

    model_stages_ready = EVENT_TRAIN_MODEL_STAGES_READY
    ready = EVENT_TRAIN_READY
    finished = EVENT_TRAIN_FINISHED
    step_pre = EVENT_TRAIN_STEP_PRE
    report_ready = EVENT_TRAIN_REPORT_READY
    checkpoint_loaded = EVENT_TRAIN_CHECKPOINT_LOADED
    checkpoint_started = EVENT_TRAIN_CHECKPOINT_STARTED
    checkpoint_saved = EVENT_TRAIN_CHECKPOINT_SAVED
    failed = EVENT_TRAIN_FAILED
    closed = EVENT_TRAIN_CLOSED

    def trigger_failed(self, error: BaseException, last_event: str | None) -> None:  # noqa: D102 -- inherited
        self.trigger(EVENT_TRAIN_FAILED, EventTrainFailedContext, error=error, last_event=last_event)

    def trigger_closed(self, outcome: Outcome, reason: str) -> None:  # noqa: D102 -- inherited
        self.trigger(EVENT_TRAIN_CLOSED, EventTrainClosedContext, outcome=outcome, reason=reason)


class GradientListeners:
    """Knows on all ranks alike whether any of them has a handler of `train.gradients.ready`.

    All ranks measure the gradient norm together, and scale their gradients by the same operations: replicas would
    drift apart otherwise. So a handler on one rank concerns all of them. They agree when the run is configured, and
    once more before the first step.

    Args:
        event_bus: The bus of the run.
        ranks: The ranks of the job; all of them create this at the same point.
        is_measured: Whether the norm is measured in every step even without one.

    Attributes:
        emitter: The emitter of the event.
        exist: Whether any rank has a handler, as far as all ranks know.
    """

    def __init__(self, event_bus: EventBus, ranks: Ranks, *, is_measured: bool) -> None:
        self.emitter = event_bus.emitter(EVENT_TRAIN_GRADIENTS_READY)
        self._ranks = ranks
        self._is_alone = ranks.is_alone
        self._is_measured = is_measured
        self._has_started = False
        self.exist = self._ask_all()
        if not self.exist:
            event_bus.add_guard(self._refuse_late)

    def start(self) -> None:
        """Ask all ranks for handlers that have subscribed since the run was configured, before the first step."""
        self._has_started = True
        self.exist = self.exist or self._ask_all()

    def are_listening(self) -> bool:
        """Return whether a handler may read the gradients of this step, on all ranks alike."""
        return bool(self.emitter.handlers) if self._is_alone else self.exist

    def _ask_all(self) -> bool:
        return any(self._ranks.gather(bool(self.emitter.handlers)))

    def _refuse_late(self, event: Event[Any], handler: Callable[[Any], None]) -> None:
        """Refuse a handler of which the other ranks would have to know."""
        if event != EVENT_TRAIN_GRADIENTS_READY or self.exist:
            return
        found = (
            f"handler {describe_handler(handler)} of event {event.id!r} is subscribed too late: configure() has found "
            "no handler of this event on any rank"
        )
        remedy = "pass its object in subscribers=, or subscribe it in register_events"
        if not self._is_measured:
            raise ConfigurationError(
                f"{found}. Its field `norm` is not measured in every step, and a rank cannot begin to measure it "
                f"alone: {remedy}, or set max_gradient_norm, or non_finite_gradients to 'skip' or 'stop'"
            )
        if self._has_started and not self._is_alone:
            raise ConfigurationError(
                f"{found}, and the first step has begun. Ranks with a handler scale gradients by other operations, so "
                f"replicas would drift apart: {remedy}, or before the first step"
            )


class Trainer(Run):
    """Runs the training that a `TrainingConfigurator` has assembled.

    Attributes:
        task: Computes the loss.
        optimizer: Updates the parameters of the model.
        lr_scheduler: Sets the learning rate.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        config: TrainingConfig,
        task: TrainTask,
        model_runner: ModelRunner,
        gradients: Gradients,
        gradient_listeners: GradientListeners,
        optimizer: OptimizerProtocol,
        lr_scheduler: LRSchedulerProtocol,
        exporter: WeightExporter,
        tied: TiedWeights,
        epochs: Epochs | None,
        evaluator: Evaluator | None,
        sleeper: Sleeper,
    ) -> None:
        super().__init__(loop, config.timeouts)
        self.task = task
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self._model_runner = model_runner
        self._gradients = gradients
        self._gradient_listeners = gradient_listeners
        self._exporter = exporter
        self._tied = tied
        self._epochs = epochs
        self._evaluator = evaluator
        self._sleeper = sleeper
        self._has_weights = False
        self._loaded_best: tuple[int, int] | None = None
        self._loss_ready = self.event_bus.emitter(EVENT_TRAIN_LOSS_READY)
        self._num_micro_batches = config.num_micro_batches

    @property
    def num_skipped_steps(self) -> torch.Tensor | None:
        """How many steps were skipped because their gradients were not finite: a scalar on the device.

        Counted since this process started. `None` before the first step, and with `non_finite_gradients="allow"`.
        """
        return self._gradients.num_skipped_steps

    @collective
    def train(self) -> None:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises:
            CheckpointError: If the run cannot resume from its checkpoints, or the weights to start from cannot be
                loaded.
            NonFiniteGradientsError: With `non_finite_gradients="stop"`, if the gradients of a step are not finite.
            StopRequest: After a checkpoint, if a signal asked to stop; `launch` turns it into exit status 75.
            RuntimeError: If the data ends before the last step.
        """
        for _ in self.steps():
            pass

    @collective
    def steps(self) -> Generator[EventStepContext]:
        """Train step by step, driven by the caller: reinforcement learning, a notebook, a debugger.

        ```python
        for ctx in trainer.steps():
            print(ctx.stepper.current_step)
        ```

        The code in the loop runs between two steps, where `save` acts at once. On several ranks, all of them run the
        same number of steps. Leaving the loop early ends the run: `train.closed` has the outcome `stopped`, and
        nothing is saved. A run that is left after its last step is finished.

        Yields:
            The context of the steps, when everything that was due after a step is done.

        Raises:
            BaseException: As `train`.
        """
        self._require_awake("training")
        with self._running():
            resumed_from = self._load_state()
            self._has_weights, self._loaded_best = True, None
            self._gradients.zero()
            for module in self.modules:
                # A model that is in evaluation mode as a whole, as `from_pretrained` returns it, is to be trained. In
                # others, parts that are in evaluation mode are meant to be.
                if not module.training:
                    module.train()
            # A resumed run triggers this event again: random numbers that its handlers draw must not shift those of
            # steps.
            with self._loop.random_state.preserved():
                self._loop.moments.trigger(
                    EVENT_TRAIN_READY,
                    EventTrainReadyContext,
                    modules=list(self.modules),
                    stepper=self.stepper,
                    resumed_from=resumed_from,
                )
            with self._loop:
                self._evaluate_before_first_step()
                self._gradient_listeners.start()
                try:
                    yield from self._run_steps()
                except GeneratorExit:
                    self._announce_rest()
                    if not self._is_complete:
                        raise
            self._loop.moments.trigger(EVENT_TRAIN_FINISHED, EventTrainFinishedContext)

    @collective
    @waits_for_device
    def evaluate(self, *names: str) -> dict[str, dict[str, float]]:
        """Run evaluations now, before or after the training or between two of its `steps`; all ranks call this.

        The weights are those that the model has now; before `train`, those that it begins with: of the checkpoint that
        it resumes from, of `source_checkpoint`, or those that the model provider made. Between two steps, each
        evaluation triggers its events and a report. Before and after the training no handler is called: trackers are
        not open. The results are not recorded in checkpoints. A handler of the loop calls `control.evaluate` instead.

        Args:
            *names: Which evaluations; all of them by default.

        Returns:
            The results of each by its name, in the order in which the evaluations were given to the configurator.

        Raises:
            RuntimeError: Within a step of the loop.
            ValueError: If there is no evaluation of that name.
            CheckpointError: On all ranks, if the weights to begin with cannot be loaded.
        """
        if self._is_in_loop:
            raise RuntimeError(
                "trainer.evaluate was called within the loop, where the results come later: call control.evaluate, and "
                "listen to EVENT_TRAIN_EVALUATION_FINISHED"
            )
        evaluator = self._evaluator
        if evaluator is None:
            raise ValueError("this run has no evaluations: give TrainingConfigurator evaluations={...}")
        unknown = next((name for name in names if name not in evaluator.names), None)
        if unknown is not None:
            raise ValueError(
                f"there is no evaluation named {unknown!r}: this run has {', '.join(map(repr, evaluator.names))}"
            )
        self._require_awake("trainer.evaluate()", ("parameters", "buffers"))
        self._load_weights()
        return {name: self._evaluate(name, evaluator) for name in evaluator.names if name in names or not names}

    @collective
    @waits_for_device
    def load_best(self) -> Path:
        """Load the weights of the best checkpoint into the model, and nothing else; all ranks call this.

        `checkpointing.keep_best` says what the best one is. Call this before or after the training, or between two of
        its `steps`.

        Returns:
            The folder of the checkpoint.

        Raises:
            RuntimeError: Within a step of the loop.
            ConfigurationError: If `checkpointing.keep_best` is not set.
            CheckpointError: On all ranks, if no checkpoint has the result that decides, or it cannot be loaded.
        """
        if self._is_in_loop:
            raise RuntimeError(
                "trainer.load_best was called within the loop, which is training these weights: call it after "
                "trainer.train(), or between two of trainer.steps()"
            )
        self._require_awake("trainer.load_best()", ("parameters", "buffers"))
        checkpointer = self._loop.checkpointer
        self._announce_saved(checkpointer.wait())
        if not self._has_weights:
            self._loop.load_source()  # the checkpoint may lack weights that are frozen
        best = checkpointer.load_best()
        self._has_weights, self._loaded_best = True, (self.stepper.current_step, best.num_steps)
        return best.path

    @collective
    @waits_for_device
    def export(
        self, folder: Path, *, config: ExportedFiles = (), trainable_only: bool = False, name: str = "model"
    ) -> None:
        """Write the current weights as safetensors files, as `from_pretrained` loads them; all ranks call this.

        Before `train`, they are those that it begins with, as for `evaluate`. A `weight_mapping` gives them the names
        and shapes that they have in files. A tied weight is written once.

        Args:
            folder: Where to write: a folder of this machine, the same on all ranks, that does not exist yet or is
                empty. If it holds the same weights already, from a run before, it is left as it is.
            config: What to write besides weights: objects with `save_pretrained`, such as a configuration or a
                tokenizer of transformers, and files to copy.
            trainable_only: Whether to leave out parameters that do not require a gradient, as for an adapter.
            name: The name of the files without number and suffix, such as `adapter_model` for peft.

        Raises:
            CheckpointError: On all ranks, if the weights cannot be written, or the folder holds anything else.
        """
        self._require_awake("trainer.export()", ("parameters", "buffers"))
        self._load_weights()
        self._exporter.export(folder, config=config, trainable_only=trainable_only, name=name)

    @waits_for_device
    def sleep(self, tags: SleepTag | Collection[SleepTag] = SLEEP_TAGS) -> None:
        """Move parts of the state from the device to the host, to free the device for something else.

        Tensors stay the objects that they are, so the optimizer and FSDP find them again after `wake`. Meanwhile their
        values read as NaN, and what needs them is refused: a step, `save`, `export`, `evaluate`, `load_best`. What is
        awake can be used. Call this on all ranks, between two of `steps`, or before or after the training, where it
        triggers no events.

        Args:
            tags: Some of `parameters`, `gradients`, `optimizer` and `buffers`; all of them by default. Those that sleep
                already are ignored.

        Raises:
            RuntimeError: Within a step of the loop, or if the memory of a tensor cannot be freed.
            ValueError: If there is no such tag.
        """
        changed = self._known_tags("sleep", tags) - self._sleeper.asleep
        if changed:
            self._trigger_in_run(EVENT_TRAIN_SLEEP_PRE, EventSleepContext, stepper=self.stepper, tags=changed)
            self._sleeper.sleep(changed)
            self._trigger_in_run(EVENT_TRAIN_SLEEP_POST, EventSleepContext, stepper=self.stepper, tags=changed)

    @waits_for_device
    def wake(self, tags: SleepTag | Collection[SleepTag] = SLEEP_TAGS) -> None:
        """Move parts of the state back to the device.

        Args:
            tags: As for `sleep`. Those that are awake are ignored.

        Raises:
            RuntimeError: Within a step of the loop, or if the device has no memory left.
            ValueError: If there is no such tag.
        """
        changed = self._known_tags("wake", tags) & self._sleeper.asleep
        if changed:
            self._trigger_in_run(EVENT_TRAIN_WAKE_PRE, EventSleepContext, stepper=self.stepper, tags=changed)
            self._sleeper.wake(changed)
            self._trigger_in_run(EVENT_TRAIN_WAKE_POST, EventSleepContext, stepper=self.stepper, tags=changed)

    def is_sleeping(self) -> bool:
        """Return whether any part of the state sleeps."""
        return bool(self._sleeper.asleep)

    def _known_tags(self, method: str, tags: SleepTag | Collection[SleepTag]) -> frozenset[SleepTag]:
        if self._is_in_loop:
            raise RuntimeError(
                f"trainer.{method} was called within the loop, which needs the state: call it between two of "
                "trainer.steps(), or before or after the training"
            )
        chosen = frozenset([tags] if isinstance(tags, str) else tags)
        unknown = sorted(chosen - SLEEP_TAGS)
        if unknown:
            raise ValueError(
                f"trainer.{method} got the tags {unknown}, which do not exist: use some of {sorted(SLEEP_TAGS)}"
            )
        return chosen

    def _require_awake(self, what: str, needed: Collection[SleepTag] = SLEEP_TAGS) -> None:
        self._sleeper.require_awake(what, needed)

    def _load_weights(self) -> None:
        """Load the weights that the training begins with, if it has not begun and they are not loaded yet."""
        if not self._has_weights:
            self._loop.load_source()
            self._loop.checkpointer.load_weights()
            self._has_weights = True

    def _save(self) -> None:
        self._require_awake("trainer.save()", ("parameters", "optimizer", "buffers"))
        super()._save()

    def _run_steps(self) -> Generator[EventStepContext]:
        """Take one step after the other, and yield after each."""
        loop, moments, bus, gradients = self._loop, self._loop.moments, self.event_bus, self._gradients
        stepper, epochs = self.stepper, self._epochs
        context = EventStepContext(stepper=stepper, control=loop.control)
        step_pre, step_post = bus.emitter(EVENT_TRAIN_STEP_PRE), bus.emitter(EVENT_TRAIN_STEP_POST)
        forward_backward_pre = bus.emitter(EVENT_TRAIN_FORWARD_BACKWARD_PRE)
        forward_backward_post = bus.emitter(EVENT_TRAIN_FORWARD_BACKWARD_POST)
        gradients_ready = self._gradient_listeners.emitter
        optimizer_step_pre = bus.emitter(EVENT_TRAIN_OPTIMIZER_STEP_PRE)
        optimizer_step_post = bus.emitter(EVENT_TRAIN_OPTIMIZER_STEP_POST)
        modes = ModuleModes(self.modules)
        while not self._is_complete:
            if self._sleeper.asleep:
                self._require_awake("a step")
            moments.last = EVENT_TRAIN_STEP_PRE
            step_pre.call(context)
            for epoch in () if epochs is None else epochs.started_in(stepper.current_step):
                moments.trigger(
                    EVENT_TRAIN_EPOCH_STARTED, EventEpochContext, stepper=stepper, control=loop.control, epoch=epoch
                )
            batches = loop.next_micro_batches(self._num_micro_batches)
            gradients.begin_step()
            moments.last = EVENT_TRAIN_FORWARD_BACKWARD_PRE
            forward_backward_pre.call(context)
            if changed := modes.take_changes():
                self._warn_of_modes(changed, modes)
            self._model_runner.forward_backward(batches, self._compute_loss)
            moments.last = EVENT_TRAIN_FORWARD_BACKWARD_POST
            forward_backward_post.call(context)
            if self._tied.names:
                self._tied.sum_gradients()
            is_reported = loop.reporter.is_due
            loss, gradient_norm = gradients.reduce(
                is_observed=self._gradient_listeners.are_listening(), is_reported=is_reported
            )
            moments.last = EVENT_TRAIN_GRADIENTS_READY
            if gradients_ready.handlers:
                moments.trigger(
                    EVENT_TRAIN_GRADIENTS_READY,
                    EventGradientsReadyContext,
                    stepper=stepper,
                    control=loop.control,
                    modules=list(self.modules),
                    norm=gradients.norm,
                    skip_update=gradients.skip_update,
                )
            gradients.clip()
            moments.last = EVENT_TRAIN_OPTIMIZER_STEP_PRE
            optimizer_step_pre.call(context)
            self.optimizer.step()
            moments.last = EVENT_TRAIN_OPTIMIZER_STEP_POST
            optimizer_step_post.call(context)
            gradients.zero()
            if is_reported:
                loop.reporter.record(loss, gradient_norm, self.optimizer, gradients.num_skipped_steps)
            self.lr_scheduler.step()
            moments.last = EVENT_TRAIN_STEP_POST
            step_post.call(context)
            for epoch in () if epochs is None else epochs.finished_in(stepper.current_step):
                moments.trigger(
                    EVENT_TRAIN_EPOCH_FINISHED, EventEpochContext, stepper=stepper, control=loop.control, epoch=epoch
                )
            self._boundary()
            self._is_in_loop = False
            yield context
            self._is_in_loop = True

    def _warn_of_modes(self, changed: Sequence[str], modes: ModuleModes) -> None:
        """Log which modules have changed their mode, and which handlers may have done it; from now on, find out."""
        named = ", ".join(changed[:_NUM_NAMED])
        if len(changed) > _NUM_NAMED:
            named += f" and {len(changed) - _NUM_NAMED} more"
        handlers = {each.handler: each for each in self.event_bus.describe() if each.event_id.startswith("train.")}
        logger.warning(
            "before the forward passes of step %d, the task or a handler has switched modules between training and "
            "evaluation mode: %s. The handlers are: %s. A handler that evaluates the model should give the modes back; "
            "evaluations={...} of TrainingConfigurator do",
            self.stepper.current_step + 1,
            named,
            ", ".join(f"{name} ({each.file}:{each.line})" for name, each in sorted(handlers.items())) or "none",
        )
        # Only now: to look after each handler takes longer than most handlers of a step.
        self.event_bus.watch(lambda subscription: modes.watch(lambda: self._name_handler_of_modes(subscription)))

    def _name_handler_of_modes(self, subscription: Subscription) -> None:
        self.event_bus.watch(None)
        file, line = place_of(subscription.handler)
        logger.warning(
            "handler %s (%s:%s) of event %r has switched modules between training and evaluation mode, and has not "
            "given the modes back",
            *(describe_handler(subscription.handler), file, line, subscription.event.id),
        )

    def _evaluate_before_first_step(self) -> None:
        """Run the evaluations that are due before the first step, or that the run had no time for when it stopped."""
        evaluator, pending = self._evaluator, self._pending_evaluations
        self._pending_evaluations = []
        unknown = [name for name in pending if evaluator is None or name not in evaluator.names]
        if unknown and self._loop.ranks.is_main:
            logger.warning(
                "the evaluations that were left to do when the run stopped are no longer there: %s",
                ", ".join(map(repr, unknown)),
            )
        if evaluator is None:
            return
        if pending:
            for name in evaluator.names:
                if name in pending:
                    self._loop.checkpointer.record_evaluation(name, self._evaluate(name, evaluator))
            self._loop.checkpointer.complete_evaluations()
        elif self.stepper.current_step == 0:
            for name in evaluator.due_at_start():
                self._loop.checkpointer.record_evaluation(name, self._evaluate(name, evaluator))

    def _evaluate_due(self, agreed: Flags, *, is_stopped: bool) -> bool:
        evaluator = self._evaluator
        if evaluator is None:
            return False
        due = evaluator.due_after_step(agreed.evaluations, is_over=self._is_complete)
        if is_stopped:
            self._pending_evaluations = due
            self._loop.checkpointer.postpone_evaluations(due)
            return False
        is_best = [self._loop.checkpointer.record_evaluation(name, self._evaluate(name, evaluator)) for name in due]
        return any(is_best)

    def _evaluate(self, name: str, evaluator: Evaluator) -> dict[str, float]:
        """Run an evaluation; with its events, if it is between two steps."""
        loop = self._loop
        stepper, control = loop.stepper, loop.control
        self._trigger_in_run(
            EVENT_TRAIN_EVALUATION_STARTED, EventEvaluationStartedContext, stepper=stepper, control=control, name=name
        )
        metrics = evaluator.evaluate(name, self._model_runner, self.modules, loop.exchange.ranks)
        self._trigger_in_run(
            EVENT_TRAIN_EVALUATION_FINISHED,
            EventEvaluationFinishedContext,
            stepper=stepper,
            control=control,
            name=name,
            metrics=dict(metrics),  # what handlers do with it does not change the results that are recorded
        )
        if metrics and loop.moments.is_running:
            numbers = {f"{name}/{number}": value for number, value in metrics.items()}
            self._report(Report(step=self._step_of_weights, time=dt.datetime.now(dt.UTC), metrics=numbers))
        return metrics

    @property
    def _step_of_weights(self) -> int:
        """The number of steps after which the model had the weights that it has now."""
        step = self.stepper.current_step
        if self._loaded_best is not None and self._loaded_best[0] == step:  # no step has changed them since
            return self._loaded_best[1]
        return step

    def _trigger_in_run(
        self, event: Event[TContext], context: Callable[P, TContext], *args: P.args, **fields: P.kwargs
    ) -> None:
        """Trigger an event of something that the caller can do before and after the run too, where it has no events."""
        moments = self._loop.moments
        if moments.is_running:
            moments.trigger(event, context, *args, **fields)
            return
        handlers = [each.handler for each in self.event_bus.describe() if each.event_id == event.id]
        # Others may change what is evaluated, such as by loading averages; what waits for results gets none.
        if handlers and event != EVENT_TRAIN_EVALUATION_FINISHED and self._loop.ranks.is_main:
            logger.warning(
                "handlers are called during the run only, so what these do at event %r does not happen now: %s",
                event.id,
                ", ".join(handlers),
            )

    def _compute_loss(self, number: int, batch: Any, outputs: Any) -> torch.Tensor:
        """Compute the loss of a micro-batch of a training step, and return it times its weight."""
        loop = self._loop
        result = as_loss_result(
            self.task.compute_loss(ComputeLossContext(outputs=outputs, batch=batch, stepper=loop.stepper)),
            self.task.compute_loss,
        )
        if result.loss_sum is None:
            ignore_without_weight(outputs, result.loss_weight)
        weighted = self._gradients.scale_loss(result)
        if not weighted.requires_grad:
            method = self.task.compute_loss.__qualname__
            raise ValueError(
                f"{method} returned a loss without gradients, so nothing could be trained: compute it from "
                "ctx.outputs, without detach() and torch.no_grad()"
            )
        loop.moments.last = EVENT_TRAIN_LOSS_READY
        if self._loss_ready.handlers:
            self._loss_ready.call(
                EventLossReadyContext(
                    stepper=loop.stepper,
                    control=loop.control,
                    micro_batch_index=number,
                    batch=batch,
                    outputs=outputs,
                    loss=result.loss.detach(),
                    loss_weight=result.loss_weight,
                )
            )
        return weighted


class TrainingConfigurator:
    """Assembles a training run, in the order in which the events of its configuration are declared.

    Args:
        config: Every setting that is a number, a name or a path.
        task: Computes the loss.
        model_provider: Provides the model. In a job of one process it may be the model itself, or a function or class
            that returns it.
        dataset_provider: Provides the data; may be a dataset or a list of samples.
        optimizer_provider: Provides the optimizer; by default torch's AdamW with its default options.
        lr_scheduler_provider: Provides the learning rate scheduler; by default the learning rate is constant.
        evaluations: What the model is evaluated on during training, by name: it is part of the names of the results in
            reports, such as `validation/loss`. Several that are due after one step run in this order.
        subscribers: Objects that listen to events, in a list, or in a mapping under names of your own. One with
            `register_events` subscribes its handlers there; of any other, all methods with `@subscribe` are subscribed.
            Metrics of its `create_metrics` are reported. If it has `state_dict` and `load_state_dict`, its state is
            saved under its name in the mapping, or else under that of its class.
        stateful: Further objects whose state belongs into checkpoints, by name. Providers, and objects whose methods
            are handlers, need not be named: their state is saved if they have `state_dict` and `load_state_dict`.
        weight_mapping: How the weights of the model correspond to those in the files of `source_checkpoint` and in
            exports; by default they have the same names and shapes.
        resume_mapping: How the weights in checkpoints of this run correspond to those of the model, if it has changed
            since. The moments of the optimizer follow their weights. By default the model must not have changed.

    Raises:
        ConfigurationError: If the task is a torch module.
        TypeError: If an argument is nothing that this accepts. The message says what to pass.
    """

    def __init__(
        self,
        *,
        config: TrainingConfig,
        task: TrainTask,
        model_provider: ModelSource,
        dataset_provider: DatasetSource,
        optimizer_provider: OptimizerProvider = _ADAMW,
        lr_scheduler_provider: LRSchedulerProvider = constant_lr,
        evaluations: Mapping[str, Evaluation] | None = None,
        subscribers: SubscriberSource = (),
        stateful: Mapping[str, Stateful] | None = None,
        weight_mapping: WeightMapping | None = None,
        resume_mapping: WeightMapping | None = None,
    ) -> None:
        require_instance("config", config, TrainingConfig, remedy="pass a TrainingConfig(...)")
        require_task(task, TrainTask)
        require_optimizer_provider(optimizer_provider)
        require_lr_scheduler_provider(lr_scheduler_provider)
        require_names("evaluations", evaluations)
        require_stateful(stateful)
        self._config = config
        self._task = task
        self._model_provider = as_model_provider(model_provider)
        self._dataset_provider = as_dataset_provider(dataset_provider)
        self._optimizer_provider = optimizer_provider
        self._lr_scheduler_provider = lr_scheduler_provider
        self._evaluations = evaluations
        self._subscribers = subscribers
        self._stateful = stateful
        self._weight_mapping = weight_mapping or WeightMapping()
        self._resume_mapping = resume_mapping

    @collective
    def configure(self) -> Trainer:
        """Build everything that training needs.

        Returns:
            The trainer, which has not loaded a checkpoint yet.

        Raises:
            CheckpointError: If the weights to start from cannot be read, or do not fit the model.
            ConfigurationError: If the data does not suit the configuration, or a handler can never be called; the
                model is not built then.
        """
        moments = TrainMoments(EventBus(is_main_process=is_launched_as_main()))
        with moments.failing(has_peers=num_launched() > 1, closing_seconds=self._config.timeouts.closing_seconds):
            return self._configure(moments)

    def _configure(self, moments: TrainMoments) -> Trainer:
        config = self._config
        run = Assembly.start(
            "train",
            config,
            moments=moments,
            task=self._task,
            model_provider=self._model_provider,
            providers={
                "dataset_provider": self._dataset_provider,
                "optimizer_provider": self._optimizer_provider,
                "lr_scheduler_provider": self._lr_scheduler_provider,
            },
            subscribers=self._subscribers,
            stateful=self._stateful,
            evaluations=self._evaluations,
        )
        dist_context = run.dist_context
        # A run that resumes with all weights does not read the source, which may have been moved away since.
        has_all_weights = run.has_checkpoint() and not run.saves_trainable_only
        source = None if has_all_weights else run.find_source(self._weight_mapping)
        moments.trigger(
            EVENT_TRAIN_CONFIG_STARTED,
            EventConfigurationStartedContext,
            dist_context=dist_context,
            settings=config.model_dump(mode="json"),
        )
        stepper = Stepper(config.total_steps)
        reporter = run.build_reporter(stepper)
        data = self._build_data(run, stepper)
        evaluator = None
        if run.evaluations:
            evaluator = Evaluator(
                run.evaluations,
                provide=lambda source: run.provide_dataset(as_dataset_provider(source)),
                task=self._task,
                config=config,
                reporter=reporter,
                stepper=stepper,
                epochs=data.epochs,
                random_state=run.random_state,
                dist_context=dist_context,
                share=run.data_share,
            )
        moments.trigger(EVENT_TRAIN_DATA_LOADER_READY, EventDataLoaderReadyContext, data_loader=data.loader)
        housekeeping = run.build_housekeeping(stepper)
        run.verify_handlers(has_epochs=data.epochs is not None)
        stages, tied = run.build_stages(self._model_provider, source, self._resume_mapping)
        modules = [stage.module for stage in stages]
        moments.trigger(EVENT_TRAIN_MODEL_STAGES_READY, EventModelStagesReadyContext, modules=modules)
        optimizer = expect_methods(
            self._optimizer_provider(InitializeOptimizerContext(dist_context=dist_context, modules=modules)),
            ("step", "zero_grad"),
            "optimizer_provider",
            remedy="return an optimizer, such as one of torch.optim",
        )
        moments.trigger(EVENT_TRAIN_OPTIMIZER_READY, EventOptimizerReadyContext, optimizer=optimizer)
        lr_scheduler = expect_methods(
            self._lr_scheduler_provider(
                InitializeLRSchedulerContext(
                    dist_context=dist_context, optimizer=optimizer, total_steps=config.total_steps
                )
            ),
            ("step",),
            "lr_scheduler_provider",
            remedy="return a scheduler, such as one of torch.optim.lr_scheduler",
        )
        moments.trigger(EVENT_TRAIN_LR_SCHEDULER_READY, EventLRSchedulerReadyContext, lr_scheduler=lr_scheduler)
        run.seed_per_rank()
        runner = run.build_runner(stages, stepper)
        tied.require_same_steps(optimizer)
        listeners = GradientListeners(moments.event_bus, run.ranks, is_measured=is_norm_needed(config))
        gradients = Gradients(
            modules,
            optimizer=optimizer,
            config=config,
            stepper=stepper,
            dist_context=dist_context,
            copies=tied.copies,
            always_measure=listeners.exist,
        )
        state = training_state(
            run.ranks,
            stepper=stepper,
            data=data.state,
            modules=modules,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            task=self._task,
            random=run.random_state,
            stateful=run.find_stateful(modules, [optimizer, lr_scheduler, *data.state.values()]),
            tied=tied.names,
            trainable_only=run.saves_trainable_only,
            mapping=self._resume_mapping,
        )
        loop = run.build_loop(
            stepper=stepper,
            data_loader=data.loader,
            modules=modules,
            source=source,
            tied=tied,
            reporter=reporter,
            housekeeping=housekeeping,
            state=state,
            settings={
                "optimizer_class": _name_of(optimizer),
                "lr_scheduler_class": _name_of(lr_scheduler),
                **self._settings(data, state),
                **(frozen_weights_of(modules, source, run.ranks) if run.saves_trainable_only else {}),
            },
            require_savable=gradients.require_finite,
            epochs=data.epochs,
        )
        return Trainer(
            loop,
            config=config,
            task=self._task,
            model_runner=runner,
            gradients=gradients,
            gradient_listeners=listeners,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            tied=tied,
            exporter=WeightExporter(modules, run.ranks, self._weight_mapping, tied.names),
            epochs=data.epochs,
            evaluator=evaluator,
            sleeper=Sleeper(modules, optimizer, dist_context.device),
        )

    def _build_data(self, run: Assembly, stepper: Stepper) -> TrainingData:
        """Build the data loader: in a new random order each epoch, unless the data is iterable."""
        config = self._config
        provided = run.provide_dataset(self._dataset_provider)
        if isinstance(provided.dataset, IterableDataset):
            return load_iterable_data(provided, config, run.dist_context)
        num_samples = count_samples(provided)
        epochs = Epochs(num_samples, config.global_batch_size, config.seed)
        sampler = ShufflingBatchSampler(
            num_samples=num_samples,
            global_batch_size=config.global_batch_size,
            micro_batch_size=config.samples_per_micro_batch,
            seed=config.seed,
            stepper=stepper,
            share=run.data_share,
            epochs=epochs,
        )
        loader = build_data_loader(provided, sampler, config, run.dist_context.device)
        return TrainingData(loader, {"num_samples": num_samples}, epochs)

    def _settings(self, data: TrainingData, state: JobState) -> dict[str, Any]:
        """Return what this job must share with a checkpoint to resume from it."""
        config = self._config
        described = {} if config.checkpointing is None else state.describe("model", "optimizer", "lr_scheduler")
        return {
            "loop": "train",
            "total_steps": config.total_steps,
            "max_gradient_norm": config.max_gradient_norm,
            "gradient_dtype": config.gradient_dtype,
            **data.settings,
            **described,
        }


def frozen_weights_of(modules: Sequence[nn.Module], source: SourceWeights | None, ranks: Ranks) -> dict[str, str]:
    """Return the setting that says which weights a checkpoint without frozen weights belongs to; all ranks call this.

    Args:
        modules: The stages of the model on this rank.
        source: Where the frozen weights are loaded from; `None` if the model provider made them.
        ranks: The ranks of the job.
    """
    if source is not None:
        return {"source_checkpoint": source.identity}
    return {FROZEN_WEIGHTS: digest_of_frozen(modules, ranks)}


def _name_of(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"
