"""One event and some handlers that count their calls, in this project's bus and in other libraries.

Each carrier subscribes a number of handlers, and returns a function that triggers the event a given number of times.
The function has the loop in it, so that no call stands between the loop and the library.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from d9d.core.stepper import Stepper

Run: TypeAlias = Callable[[int], object]
Carrier: TypeAlias = Callable[["Context", int], Run]
"""Takes the context that handlers count in, and the number of handlers."""


class Context:
    """Counts the calls of handlers, in a step that is neither the last one nor the end of a period."""

    __slots__ = ("count", "stepper")

    def __init__(self) -> None:
        self.count = 0
        self.stepper = Stepper(total_steps=1000, current_step=3)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A context with fields, as generated modules define it."""

    stepper: Stepper
    micro_batch_index: int
    batch: object
    loss: object
    counted: Context


class Listener:
    """Counts the events that it receives."""

    def count(self, context: Any) -> None:
        """Count one call."""
        context.count += 1


def handlers(number: int) -> list[Callable[[Any], None]]:
    """Return handlers: methods of different objects, since some libraries call one method of one object only once."""
    return [Listener().count for _ in range(number)]


def for_loop(context: Context, number: int) -> Run:
    """Call the handlers by hand: the reference."""
    called = handlers(number)

    def run(times: int) -> None:
        for _ in range(times):
            for handler in called:
                handler(context)

    return run


def d9d(context: Context, number: int) -> Run:
    """Trigger an event of this project."""
    from d9d.loop.event import Event, EventBus  # noqa: PLC0415 -- each carrier imports its own

    event, bus = Event[Context](id="bench.step"), EventBus()
    for handler in handlers(number):
        bus.subscribe(event, handler)

    def run(times: int) -> None:
        for _ in range(times):
            bus.trigger(event, context)

    return run


def d9d_emitter(context: Context, number: int) -> Run:
    """Trigger an event of this project as its loops do, through an emitter."""
    from d9d.loop.event import Event, EventBus  # noqa: PLC0415 -- each carrier imports its own

    event, bus = Event[Context](id="bench.step"), EventBus()
    for handler in handlers(number):
        bus.subscribe(event, handler)
    emitter = bus.emitter(event)

    def run(times: int) -> None:
        for _ in range(times):
            if emitter.handlers:
                emitter.call(context)

    return run


def d9d_bounded(context: Context, number: int) -> Run:
    """Enter and leave a `with` block between two events, with the same number of handlers for each."""
    from d9d.loop.event import Event, EventBus  # noqa: PLC0415 -- each carrier imports its own

    pre, post, bus = Event[Context](id="bench.step.pre"), Event[Context](id="bench.step.post"), EventBus()
    for handler in handlers(number):
        bus.subscribe(pre, handler)
        bus.subscribe(post, handler)

    def run(times: int) -> None:
        for _ in range(times):
            with bus.bounded(pre, post, context):
                pass

    return run


def d9d_filter(context: Context, number: int) -> Run:
    """Trigger an event whose handlers are called every 10 steps, in a step in which none of them is due."""
    from d9d.loop.event import Event, EventBus  # noqa: PLC0415 -- each carrier imports its own

    event, bus = Event[Context](id="bench.step", in_step=True), EventBus()
    for handler in handlers(number):
        bus.subscribe(event, handler, every=10)
    emitter = bus.emitter(event)

    def run(times: int) -> None:
        for _ in range(times):
            if emitter.handlers:
                emitter.call(context)

    return run


def is_due(context: Context, number: int) -> Run:
    """Call handlers by hand that each ask first whether they are due."""

    def handler(ctx: Context) -> None:
        if ctx.stepper.is_due(10):
            ctx.count += 1

    called = [handler] * number

    def run(times: int) -> None:
        for _ in range(times):
            for each in called:
                each(context)

    return run


def _count_facts(facts: Facts) -> None:
    facts.counted.count += 1


def facts_by_hand(context: Context, number: int) -> Run:
    """Build a context with fields and call handlers with it, by hand."""
    called = [_count_facts] * number

    def run(times: int) -> None:
        for index in range(times):
            facts = Facts(stepper=context.stepper, micro_batch_index=index, batch=called, loss=called, counted=context)
            for handler in called:
                handler(facts)

    return run


