"""Events that are triggered on one bus, with handlers on another one."""

from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST

EVENT_REWARD = Event[float](id="user.reward")
EVENT_RESET = Event[int](id="user.reset")
EVENT_UPLOADED = Event[str](id="user.uploaded")
EVENT_SHARED = Event[str](id="user.shared")
EVENT_HANDED_ON = Event[str](id="user.handed_on")
EVENT_RELAYED = Event[str](id="user.relayed")


class Environment:
    def __init__(self, bus: EventBus | None = None) -> None:
        self.bus = bus or EventBus()

    def step(self) -> None:
        self.bus.trigger(EVENT_SHARED, "step")


class OwnEnvironment:
    def __init__(self) -> None:
        self.bus = EventBus()
        self._reset = self.bus.emitter(EVENT_RESET)

    def step(self) -> None:
        self.bus.trigger(EVENT_REWARD, 1.0)
        self._reset.call(0)


class WrongTask(TrainTask):
    def __init__(self) -> None:
        self.environment = OwnEnvironment()

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        # E[d9d-untriggered]: Nothing triggers EVENT_RESET ("user.reset") on the bus of the loop, where its handlers
        #   are: line 27 triggers it on a bus that the program creates. Trigger it on ctx.event_bus, or subscribe the
        #   handlers there
        ctx.event_bus.subscribe(EVENT_RESET, self.on_reset)

    # E[d9d-untriggered]: Nothing triggers EVENT_REWARD ("user.reward") on the bus of the loop, where its handlers are:
    #   line 30 triggers it on a bus that the program creates. Trigger it on ctx.event_bus, or subscribe the handlers
    #   there
    @subscribe(EVENT_REWARD)
    def on_reward(self, reward: float) -> None: ...

    def on_reset(self, seed: int) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        self.environment.step()


class WrongUploader(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        bus = EventBus()
        # E[d9d-untriggered]: Nothing triggers EVENT_UPLOADED ("user.uploaded") on the bus of the loop, where its
        #   handlers are: line 65 triggers it on a bus that the program creates. Trigger it on ctx.event_bus, or
        #   subscribe the handlers there
        ctx.event_bus.subscribe(EVENT_UPLOADED, print)
        bus.trigger(EVENT_UPLOADED, "weights")


class RightTask(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        self.environment = Environment(ctx.event_bus)

    @subscribe(EVENT_SHARED)
    def on_shared(self, text: str) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        self.environment.step()


class RightRelay(TrainTask):
    """Hears the event on a bus of its own as well, and triggers it on the one of the loop."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
        self._inner = EventBus()
        self._inner.subscribe(EVENT_RELAYED, lambda text: ctx.event_bus.trigger(EVENT_RELAYED, text))

    @subscribe(EVENT_RELAYED)
    def on_relayed(self, text: str) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        self._inner.trigger(EVENT_RELAYED, "step")


class RightHandler(TrainTask):
    """Has a bus that it is given, by code that is not here."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_HANDED_ON)
    def on_handed_on(self, text: str) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None:
        self._bus.trigger(EVENT_HANDED_ON, "step")
