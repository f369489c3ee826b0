"""A training script: some of its subscribers are created or defined, and nothing registers them."""

from d9d import TrainingConfig, TrainingConfigurator
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EVENT_TRAIN_STEP_PRE


class WrongKeptInAttribute:
    # E[d9d-unregistered]: Nothing registers the handler "start" of EVENT_TRAIN_STEP_PRE ("train.step.pre"), so it is
    #   never called: pass an object of "WrongKeptInAttribute" to the configurator with subscribers=[...], or call
    #   subscribe_annotated(ctx.event_bus, ...) with it
    @subscribe(EVENT_TRAIN_STEP_PRE)
    def start(self, ctx: EventStepContext) -> None: ...


class WrongNeverCreated:
    # E[d9d-unregistered]: Nothing registers the handler "stop" of EVENT_TRAIN_STEP_POST ("train.step.post"), so it is
    #   never called: pass an object of "WrongNeverCreated" to the configurator with subscribers=[...], or call
    #   subscribe_annotated(ctx.event_bus, ...) with it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


# E[d9d-unregistered]: Nothing registers the function "wrong_function", a handler of EVENT_TRAIN_STEP_POST
#   ("train.step.post"), so it is never called: call subscribe_annotated(ctx.event_bus, ...) with it in register_events
@subscribe(EVENT_TRAIN_STEP_POST)
def wrong_function(ctx: EventStepContext) -> None: ...


class RightInList:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


class RightGivenToTask:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


class RightGivenToConfigurator:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


class RightWithMethod:
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


@subscribe(EVENT_TRAIN_STEP_POST)
def right_function(ctx: EventStepContext) -> None: ...


class WrongByKey:
    # E[d9d-unregistered]: Nothing registers the handler "stop" of EVENT_TRAIN_STEP_POST ("train.step.post"), so it is
    #   never called: pass an object of "WrongByKey" to the configurator with subscribers=[...], or call
    #   subscribe_annotated(ctx.event_bus, ...) with it
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


class RightGivenByName:
    @subscribe(EVENT_TRAIN_STEP_POST)
    def stop(self, ctx: EventStepContext) -> None: ...


class Task(TrainTask):
    def __init__(self, callback: object) -> None:
        self.wrong_by_name = {"stop": WrongByKey()}
        self.right_by_name = {"stop": RightGivenByName()}
        self.timer = WrongKeptInAttribute()
        self.meters = [RightInList()]
        self.callback = callback

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for meter in self.meters:
            subscribe_annotated(ctx.event_bus, meter)
        for name in self.wrong_by_name:
            subscribe_annotated(ctx.event_bus, name)
        for name in self.right_by_name:
            subscribe_annotated(ctx.event_bus, self.right_by_name[name])
        subscribe_annotated(ctx.event_bus, self.callback)
        subscribe_annotated(ctx.event_bus, right_function)


TrainingConfigurator(
    config=TrainingConfig(total_steps=1, global_batch_size=1),
    task=Task(RightGivenToTask()),
    model_provider=lambda: None,
    dataset_provider=[],
    subscribers=[RightGivenToConfigurator(), RightWithMethod()],
).configure().train()