def d9d_facts(context: Context, number: int) -> Run:
    """Trigger an event with a context that has fields, as loops do: built only if there are handlers."""
    from d9d.loop.event import Event, EventBus  # noqa: PLC0415 -- each carrier imports its own

    event, bus = Event[Facts](id="bench.facts"), EventBus()
    for _ in range(number):
        bus.subscribe(event, _count_facts)
    emitter = bus.emitter(event)

    def run(times: int) -> None:
        for index in range(times):
            if emitter.handlers:
                emitter.call(
                    Facts(stepper=context.stepper, micro_batch_index=index, batch=run, loss=run, counted=context)
                )

    return run


def torchtnt(context: Context, number: int) -> Run:
    """Call the callbacks of TorchTNT."""
    from torchtnt.framework._callback_handler import CallbackHandler  # noqa: PLC0415 -- each carrier imports its own
    from torchtnt.framework.callback import Callback  # noqa: PLC0415 -- the same

    class Counting(Callback):
        def on_train_step_start(self, state: Any, unit: Any) -> None:
            state.count += 1

    called = CallbackHandler([Counting() for _ in range(number)])
    state: Any = context

    def run(times: int) -> None:
        for _ in range(times):
            called.on_train_step_start(state, None)  # type: ignore[arg-type]

    return run


def pyee(context: Context, number: int) -> Run:
    """Emit an event of pyee."""
    from pyee import EventEmitter  # noqa: PLC0415 -- each carrier imports its own

    emitter = EventEmitter()
    for handler in handlers(number):
        emitter.on("step", handler)

    def run(times: int) -> None:
        for _ in range(times):
            emitter.emit("step", context)

    return run


def pluggy(context: Context, number: int) -> Run:
    """Call a hook of pluggy."""
    import pluggy as library  # noqa: PLC0415 -- each carrier imports its own

    specification, implementation = library.HookspecMarker("bench"), library.HookimplMarker("bench")

    class Specified:
        @specification
        def step(self, context: Context) -> None:
            """Happen."""

    class Counting:
        @implementation
        def step(self, context: Context) -> None:
            context.count += 1

    manager = library.PluginManager("bench")
    manager.add_hookspecs(Specified)
    for _ in range(number):
        manager.register(Counting())

    def run(times: int) -> None:
        for _ in range(times):
            manager.hook.step(context=context)

    return run


def psygnal(context: Context, number: int) -> Run:
    """Emit a signal of psygnal."""
    from psygnal import Signal  # noqa: PLC0415 -- each carrier imports its own

    class Loop:
        step = Signal(object)

    loop, kept = Loop(), handlers(number)
    for handler in kept:
        loop.step.connect(handler)

    def run(times: int) -> None:
        assert len(kept) == number  # noqa: S101 -- keeps them alive, which psygnal does not
        for _ in range(times):
            loop.step.emit(context)

    return run


def blinker(context: Context, number: int) -> Run:
    """Send a signal of blinker."""
    from blinker import Signal  # noqa: PLC0415 -- each carrier imports its own

    signal = Signal()
    for handler in handlers(number):
        signal.connect(handler, weak=False)

    def run(times: int) -> None:
        for _ in range(times):
            signal.send(context)

    return run


def ignite(context: Context, number: int) -> Run:
    """Fire an event of an Ignite engine."""
    from ignite.engine import Engine, Events  # noqa: PLC0415 -- each carrier imports its own

    class EngineListener:
        def count(self, engine: Any) -> None:
            context.count += 1

    engine = Engine(lambda *_: None)
    for _ in range(number):
        engine.add_event_handler(Events.ITERATION_STARTED, EngineListener().count)

    def run(times: int) -> None:
        for _ in range(times):
            engine.fire_event(Events.ITERATION_STARTED)

    return run


def lightning(context: Context, number: int) -> Run:
    """Call the callbacks of a Lightning trainer."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    from lightning.pytorch import Callback, Trainer  # noqa: PLC0415 -- each carrier imports its own
    from lightning.pytorch.trainer.call import _call_callback_hooks  # noqa: PLC0415 -- what its loops call

    class Counting(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            batch.count += 1

    trainer = Trainer(
        callbacks=[Counting() for _ in range(number)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

    def run(times: int) -> None:
        for _ in range(times):
            _call_callback_hooks(trainer, "on_train_batch_start", context, 0)

    return run


PEERS: dict[str, Carrier] = {
    "TorchTNT": torchtnt,
    "pyee": pyee,
    "pluggy": pluggy,
    "psygnal": psygnal,
    "blinker": blinker,
    "Ignite": ignite,
    "Lightning": lightning,
}
