"""Registered objects with state are saved and resumed: providers, subscribers, and objects registered by name."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from d9d.core.protocol import LRSchedulerProtocol
from d9d.core.settings import ConfigurationError
from d9d.loop.component.checkpoint.state_dict import StateError
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig
from d9d.loop.control import (
    InitializeDatasetContext,
    InitializeDatasetResult,
    InitializeLRSchedulerContext,
    InitializeModelStageContext,
    InitializeModelStageResult,
    InitializeOptimizerContext,
    RegisterModelEventsContext,
)
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_STEP_POST
from d9d.loop.event.catalogue.train import EVENT_TRAIN_OPTIMIZER_STEP_POST, EVENT_TRAIN_STEP_POST, EventStepContext
from d9d.loop.run import InferenceConfigurator, Trainer, TrainingConfigurator

from .toy_job import (
    NUM_FEATURES,
    StoppedError,
    ToyDataset,
    ToyInferenceTask,
    ToyModelProvider,
    ToyTask,
    inference_config,
    listen_to_nothing,
    training_config,
)


class Count:
    """Counts, and saves its count."""

    def __init__(self, begin: int = 0) -> None:
        self.count = begin

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "sum": torch.tensor(float(self.count))}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        assert state_dict["sum"].item() == state_dict["count"]
        self.count = state_dict["count"]


class StepCount(Count):
    """Counts the steps."""

    @subscribe(EVENT_TRAIN_STEP_POST)
    def add(self, ctx: EventStepContext) -> None:
        self.count += 1


class Adder(Count):
    """Counts its calls."""

    def add(self, ctx: object) -> None:
        self.count += 1


class CountingModelProvider(Count, ToyModelProvider):
    """Counts the steps of all runs."""

    def __init__(self) -> None:
        ToyModelProvider.__init__(self)
        Count.__init__(self)

    def register_events(self, ctx: RegisterModelEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self._add)

    def _add(self, ctx: EventStepContext) -> None:
        self.count += 1


class CountingDatasetProvider(Count):
    def __call__(self, ctx: InitializeDatasetContext, /) -> InitializeDatasetResult:
        self.count += 10
        return InitializeDatasetResult(dataset=ToyDataset())


class CountingOptimizerProvider(Count):
    def __call__(self, ctx: InitializeOptimizerContext, /) -> torch.optim.Optimizer:
        self.count += 100
        return torch.optim.AdamW(ctx.parameters())


class CountingSchedulerProvider(Count):
    def __call__(self, ctx: InitializeLRSchedulerContext, /) -> LRSchedulerProtocol:
        self.count += 1000
        return torch.optim.lr_scheduler.ConstantLR(ctx.torch_optimizer)


def failing_at(stop: int) -> Callable[[EventStepContext], None]:
    """Make a handler that raises in a step; with 0 it never does."""

    def fail(ctx: EventStepContext) -> None:
        if stop and ctx.stepper.current_step == stop:
            raise StoppedError

    return fail


def train(
    folder: CheckpointingConfig, listen: Callable[[EventBus], None] = listen_to_nothing, *, stop: int = 0, **given: Any
) -> Trainer:
    """Train to the end of three steps, or until one of them raises."""
    trainer = TrainingConfigurator(
        config=training_config(folder),
        task=ToyTask(listen),
        **{"model_provider": ToyModelProvider(), "dataset_provider": CountingDatasetProvider(), **given},
    ).configure()

    trainer.event_bus.subscribe(EVENT_TRAIN_OPTIMIZER_STEP_POST, failing_at(stop))
    with pytest.raises(StoppedError) if stop else contextlib.nullcontext():
        trainer.train()
    return trainer


def test_providers_are_resumed(every_step: CheckpointingConfig) -> None:
    """Each has the state that it had when the checkpoint was saved."""

    def provided() -> dict[str, Any]:
        return {
            "model_provider": CountingModelProvider(),
            "dataset_provider": CountingDatasetProvider(5),
            "optimizer_provider": CountingOptimizerProvider(5),
            "lr_scheduler_provider": CountingSchedulerProvider(5),
        }

    train(every_step, stop=2, **provided())
    resumed = provided()
    for holder in [*resumed.values()][1:]:
        holder.count = 7
    train(every_step, **resumed)

    assert [holder.count for holder in resumed.values()] == [3, 15, 105, 1005]


def test_subscribers_are_resumed(every_step: CheckpointingConfig) -> None:
    """Annotated or not, and each of several of one class."""

    def count(stop: int) -> list[int]:
        annotated, by_hand = [StepCount(), StepCount(100)], Adder()

        def listen(bus: EventBus) -> None:
            for each in annotated:
                subscribe_annotated(bus, each)
            bus.subscribe(EVENT_TRAIN_STEP_POST, by_hand.add)

        train(every_step, listen, stop=stop)
        return [each.count for each in (*annotated, by_hand)]

    assert count(stop=2) == [2, 102, 2]
    assert count(stop=0) == [3, 103, 3]


def test_other_objects_are_registered_by_name(every_step: CheckpointingConfig) -> None:
    """Nothing else would find them."""
    for stop in (2, 0):
        task, other = Count(stop), Count(stop * 10)
        train(every_step, stop=stop, stateful={"task": task, "other": other})

    assert (task.count, other.count) == (2, 20)


def test_inference_resumes_registered_objects_too(every_step: CheckpointingConfig) -> None:
    """As training does."""

    def count(stop: int) -> list[int]:
        listener, provider, given = Adder(), CountingDatasetProvider(), Count(stop)

        def listen(bus: EventBus) -> None:
            bus.subscribe(EVENT_INFERENCE_STEP_POST, failing_at(stop))
            bus.subscribe(EVENT_INFERENCE_STEP_POST, listener.add)

        run = InferenceConfigurator(
            config=inference_config(every_step),
            task=ToyInferenceTask(listen),
            model_provider=ToyModelProvider(),
            dataset_provider=provider,
            stateful={"given": given},
        ).configure()
        with pytest.raises(StoppedError) if stop else contextlib.nullcontext():
            run.infer()
        return [listener.count, provider.count, given.count]

    assert count(stop=2) == [2, 10, 2]
    assert count(stop=0) == [3, 10, 2]


def test_a_resumed_run_may_have_other_objects(
    every_step: CheckpointingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """A new one starts fresh, and the state of a removed one is not loaded; each is logged."""
    train(every_step, stop=2, stateful={"lost": Count()})
    caplog.clear()
    new = Count(7)
    train(every_step, stateful={"new": new})

    assert new.count == 7
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"state 'stateful lost' in {every_step.folder / 'step-2'} was not loaded: no object of that name",
        f"{every_step.folder / 'step-2'} has no state for 'stateful new': starting it fresh",
    ]


class ListeningLinear(nn.Linear):
    """A layer that listens to events."""

    def hear(self, ctx: EventStepContext) -> None: ...


class ListeningModelProvider(ToyModelProvider):
    """Provides a model with such a layer."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        layer = ListeningLinear(NUM_FEATURES, 1)
        self._bus.subscribe(EVENT_TRAIN_STEP_POST, layer.hear)
        return InitializeModelStageResult(model=nn.Sequential(layer))

    def register_events(self, ctx: RegisterModelEventsContext) -> None:
        self._bus = ctx.event_bus


