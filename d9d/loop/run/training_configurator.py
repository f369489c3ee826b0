"""Training, assembled."""

from collections.abc import Mapping

import torch
from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol, Stateful
from d9d.core.stepper import Stepper
from d9d.loop.component.checkpoint.checkpointer import Checkpointer
from d9d.loop.component.checkpoint.job_description import describe_job
from d9d.loop.component.checkpoint.weight_exporter import WeightExporter
from d9d.loop.component.data.device_transfer import DeviceTransfer
from d9d.loop.component.ending.interruption import Interruption
from d9d.loop.component.garbage_collector import GarbageCollector
from d9d.loop.component.gradient.gradient_accumulator import GradientAccumulator
from d9d.loop.component.gradient.gradient_clipper import GradientClipper
from d9d.loop.component.gradient.gradient_format import GradientFormat
from d9d.loop.component.gradient.non_finite_gradients import NonFiniteGradients
from d9d.loop.component.optimizer.constant_lr import constant_lr
from d9d.loop.component.optimizer.optimizer_builder import OptimizerBuilder
from d9d.loop.component.profiler import Profiler
from d9d.loop.component.ranks import Ranks
from d9d.loop.component.report.reporting import build_reporter
from d9d.loop.config import TrainingConfig
from d9d.loop.control import (
    DatasetProvider,
    InitializeLRSchedulerContext,
    InitializeOptimizerContext,
    LRSchedulerProvider,
    ModelProvider,
    OptimizerProvider,
    TrainTask,
)
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_DATA_LOADER_READY,
    EVENT_TRAIN_LR_SCHEDULER_READY,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_READY,
    EventConfigurationStartedContext,
    EventDataLoaderReadyContext,
    EventLRSchedulerReadyContext,
    EventModelStagesReadyContext,
    EventOptimizerReadyContext,
)
from d9d.loop.run.data import build_training_data
from d9d.loop.run.model import build_runner, build_stages
from d9d.loop.run.source import find_initial_source
from d9d.loop.run.start import seed_apart, start_run
from d9d.loop.run.trainer import Trainer
from d9d.loop.run.training_parts import TrainingParts
from d9d.loop.state import find_participants, training_state

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
            gradient_format=GradientFormat(parts.modules, config.gradient_dtype),
            non_finite_gradients=NonFiniteGradients(config, parts.optimizer, stepper),
            reporter=parts.reporter,
            random_state=parts.random_state,
            garbage_collector=GarbageCollector(config.garbage_collection_period_steps, stepper),
            profiler=parts.profiler,
            interruption=Interruption(dist_context, stepper, config.timeouts),
            checkpointer=self._build_checkpointer(parts),
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

    def _build_checkpointer(self, parts: TrainingParts) -> Checkpointer:
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
