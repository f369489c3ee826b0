"""Each configuration event of training is triggered at the moment that its documentation names."""

import torch
from torch import nn

from d9d.core.dist_context import DistributedContext
from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.loop.config import CheckpointingConfig
from d9d.loop.control import (
    InitializeDatasetContext,
    InitializeDatasetResult,
    InitializeLRSchedulerContext,
    InitializeModelStageContext,
    InitializeModelStageResult,
    InitializeOptimizerContext,
    ParallelizeModelStageContext,
    RegisterModelEventsContext,
    RegisterTaskEventsContext,
)
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_DATA_LOADER_READY,
    EVENT_TRAIN_LR_SCHEDULER_READY,
    EVENT_TRAIN_MODEL_STAGES_READY,
    EVENT_TRAIN_OPTIMIZER_READY,
    EVENT_TRAIN_READY,
    EventConfigurationStartedContext,
    EventDataLoaderReadyContext,
    EventLRSchedulerReadyContext,
    EventModelStagesReadyContext,
    EventOptimizerReadyContext,
    EventTrainReadyContext,
)
from d9d.loop.run import Trainer, TrainingConfigurator

from .toy_job import (
    ToyDataset,
    ToyModelProvider,
    ToyTask,
    configure_training,
    same_tensors,
    training_config,
    weights_of,
)


class Diary:
    """Records when providers are called and when events are triggered."""

    def __init__(self) -> None:
        self.entries: list[str] = []


class DiaryTask(ToyTask):
    """Records the configuration events and their contexts."""

    def __init__(self, diary: Diary) -> None:
        super().__init__()
        self._diary = diary
        self.contexts: list[object] = []

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._diary.entries.append("task registers")
        subscribe_annotated(ctx.event_bus, self)

    def _note(self, entry: str, ctx: object) -> None:
        self._diary.entries.append(entry)
        self.contexts.append(ctx)

    @subscribe(EVENT_TRAIN_CONFIG_STARTED)
    def _on_config_started(self, ctx: EventConfigurationStartedContext) -> None:
        self._note("CONFIG_STARTED", ctx)

    @subscribe(EVENT_TRAIN_DATA_LOADER_READY)
    def _on_data_loader_ready(self, ctx: EventDataLoaderReadyContext) -> None:
        self._note("DATA_LOADER_READY", ctx)

    @subscribe(EVENT_TRAIN_MODEL_STAGES_READY)
    def _on_model_stages_ready(self, ctx: EventModelStagesReadyContext) -> None:
        self._note("MODEL_STAGES_READY", ctx)

    @subscribe(EVENT_TRAIN_OPTIMIZER_READY)
    def _on_optimizer_ready(self, ctx: EventOptimizerReadyContext) -> None:
        self._note("OPTIMIZER_READY", ctx)

    @subscribe(EVENT_TRAIN_LR_SCHEDULER_READY)
    def _on_lr_scheduler_ready(self, ctx: EventLRSchedulerReadyContext) -> None:
        self._note("LR_SCHEDULER_READY", ctx)


class DiaryModelProvider(ToyModelProvider):
    """Records the calls that it gets."""

    def __init__(self, diary: Diary) -> None:
        super().__init__()
        self._diary = diary

    def register_events(self, ctx: RegisterModelEventsContext) -> None:
        self._diary.entries.append("model registers")

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        self._diary.entries.append("model is built")
        return super().initialize_model_stage(ctx)

    def parallelize_model_stage(self, ctx: ParallelizeModelStageContext) -> None:
        self._diary.entries.append("model is parallelised")


