"""What configurators get as `subscribers=`."""

import functools
from typing import Any

import torch

from d9d import TrainingConfig, TrainingConfigurator
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_STEP_POST
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST

CONFIG = TrainingConfig(total_steps=1, global_batch_size=1)
SAMPLES = [torch.zeros(1)]


def configure(subscribers: Any, task: TrainTask) -> None:
    TrainingConfigurator(
        config=CONFIG, task=task, model_provider=torch.nn.Identity, dataset_provider=SAMPLES, subscribers=subscribers
    )


class Meter:
    def __init__(self, size: int = 1) -> None:
        self.size = size

    @subscribe(EVENT_TRAIN_STEP_POST)
    def measure(self, ctx: EventStepContext) -> None: ...


class Plain:
    def measure(self, ctx: EventStepContext) -> None: ...


class Composite:
    def __init__(self, *parts: object) -> None:
        self.parts = parts

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for part in self.parts:
            nested = getattr(part, "register_events", None)
            if nested is not None:
                nested(ctx)
            else:
                subscribe_annotated(ctx.event_bus, part)


class OfBothLoops:
    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    @subscribe(EVENT_INFERENCE_STEP_POST, optional=True)
    def measure(self, ctx: EventStepContext) -> None: ...


def make_meter() -> Meter:
    return Meter()


def make_meters() -> list[Any]:
    return [Meter(), Meter()]


def make_nested() -> list[Any]:
    meters: list[Any] = []
    meters.append([Meter()])
    return meters


class Task(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def measure(self, ctx: EventStepContext) -> None: ...


def wrong_class() -> None:
    # E[d9d-target]: subscribers= has the class Meter, which is refused: pass an object, such as Meter(...)
    TrainingConfigurator(
        config=CONFIG, task=Task(), model_provider=torch.nn.Identity, dataset_provider=SAMPLES, subscribers=[Meter]
    )


def wrong_list_in_list() -> None:
    # E[d9d-target]: subscribers= has a list, which has no handlers, so nothing is subscribed: pass each object in it by
    #   itself, in a for loop or with a star
    TrainingConfigurator(
        config=CONFIG,
        task=Task(),
        model_provider=torch.nn.Identity,
        dataset_provider=SAMPLES,
        subscribers=[make_meters(), Meter()],
    )


def wrong_appended_list() -> None:
    # E[d9d-target]: subscribers= has a list, which has no handlers, so nothing is subscribed: pass each object in it by
    #   itself, in a for loop or with a star
    TrainingConfigurator(
        config=CONFIG,
        task=Task(),
        model_provider=torch.nn.Identity,
        dataset_provider=SAMPLES,
        subscribers=make_nested(),
    )


def wrong_function() -> None:
    # E[d9d-target]: subscribers= has the function "make_meter", which has no @subscribe, so nothing is subscribed:
    #   decorate it if it is a handler, or call it if it makes an object
    TrainingConfigurator(
        config=CONFIG, task=Task(), model_provider=torch.nn.Identity, dataset_provider=SAMPLES, subscribers=[make_meter]
    )


def wrong_partial() -> None:
    meter = functools.partial(Meter, size=2)
    # E[d9d-target]: subscribers= has a function that makes an object, and not the object, so nothing is subscribed:
    #   call it
    TrainingConfigurator(
        config=CONFIG, task=Task(), model_provider=torch.nn.Identity, dataset_provider=SAMPLES, subscribers=[meter]
    )


def wrong_object() -> None:
    # E[d9d-target]: subscribers= has an object of "Plain", which has no method with @subscribe, so nothing is
    #   subscribed: decorate its handlers, or subscribe them with bus.subscribe
    TrainingConfigurator(
        config=CONFIG, task=Task(), model_provider=torch.nn.Identity, dataset_provider=SAMPLES, subscribers=[Plain()]
    )


def wrong_task() -> None:
    task = Task()
    # E[d9d-twice]: The handlers of one object of "Task" are subscribed here, and in line 72 as well, which is refused:
    #   remove one of the two
    TrainingConfigurator(
        config=CONFIG, task=task, model_provider=torch.nn.Identity, dataset_provider=SAMPLES, subscribers=[task]
    )


def right() -> None:
    parts = Composite(Meter(), Composite(Meter()))
    configure([*make_meters(), make_meter(), OfBothLoops(), parts], Task())
    configure({f"size {size}": Meter(size) for size in (1, 2)}, Task())
