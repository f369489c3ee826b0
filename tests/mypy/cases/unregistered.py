"""Tasks and model providers that never register their handlers, and those that do, or may."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from typing_extensions import override
from unregistered_base import (
    Attaches,
    BaseOfTasks,
    Log,
    RegisteringTask,
    Registers,
    RegistersByTemplate,
    RegistersNothing,
    RegistersOneByOne,
    RegistersSubclasses,
    Registrar,
    register,
)

from d9d.loop.control import (
    InferenceTask,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ProcessOutputsContext,
    RegisterModelEventsContext,
    RegisterTaskEventsContext,
    TrainTask,
)
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.inference import EVENT_INFERENCE_STEP_POST
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventStepContext,
    EventTrainReadyContext,
)

TItem = TypeVar("TItem")
TClass = TypeVar("TClass")
TTask = TypeVar("TTask", bound=type[TrainTask])


def show(*values: object) -> None: ...


# docs: d9d-unregistered
class WrongForgotten(TrainTask):
    # E[d9d-unregistered]: "WrongForgotten" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightRegistered(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


# docs: end


class ToldOfItsBase(WrongForgotten):
    # E[d9d-unregistered]: "ToldOfItsBase" never registers its handler "on_ready" of EVENT_TRAIN_READY ("train.ready"),
    #   so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_READY)
    def on_ready(self, ctx: EventTrainReadyContext) -> None: ...


class WrongOther(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_READY, show)
        ctx.event_bus.subscribe(EVENT_TRAIN_READY, lambda ready: self._note([ready]))
        self._note(type(self))

    # E[d9d-unregistered]: "WrongOther" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post") and EVENT_TRAIN_STEP_PRE ("train.step.pre"), so nothing calls it: call
    #   subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_PRE)
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    # E[d9d-unregistered]: "WrongOther" never registers its handler "<lambda>" of EVENT_TRAIN_READY ("train.ready"), so
    #   nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    on_ready = subscribe(EVENT_TRAIN_READY)(lambda self, ctx: show(ctx))

    # E[d9d-unregistered]: "WrongOther" never registers its handler "on_event" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe([EVENT_TRAIN_STEP_POST][0])
    def on_event(self, ctx: EventStepContext) -> None: ...

    def _note(self, value: object) -> None: ...


class WrongSuper(RegistersNothing):
    @override
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)

    # E[d9d-unregistered]: "WrongSuper" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class WrongInherited(RegistersNothing):
    # E[d9d-unregistered]: "WrongInherited" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class WrongHidden(Log, RegisteringTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_READY, show)


class WrongMixed(Log, RegistersNothing): ...


# E[d9d-unregistered]: "WrongSubclass" never registers its handler "log_step" of EVENT_TRAIN_STEP_POST
#   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
class WrongSubclass(BaseOfTasks): ...


class WrongProvider(ModelProvider):
    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        raise NotImplementedError

    # E[d9d-unregistered]: "WrongProvider" never registers its handler "on_step" of EVENT_INFERENCE_STEP_POST
    #   ("inference.step.post") and EVENT_TRAIN_STEP_POST ("train.step.post"), so nothing calls it: call
    #   subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class WrongPartly(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, self.on_step)

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...

    # E[d9d-unregistered]: "WrongPartly" never registers its handler "on_ready" of EVENT_TRAIN_READY ("train.ready"), so
    #   nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_READY)
    def on_ready(self, ctx: EventTrainReadyContext) -> None: ...


class Meter:
    def attach(self, bus: EventBus) -> None:
        # E[d9d-target]: subscribe_annotated is called with an object of "Meter", which has no method with @subscribe,
        #   so nothing is subscribed: decorate its handlers, or subscribe them with bus.subscribe
        subscribe_annotated(bus, self)


class WrongOneOfTwo(TrainTask):
    """Registers the handlers of a part, and not its own."""

    def __init__(self) -> None:
        self._meter = Meter()

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._meter.attach(ctx.event_bus)

    # E[d9d-unregistered]: "WrongOneOfTwo" never registers its handler "on_step" of EVENT_TRAIN_STEP_POST
    #   ("train.step.post"), so nothing calls it: call subscribe_annotated(ctx.event_bus, self) in register_events
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class OnStep:
    """What the classes below share: a handler. It is no task."""

    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightInherited(OnStep, RegisteringTask): ...


class RightSuper(OnStep, RegisteringTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)


class RightCooperative(OnStep, Registers, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super(OnStep, self).register_events(ctx)


class RightMixin(OnStep, Registers, TrainTask): ...


class RightOneByOne(Log, RegistersOneByOne): ...


class RightOneByOneInLoops(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for handler in self._handlers():
            ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, handler)

    def _handlers(self) -> list[Callable[[EventStepContext], None]]:
        return [self.on_step]


class RightThroughProperty(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for handler in self.handlers:
            ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, handler)

    @property
    def handlers(self) -> list[Callable[[EventStepContext], None]]:
        return [self.on_step]


class RightThroughAttribute(OnStep, TrainTask):
    def __init__(self) -> None:
        self._handlers = [self.on_step]

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for handler in self._handlers:
            ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, handler)


class RightByLambda(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda step: self.on_step(step))  # noqa: PLW0108


class RightByPartial(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, functools.partial(OnStep.on_step, self))


class RightByHelper(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        register(ctx.event_bus, Log(), self)


class RightByMethod(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        if ctx.event_bus is not None:
            self._register(ctx.event_bus)

    def _register(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)


class RightByInheritedMethod(OnStep, Attaches, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.attach(ctx.event_bus)


class RightByNestedFunction(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        def register_later() -> None:
            subscribe_annotated(ctx.event_bus, self)

        register_later()


class RightByName(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_STEP_POST, getattr(self, "on_step"))  # noqa: B009


class RightByOther(OnStep, TrainTask):
    """An object made earlier knows the task, and registers it."""

    def __init__(self) -> None:
        self._registrar = Registrar(self)

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._registrar.register(ctx.event_bus)


class RightLater(OnStep, TrainTask):
    """Keeps the bus, and registers when the first step begins."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self._bus = ctx.event_bus
        self._bus.subscribe(EVENT_TRAIN_READY, show)

    def begin(self) -> None:
        subscribe_annotated(self._bus, self)