def configured() -> tuple[list[str], list[object], Trainer]:
    """Configure a training run whose parts all write to the same diary."""
    diary = Diary()
    task = DiaryTask(diary)

    def provide_dataset(ctx: InitializeDatasetContext) -> InitializeDatasetResult:
        diary.entries.append("dataset is built")
        return InitializeDatasetResult(dataset=ToyDataset())

    def provide_optimizer(ctx: InitializeOptimizerContext) -> torch.optim.Optimizer:
        diary.entries.append("optimizer is built")
        return torch.optim.SGD(ctx.parameters(), lr=0.1)

    def provide_lr_scheduler(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
        diary.entries.append("scheduler is built")
        return torch.optim.lr_scheduler.LinearLR(ctx.torch_optimizer, total_iters=ctx.total_steps)

    trainer = TrainingConfigurator(
        config=training_config(),
        task=task,
        model_provider=DiaryModelProvider(diary),
        dataset_provider=provide_dataset,
        optimizer_provider=provide_optimizer,
        lr_scheduler_provider=provide_lr_scheduler,
    ).configure()
    return diary.entries, task.contexts, trainer


def test_each_ready_event_follows_the_construction_of_its_part() -> None:
    """Handlers are registered first; then each part is built, and its event is triggered right after."""
    entries, _, _ = configured()

    assert entries == [
        "task registers",
        "model registers",
        "CONFIG_STARTED",
        "dataset is built",
        "DATA_LOADER_READY",
        "model is built",
        "model is parallelised",
        "MODEL_STAGES_READY",
        "optimizer is built",
        "OPTIMIZER_READY",
        "scheduler is built",
        "LR_SCHEDULER_READY",
    ]


def test_contexts_hold_the_objects_that_training_uses() -> None:
    """Handlers receive the loop's own data loader, model, optimizer and scheduler, not copies."""
    _, contexts, trainer = configured()
    started, data_loader, model, optimizer, lr_scheduler = contexts

    assert isinstance(started, EventConfigurationStartedContext)
    assert started.dist_context == DistributedContext(device=torch.device("cpu"))
    assert isinstance(data_loader, EventDataLoaderReadyContext)
    assert data_loader.data_loader is trainer._loop.data_loader
    assert isinstance(model, EventModelStagesReadyContext)
    assert len(model.modules) == 1
    assert model.modules[0] is trainer.modules[0]
    assert isinstance(optimizer, EventOptimizerReadyContext)
    assert optimizer.optimizer is trainer.optimizer
    assert isinstance(lr_scheduler, EventLRSchedulerReadyContext)
    assert lr_scheduler.lr_scheduler is trainer.lr_scheduler


def test_a_handler_can_iterate_the_data_loader_when_it_is_ready() -> None:
    """A handler that reads all batches takes none of them from the run."""
    sizes: list[int] = []

    def listen(bus: EventBus) -> None:
        bus.subscribe(
            EVENT_TRAIN_DATA_LOADER_READY,
            lambda ctx: sizes.extend(len(batch["features"]) for batch in ctx.data_loader),
        )

    curious = configure_training(training_config(), task=ToyTask(listen))
    curious.train()
    plain = configure_training(training_config())
    plain.train()

    assert sizes == [2] * 6
    assert same_tensors(weights_of(curious.modules[0]), weights_of(plain.modules[0]))


def test_the_model_is_on_its_device_when_it_is_ready() -> None:
    """Handlers of MODEL_STAGES_READY see all weights on the configured device."""
    modules: list[nn.Module] = []
    devices: set[str] = set()

    def listen(bus: EventBus) -> None:
        def note(ctx: EventModelStagesReadyContext) -> None:
            modules.extend(ctx.modules)
            devices.update(weight.device.type for module in ctx.modules for weight in module.parameters())

        bus.subscribe(EVENT_TRAIN_MODEL_STAGES_READY, note)

    configure_training(training_config(device="meta"), task=ToyTask(listen), optimizer_provider=sgd)

    assert devices == {"meta"}
    assert len(modules) == 1


def sgd(ctx: InitializeOptimizerContext) -> OptimizerProtocol:
    """Build SGD."""
    return torch.optim.SGD(ctx.parameters(), lr=0.1)


def test_training_is_ready_once_the_checkpoint_is_loaded(every_step: CheckpointingConfig) -> None:
    """Handlers of READY see the weights, optimizer state and step of the checkpoint that training resumes from."""
    first = configure_training(training_config(every_step))
    first.train()
    fresh = configure_training(training_config(every_step))
    seen: list[tuple[dict[str, torch.Tensor], object, int]] = []

    def note(ctx: EventTrainReadyContext) -> None:
        seen.append((weights_of(fresh.modules[0]), fresh.optimizer.state_dict()["state"], fresh.stepper.current_step))

    fresh.event_bus.subscribe(EVENT_TRAIN_READY, note)
    before = weights_of(fresh.modules[0])
    fresh.train()
    weights, optimizer_state, step = seen[0]

    assert not same_tensors(before, weights_of(first.modules[0]))
    assert same_tensors(weights, weights_of(first.modules[0]))
    assert optimizer_state
    assert step == 3


def test_training_without_checkpoints_is_ready_with_initial_weights_in_training_mode() -> None:
    """READY sees the initial weights, and a model in training mode even if it was in eval mode before."""
    trainer = configure_training(training_config())
    trainer.modules[0].eval()
    initial = weights_of(trainer.modules[0])
    seen: list[tuple[bool, bool]] = []
    trainer.event_bus.subscribe(
        EVENT_TRAIN_READY,
        lambda ctx: seen.append((same_tensors(initial, weights_of(trainer.modules[0])), trainer.modules[0].training)),
    )

    trainer.train()

    assert seen == [(True, True)]
