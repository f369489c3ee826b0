"""Training, assembled."""

from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.core.stepper import Stepper
from d9d.loop.component.batch_sampler import ShufflingBatchSampler
from d9d.loop.component.checkpointer import Checkpointer
from d9d.loop.component.data_loader import build_data_loader, count_samples
from d9d.loop.component.default_provider import adamw, constant_lr
from d9d.loop.component.gradient_accumulator import GradientAccumulator
from d9d.loop.component.gradient_clipper import GradientClipper
from d9d.loop.component.model_stage import ModelStage, build_model_stage
from d9d.loop.component.progress import ProgressReporter
from d9d.loop.component.provided import expect_result
from d9d.loop.component.ranks import Ranks
from d9d.loop.config import TrainingConfig
from d9d.loop.control import (
    DatasetProvider,
    InitializeDatasetContext,
    InitializeDatasetResult,
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
from d9d.loop.run.start import start_run
from d9d.loop.run.trainer import Trainer
from d9d.loop.state import training_state


class TrainingConfigurator:
    """Assembles a training run, in the order in which the events of its configuration are declared.

    Args:
        config: Every setting that is a number, a name or a path.
        task: Computes the loss.
        model_provider: Brings the model.
        dataset_provider: Brings the data.
        optimizer_provider: Brings the optimizer; by default torch's AdamW with its own defaults.
        lr_scheduler_provider: Brings the learning rate scheduler; by default the rate stays as it is.
    """

    def __init__(
        self,
        *,
        config: TrainingConfig,
        task: TrainTask,
        model_provider: ModelProvider,
        dataset_provider: DatasetProvider,
        optimizer_provider: OptimizerProvider = adamw,
        lr_scheduler_provider: LRSchedulerProvider = constant_lr,
    ) -> None:
        self._config = config
        self._task = task
        self._model_provider = model_provider
        self._dataset_provider = dataset_provider
        self._optimizer_provider = optimizer_provider
        self._lr_scheduler_provider = lr_scheduler_provider

    def configure(self) -> Trainer:
        """Build everything that training needs.

        Returns:
            The trainer, which has not loaded a checkpoint yet.

        Raises:
            ConfigurationError: If the data does not suit the configuration; the model is not built then.
        """
        config = self._config
        bus = EventBus()
        dist_context, random_state = start_run(bus, config, self._task, self._model_provider)
        bus.trigger(EVENT_TRAIN_CONFIG_STARTED, EventConfigurationStartedContext(dist_context=dist_context))
        stepper = Stepper(config.total_steps)
        data_loader, num_samples = self._build_data_loader(dist_context, stepper)
        bus.trigger(EVENT_TRAIN_DATA_LOADER_READY, EventDataLoaderReadyContext(data_loader=data_loader))
        model = build_model_stage(self._model_provider, dist_context)
        bus.trigger(EVENT_TRAIN_MODEL_STAGES_READY, EventModelStagesReadyContext(modules=[model]))
        optimizer, lr_scheduler = self._build_optimizer(bus, dist_context, model)
        parameters = list(model.parameters())
        return Trainer(
            event_bus=bus,
            stepper=stepper,
            task=self._task,
            data_loader=data_loader,
            model=model,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            num_micro_batches=config.num_micro_batches,
            model_stage=ModelStage(
                model=model, task=self._task, stepper=stepper, config=config, device=dist_context.device
            ),
            gradient_accumulator=GradientAccumulator(parameters),
            gradient_clipper=GradientClipper(parameters, config.max_gradient_norm),
            progress=ProgressReporter("train", config.reporting, stepper),
            random_state=random_state,
            checkpointer=self._build_checkpointer(
                num_samples,
                dist_context,
                stepper=stepper,
                modules=[model],
                optimizer=optimizer,
                lr_scheduler=lr_scheduler,
                random=random_state,
            ),
        )

    def _build_data_loader(self, dist_context: DistributedContext, stepper: Stepper) -> tuple[DataLoader[Any], int]:
        config = self._config
        data = expect_result(
            self._dataset_provider(InitializeDatasetContext(dist_context=dist_context)),
            InitializeDatasetResult,
            self._dataset_provider,
        )
        num_samples = count_samples(data)
        sampler = ShufflingBatchSampler(
            num_samples=num_samples,
            global_batch_size=config.global_batch_size,
            micro_batch_size=config.samples_per_micro_batch,
            seed=config.seed,
            stepper=stepper,
        )
        return build_data_loader(data, sampler, config, dist_context.device), num_samples

    def _build_optimizer(
        self, bus: EventBus, dist_context: DistributedContext, model: nn.Module
    ) -> tuple[OptimizerProtocol, LRSchedulerProtocol]:
        optimizer = self._optimizer_provider(InitializeOptimizerContext(dist_context=dist_context, model=model))
        bus.trigger(EVENT_TRAIN_OPTIMIZER_READY, EventOptimizerReadyContext(optimizer=optimizer))
        lr_scheduler = self._lr_scheduler_provider(
            InitializeLRSchedulerContext(
                dist_context=dist_context, optimizer=optimizer, total_steps=self._config.total_steps
            )
        )
        bus.trigger(EVENT_TRAIN_LR_SCHEDULER_READY, EventLRSchedulerReadyContext(lr_scheduler=lr_scheduler))
        return optimizer, lr_scheduler

    def _build_checkpointer(
        self, num_samples: int, dist_context: DistributedContext, *, stepper: Stepper, **parts: Any
    ) -> Checkpointer:
        config = self._config
        ranks = Ranks.of(dist_context)
        state = training_state(ranks, stepper=stepper, task=self._task, **parts)
        settings = {
            "loop": "train",
            "total_steps": config.total_steps,
            "global_batch_size": config.global_batch_size,
            "micro_batch_size": config.samples_per_micro_batch,
            "seed": config.seed,
            "precision": config.precision,
            "max_gradient_norm": config.max_gradient_norm,
            "num_samples": num_samples,
            **(state.describe("model", "optimizer", "lr_scheduler") if config.checkpointing is not None else {}),
        }
        return Checkpointer(
            config.checkpointing,
            stepper=stepper,
            state=state,
            settings=settings,
            ranks=ranks,
            notes={"mesh": dist_context.mesh_parameters.model_dump()},
        )