class RightUnderAnotherName(OnStep, TrainTask):
    def register_events(this, ctx: RegisterTaskEventsContext) -> None:  # noqa: N805
        task = this
        subscribe_annotated(ctx.event_bus, task)


class RightAssigned(OnStep, TrainTask):
    register_events = RegisteringTask.register_events


class RightUnknown(OnStep, TrainTask):
    """Does what only those know who wrote it."""

    handler: Callable[..., Any] = show

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        self.handler(ctx.event_bus)


class RightAbstract(OnStep, TrainTask, abc.ABC):
    """Leaves it to its subclasses to register."""


class RightWithAbstractMethods(InferenceTask):
    """Leaves it to its subclasses to register: it cannot be used as it is."""

    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightConcrete(RightAbstract):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)


class RightLeftToTheNext(OnStep, TrainTask):
    """Leaves it to the class below to register."""


class RightNext(RightLeftToTheNext):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        subscribe_annotated(ctx.event_bus, self)


class RightMixedBase(BaseOfTasks, RegisteringTask): ...


def registered(kind: TTask) -> TTask:
    def register_events(self: Any, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    kind.register_events = register_events  # type: ignore[method-assign]
    return kind


@registered
class RightByClassDecorator(OnStep, TrainTask): ...


class RightSubclassOfDecorated(RightByClassDecorator): ...


def with_handlers(
    method: Callable[[Any, RegisterTaskEventsContext], None],
) -> Callable[[Any, RegisterTaskEventsContext], None]:
    @functools.wraps(method)
    def register_all(self: Any, ctx: RegisterTaskEventsContext) -> None:
        method(self, ctx)
        subscribe_annotated(ctx.event_bus, self)

    return register_all


class RightByDecorator(OnStep, TrainTask):
    @with_handlers
    def register_events(self, ctx: RegisterTaskEventsContext) -> None: ...


@dataclasses.dataclass
class RightDataclass(OnStep, TrainTask, Generic[TItem]):
    items: list[TItem]

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(bus=ctx.event_bus, target=self)


class RightWithoutHandlers(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_READY, show)


class RightProviderForBoth(OnStep, ModelProvider):
    def register_events(self, ctx: RegisterModelEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        raise NotImplementedError

    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_inference_step(self, ctx: EventStepContext) -> None: ...


class RightConditionally(InferenceTask):
    """Registers under a condition that no checker can decide."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        if self._verbose:
            subscribe_annotated(ctx.event_bus, self)

    def process_outputs(self, ctx: ProcessOutputsContext) -> None: ...

    @subscribe(EVENT_INFERENCE_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...


class RightByStaticHelper(OnStep, TrainTask):
    @staticmethod
    def _register(bus: EventBus, target: object) -> None:
        subscribe_annotated(bus, target)

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        RightByStaticHelper._register(ctx.event_bus, self)


class RightWhereMypyDoesNotLook(OnStep, TrainTask):
    """mypy binds no names in what it takes for code that never runs."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        if not TYPE_CHECKING:
            subscribe_annotated(ctx.event_bus, self)


class RightByTemplate(RegistersByTemplate, OnStep):
    """Fills in what `register_events` of its base calls."""

    def register_on(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)


class RightByTable(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        {True: self._register}[__debug__](ctx.event_bus)

    def _register(self, bus: EventBus) -> None:
        subscribe_annotated(bus, self)


class RightByCachedProperty(OnStep, TrainTask):
    @functools.cached_property
    def _target(self) -> object:
        return self

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self._target)


class RightByGenerator(OnStep, TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for target in self._targets():
            subscribe_annotated(ctx.event_bus, target)

    def _targets(self) -> Iterator[object]:
        yield self


TARGETS: list[object] = []


class RightInARegistry(OnStep, TrainTask):
    def __init__(self) -> None:
        TARGETS.append(self)

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        for target in TARGETS:
            subscribe_annotated(ctx.event_bus, target)


class RightBySubclassHook(OnStep, RegistersSubclasses, TrainTask):
    """Is given another `register_events` when it is defined."""


class RightSuperKept(OnStep, RegisteringTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        register_all = super().register_events
        register_all(ctx)


class RightBaseByName(OnStep, RegisteringTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        RegisteringTask.register_events(self, ctx)
