"""A program that creates tasks, and gives some of them to no loop."""

from collections.abc import Mapping, Sequence

import third_party

from d9d import Evaluation, TrainingConfigurator
from d9d.loop.control import InferenceTask, ProcessOutputsContext, RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_READY, EVENT_TRAIN_STEP_POST, EventTrainReadyContext


class Registering(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class WrongInner(Registering):
    # E[d9d-unregistered]: No loop runs the "WrongInner" that the program creates, and nothing calls its
    #   "register_events", so its handler "on_step" of EVENT_TRAIN_STEP_POST ("train.step.post") is never called: call
    #   that where the task that holds it registers its own handlers, or give it to a configurator
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightInner(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class First(Registering):
    @subscribe(EVENT_TRAIN_READY)
    def greet(self, ctx: EventTrainReadyContext) -> None: ...


class WrongSecond(Registering):
    # E[d9d-unregistered]: No loop runs the "WrongSecond" that the program creates, and nothing calls its
    #   "register_events", so its handler "greet" of EVENT_TRAIN_READY ("train.ready") is never called: call that where
    #   the task that holds it registers its own handlers, or give it to a configurator
    @subscribe(EVENT_TRAIN_READY)
    def greet(self, ctx: EventTrainReadyContext) -> None: ...


class WrongLog:
    # E[d9d-unregistered]: Nothing registers the handler "write" of EVENT_TRAIN_STEP_POST ("train.step.post"), so it is
    #   never called: pass an object of "WrongLog" to the configurator with subscribers=[...], or call
    #   subscribe_annotated(ctx.event_bus, ...) with it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def write(self, ctx: EventStepContext) -> None: ...


class Logged(TrainTask):
    def __init__(self) -> None:
        self.log = WrongLog()

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self.log)


class WithoutSuper(Logged):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_READY, print)


class Outer(TrainTask):
    def __init__(self, inner: TrainTask, right: TrainTask, tasks: Sequence[TrainTask]) -> None:
        self.inner = inner
        self.right = right
        self.tasks = tasks
        self.measured = RightMeasured()

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.right.register_events(ctx)
        self.tasks[0].register_events(ctx)
        subscribe_annotated(ctx.event_bus, self.measured)


class RightMeasured(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightInDict(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightPaired(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightChosen(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class Several(TrainTask):
    def __init__(self, tasks: Mapping[str, TrainTask], pairs: Sequence[TrainTask]) -> None:
        self.tasks = dict(tasks)
        self.pairs = dict(zip("ab", pairs, strict=False), last=RightPaired())
        self.first = next(iter([RightChosen()]))

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for task in self.tasks.values():
            task.register_events(ctx)
        for name, task in self.pairs.items():
            print(name)
            task.register_events(ctx)
        self.first.register_events(ctx)


class RightEvaluation(InferenceTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        ctx.event_bus.subscribe(EVENT_TRAIN_READY, print)

    def process_outputs(self, ctx: ProcessOutputsContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightGivenAway(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightMade(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightUnused(Registering):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightSubscriber(InferenceTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def process_outputs(self, ctx: ProcessOutputsContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST, optional=True)
    def on_step(self, ctx: EventStepContext) -> None: ...


def make() -> TrainTask:
    return RightMade()


def main() -> None:
    third_party.keep(RightGivenAway())
    outer = Outer(WrongInner(), RightInner(), [First(), WrongSecond()])
    several = Several({"a": RightInDict()}, [RightPaired()])
    evaluation = Evaluation(dataset_provider=[], task=RightEvaluation())
    TrainingConfigurator(config=None, task=several, evaluations={"validation": evaluation}).configure().train()
    for task in (outer, WithoutSuper()):
        TrainingConfigurator(config=None, task=task, subscribers=[RightSubscriber()]).configure().train()
