"""Training: its assembly and its steps."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol, Stateful
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.export import WeightExporter, WeightSource
from d9d.loop.component.checkpoint.job_state import find_participants, training_state
from d9d.loop.component.checkpoint.manager import Checkpointer
from d9d.loop.component.checkpoint.storage import describe_job
from d9d.loop.component.data import DeviceTransfer, TrainingData, begin_reading
from d9d.loop.component.garbage_collector import GarbageCollector
from d9d.loop.component.gradients import GradientAccumulator, GradientClipper, GradientDtype, NonFiniteGradients
from d9d.loop.component.model import ModelRunner, ModelStage
from d9d.loop.component.optim import OptimizerBuilder, constant_lr
from d9d.loop.component.profiler import Profiler
from d9d.loop.component.random_state import RandomState
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.reporting import Reporter, build_reporter
from d9d.loop.component.shutdown import Shutdown
from d9d.loop.config import TrainingConfig
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    DatasetProvider,
    InitializeLRSchedulerContext,
    InitializeOptimizerContext,
    LRSchedulerProvider,
    ModelProvider,
    OptimizerProvider,
    TrainTask,
)
from d9d.loop.control.provider import expect_result
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_DATA_LOADER_READY,
    EVENT_TRAIN_FINISHED,
    EVENT_TRAIN_FORWARD_BACKWARD_POST,
    EVENT_TRAIN_FORWARD_BACKWARD_PRE,
    EVENT_TRAIN_LR_SCHEDULER_READY,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_READY,
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EVENT_TRAIN_OPTIMIZER_STEP_PRE,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventConfigurationStartedContext,
    EventDataLoaderReadyContext,
    EventLRSchedulerReadyContext,
    EventModelStagesReadyContext,
    EventOptimizerReadyContext,
    EventStepContext,
    EventTrainFinishedContext,
    EventTrainReadyContext,
)
from d9d.loop.run.assembly import (
    build_runner,
    build_stages,
    build_training_data,
    find_initial_source,
    load_source,
    seed_apart,
    start_run,
)


@dataclasses.dataclass(kw_only=True, frozen=True)
class TrainingParts:
    """What a trainer is made of, once all events of its configuration have been triggered."""

    event_bus: EventBus
    dist_context: DistributedContext
    random_state: RandomState
    stepper: Stepper
    reporter: Reporter
    data: TrainingData
    profiler: Profiler
    source: WeightSource | None
    stages: list[ModelStage]
    optimizer: OptimizerProtocol
    lr_scheduler: LRSchedulerProtocol

    @property
    def modules(self) -> list[nn.Module]:
        """The stages of the model that this process holds, in pipeline order."""
        return [stage.module for stage in self.stages]


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
        gradient_upcast: Gathers them in more bits than the optimizer gets.
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
    source: WeightSource | None
    ranks: Ranks
    optimizer: OptimizerProtocol
    lr_scheduler: LRSchedulerProtocol
    num_micro_batches: int
    device_transfer: DeviceTransfer
    model_runner: ModelRunner
    gradient_accumulator: GradientAccumulator
    gradient_clipper: GradientClipper
    gradient_upcast: GradientDtype
    non_finite_gradients: NonFiniteGradients
    reporter: Reporter
    random_state: RandomState
    checkpointer: Checkpointer
    weight_exporter: WeightExporter
    garbage_collector: GarbageCollector
    profiler: Profiler
    interruption: Shutdown

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
            self.gradient_upcast.widen()
            forward_backward_pre(moment)
            self.model_runner.forward_backward(moved, self._compute_loss)
            forward_backward_post(moment)
            loss = self.gradient_accumulator.finish()
            gradient_norm = self.gradient_clipper.clip()
            self.non_finite_gradients.judge(gradient_norm)
            self.gradient_upcast.narrow()
            optimizer_step_pre(moment)
            self.optimizer.step()
            optimizer_step_post(moment)
            self.gradient_accumulator.discard(self.optimizer)
            self.reporter.record(loss, gradient_norm, self.optimizer)
            self.lr_scheduler.step()
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

    def _compute_loss(self, outputs: Any, batch: Any) -> torch.Tensor:
        result = self.task.compute_loss(ComputeLossContext(outputs=outputs, batch=batch, stepper=self.stepper))
        return self.gradient_accumulator.weigh(expect_result(result, ComputeLossResult, self.task.compute_loss))


_ADAMW = OptimizerBuilder(torch.optim.AdamW)


class TrainingConfigurator:
    """Assembles a training run, in the order in which the events of its configuration are declared.

    Args:
        config: Every setting that is a number, a name or a path.
        task: Computes the loss.
        model_provider: Brings the model.
        dataset_provider: Brings the data.
        optimizer_provider: Brings the optimizer; by default torch's AdamW with its own defaults.
        lr_scheduler_provider: Brings the learning rate scheduler; by default the rate stays as it is.
        stateful: Anything else whose state belongs into checkpoints, by name. Providers, and objects whose methods
            listen to events, need not be named: those that have a `state_dict` and a `load_state_dict` take part.
    """

    def __init__(
        self,
        *,
        config: TrainingConfig,
        task: TrainTask,
        model_provider: ModelProvider,
        dataset_provider: DatasetProvider,
        optimizer_provider: OptimizerProvider = _ADAMW,
        lr_scheduler_provider: LRSchedulerProvider = constant_lr,
        stateful: Mapping[str, Stateful] | None = None,
    ) -> None:
        self._config = config
        self._task = task
        self._model_provider = model_provider
        self._dataset_provider = dataset_provider
        self._optimizer_provider = optimizer_provider
        self._lr_scheduler_provider = lr_scheduler_provider
        self._stateful = stateful or {}

    def configure(self) -> Trainer:
        """Build everything that training needs.

        Returns:
            The trainer, which has not loaded a checkpoint yet.

        Raises:
            CheckpointError: If the weights to begin with cannot be loaded; the model is not built then.
            ConfigurationError: If the data does not suit the configuration; the model is not built then.
        """
        config = self._config
        bus = EventBus()
        dist_context, random_state = start_run(bus, config, self._task, self._model_provider)
        source = find_initial_source(config, Ranks.of(dist_context))
        bus.trigger(EVENT_TRAIN_CONFIG_STARTED, EventConfigurationStartedContext(dist_context=dist_context))
        stepper = Stepper(config.total_steps)
        reporter = build_reporter("train", config, task=self._task, stepper=stepper, dist_context=dist_context)
        data = build_training_data(self._dataset_provider, config, dist_context, stepper)
        bus.trigger(EVENT_TRAIN_DATA_LOADER_READY, EventDataLoaderReadyContext(data_loader=data.loader))
        profiler = Profiler(config.profiling, dist_context, stepper)
        stages = build_stages(self._model_provider, config, dist_context)
        modules = [stage.module for stage in stages]
        bus.trigger(EVENT_TRAIN_MODEL_STAGES_READY, EventModelStagesReadyContext(modules=modules))
        optimizer, lr_scheduler = self._build_optimizer(bus, dist_context, modules)
        seed_apart(random_state, config, dist_context)
        return self._assemble(
            TrainingParts(
                event_bus=bus,
                dist_context=dist_context,
                random_state=random_state,
                stepper=stepper,
                reporter=reporter,
                data=data,
                profiler=profiler,
                source=source,
                stages=stages,
                optimizer=optimizer,
                lr_scheduler=lr_scheduler,
            )
        )

    def _assemble(self, parts: TrainingParts) -> Trainer:
        config, dist_context, stepper = self._config, parts.dist_context, parts.stepper
        parameters = [parameter for module in parts.modules for parameter in module.parameters()]
        interruption = Shutdown(dist_context, stepper, config.timeouts)
        return Trainer(
            event_bus=parts.event_bus,
            stepper=stepper,
            task=self._task,
            data_loader=parts.data.loader,
            modules=parts.modules,
            source=parts.source,
            ranks=Ranks.of(dist_context),
            optimizer=parts.optimizer,
            lr_scheduler=parts.lr_scheduler,
            num_micro_batches=config.num_micro_batches,
            device_transfer=DeviceTransfer(dist_context.device),
            model_runner=build_runner(
                parts.stages, config=config, task=self._task, stepper=stepper, dist_context=dist_context
            ),
            gradient_accumulator=GradientAccumulator(parameters, dist_context),
            gradient_clipper=GradientClipper(
                parameters,
                config.max_gradient_norm,
                dist_context,
                always_measure=config.non_finite_gradients != "allow",
            ),
            gradient_upcast=GradientDtype(parts.modules, config.gradient_dtype),
            non_finite_gradients=NonFiniteGradients(config, parts.optimizer, stepper),
            reporter=parts.reporter,
            random_state=parts.random_state,
            garbage_collector=GarbageCollector(config.garbage_collection_period_steps, stepper),
            profiler=parts.profiler,
            interruption=interruption,
            checkpointer=self._build_checkpointer(parts, interruption),
            weight_exporter=WeightExporter(parts.modules, Ranks.of(dist_context)),
        )

    def _build_optimizer(
        self, bus: EventBus, dist_context: DistributedContext, modules: list[nn.Module]
    ) -> tuple[OptimizerProtocol, LRSchedulerProtocol]:
        optimizer = self._optimizer_provider(InitializeOptimizerContext(dist_context=dist_context, modules=modules))
        bus.trigger(EVENT_TRAIN_OPTIMIZER_READY, EventOptimizerReadyContext(optimizer=optimizer))
        lr_scheduler = self._lr_scheduler_provider(
            InitializeLRSchedulerContext(
                dist_context=dist_context, optimizer=optimizer, total_steps=self._config.total_steps
            )
        )
        bus.trigger(EVENT_TRAIN_LR_SCHEDULER_READY, EventLRSchedulerReadyContext(lr_scheduler=lr_scheduler))
        return optimizer, lr_scheduler

    def _build_checkpointer(self, parts: TrainingParts, interruption: Shutdown) -> Checkpointer:
        config, ranks = self._config, Ranks.of(parts.dist_context)
        state = training_state(
            ranks,
            stepper=parts.stepper,
            data=parts.data.state,
            modules=parts.modules,
            optimizer=parts.optimizer,
            lr_scheduler=parts.lr_scheduler,
            task=self._task,
            random=parts.random_state,
            participants=self._find_participants(parts, ranks),
        )
        settings = {
            "loop": "train",
            "total_steps": config.total_steps,
            "global_batch_size": config.global_batch_size,
            "micro_batch_size": config.samples_per_micro_batch,
            "seed": config.seed,
            "precision": config.precision,
            "max_gradient_norm": config.max_gradient_norm,
            "gradient_dtype": config.gradient_dtype,
            **parts.data.settings,
            **(state.describe("model", "optimizer", "lr_scheduler") if config.checkpointing is not None else {}),
        }
        return Checkpointer(
            config.checkpointing,
            stepper=parts.stepper,
            state=state,
            settings=settings,
            ranks=ranks,
            notes=describe_job(config),
            is_stopping=lambda: interruption.is_due,
        )

    def _find_participants(self, parts: TrainingParts, ranks: Ranks) -> dict[str, Stateful]:
        if self._config.checkpointing is None:
            return {}
        providers = {
            "model_provider": self._model_provider,
            "dataset_provider": self._dataset_provider,
            "optimizer_provider": self._optimizer_provider,
            "lr_scheduler_provider": self._lr_scheduler_provider,
        }
        others = [self._task, parts.optimizer, parts.lr_scheduler, *parts.data.state.values()]
        subscribers = parts.event_bus.subscribers
        return find_participants(
            providers, self._stateful, subscribers, others=others, modules=parts.modules, ranks=ranks
        )