def test_an_object_is_saved_once(every_step: CheckpointingConfig) -> None:
    """A layer that listens is saved with the model, and a subscriber that has a name under its name."""
    count = StepCount()

    def listen(bus: EventBus) -> None:
        subscribe_annotated(bus, count)

    trainer = train(every_step, listen, model_provider=ListeningModelProvider(), stateful={"count": count})

    saved = Checkpoint(every_step.folder / "step-3").read()
    assert any(isinstance(owner, ListeningLinear) for owner in trainer.event_bus.subscribers)
    assert [*saved] == [
        "stepper",
        "model",
        "optimizer",
        "lr_scheduler",
        "requires_grad",
        "task",
        "model_provider",
        "dataset_provider",
        "stateful count",
        "random",
    ]


def test_state_that_a_checkpoint_cannot_hold_is_refused_at_configuration(every_step: CheckpointingConfig) -> None:
    """With the name of its object."""

    class Odd(StepCount):
        def state_dict(self) -> dict[str, Any]:
            return {"thing": object()}

    with pytest.raises(StateError, match=r"Odd/all/thing' is a object, which a checkpoint cannot hold"):
        train(every_step, lambda bus: subscribe_annotated(bus, Odd()))


def test_no_state_is_asked_for_without_checkpointing() -> None:
    """Even if asking would fail."""

    class Private(StepCount):
        def state_dict(self) -> dict[str, Any]:
            raise AssertionError

    config = training_config()
    TrainingConfigurator(
        config=config,
        task=ToyTask(lambda bus: subscribe_annotated(bus, Private())),
        model_provider=ToyModelProvider(),
        dataset_provider=CountingDatasetProvider(),
    ).configure().train()


def test_state_that_a_task_no_longer_takes_is_refused(every_step: CheckpointingConfig) -> None:
    """With its names, and the name of the method that takes or drops it."""

    class Remembering(ToyTask):
        def state_dict(self) -> dict[str, Any]:
            return {"seen": 3}

    class Dropping(ToyTask):
        def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
            """Drop it."""

    TrainingConfigurator(
        config=training_config(every_step),
        task=Remembering(),
        model_provider=ToyModelProvider(),
        dataset_provider=CountingDatasetProvider(),
    ).configure().train()

    with pytest.raises(
        ConfigurationError, match="has state of the task, 'seen', and ToyTask has no load_state_dict"
    ) as caught:
        train(every_step)
    assert any("raised by load_state_dict of 'task', for its state in" in note for note in caught.value.__notes__)
    TrainingConfigurator(
        config=training_config(every_step),
        task=Dropping(),
        model_provider=ToyModelProvider(),
        dataset_provider=CountingDatasetProvider(),
    ).configure().train()
