"""What `subscribe_annotated` accepts, and how often."""

import dataclasses
import functools
import types
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from d9d.loop.event import EventBus, subscribe, subscribe_annotated

from .listeners import EVENT_A, Base, Context, seen_by


def test_subscribing_one_object_twice_on_one_bus_is_refused() -> None:
    """As happens if a base class and a derived class both pass `self`."""
    bus, target, context = EventBus(), Base(), Context()
    subscribe_annotated(bus, target)

    with pytest.raises(ValueError, match=r"handlers of Base object .* are already subscribed on this bus"):
        subscribe_annotated(bus, target)

    bus.trigger(EVENT_A, context)
    assert context.seen == ["Base.zulu", "Base.alpha"]


def test_one_object_may_listen_to_two_buses_and_two_objects_to_one() -> None:
    """Only the same pair of object and bus is refused."""
    first, second = EventBus(), EventBus()
    target = Base()
    subscribe_annotated(first, target)
    subscribe_annotated(second, target)
    subscribe_annotated(second, Base())
    context = Context()

    second.trigger(EVENT_A, context)

    assert context.seen == ["Base.zulu", "Base.alpha"] * 2


def test_equal_objects_are_two_objects() -> None:
    """A dataclass may equal another, and need not be hashable."""

    @dataclasses.dataclass
    class Target:
        value: int

        @subscribe(EVENT_A)
        def on_a(self, ctx: Context) -> None: ...

    bus = EventBus()
    subscribe_annotated(bus, Target(1))
    subscribe_annotated(bus, Target(1))


def test_a_class_instead_of_an_instance_is_refused() -> None:
    """Its methods are not bound."""
    with pytest.raises(TypeError, match=r"needs an instance, but found the class Base: pass Base\(\.\.\.\) or self"):
        subscribe_annotated(EventBus(), Base)


def test_properties_are_never_evaluated() -> None:
    """A property may be slow, or fail before the object is complete."""

    class Target:
        evaluated: ClassVar[list[str]] = []

        @property
        def costly(self) -> int:
            self.evaluated.append("property")
            raise AssertionError

        @functools.cached_property
        def cached(self) -> int:
            self.evaluated.append("cached_property")
            raise AssertionError

        @subscribe(EVENT_A)
        def on_a(self, ctx: Context) -> None:
            ctx.seen.append("on_a")

    assert seen_by(Target()) == ["on_a"]
    assert Target.evaluated == []


def test_dynamic_attributes_are_never_evaluated() -> None:
    """Handlers are not looked up with `__getattr__`."""

    class Target:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(name)

        @subscribe(EVENT_A)
        def on_a(self, ctx: Context) -> None:
            ctx.seen.append("on_a")

    assert seen_by(Target()) == ["on_a"]


def test_objects_with_slots_work() -> None:
    """They have no `__dict__`."""

    class Target:
        __slots__ = ()

        @subscribe(EVENT_A)
        def on_a(self, ctx: Context) -> None:
            ctx.seen.append("on_a")

    assert seen_by(Target()) == ["on_a"]


@subscribe(EVENT_A)
def function_handler(ctx: Context) -> None:
    """Handle the event without an object."""
    ctx.seen.append("function_handler")


def test_a_decorated_function_can_be_subscribed() -> None:
    """It is the handler."""
    assert seen_by(function_handler) == ["function_handler"]


def test_a_module_can_be_subscribed() -> None:
    """The decorated functions that it defines are handlers; those that it imports are not."""
    module = types.ModuleType("user_handlers")
    source = "@subscribe(EVENT_A)\ndef own(ctx):\n    ctx.seen.append('own')\n"
    module.__dict__.update(subscribe=subscribe, EVENT_A=EVENT_A, imported=function_handler)
    exec(compile(source, "user_handlers.py", "exec"), module.__dict__)  # noqa: S102 - source of this test

    assert seen_by(module) == ["own"]


def test_a_decorated_function_in_an_attribute_is_subscribed() -> None:
    """Such as one that the constructor defines."""

    class Target:
        def __init__(self) -> None:
            @subscribe(EVENT_A)
            def handler(ctx: Context) -> None:
                ctx.seen.append("made")

            self.handler = handler

    assert seen_by(Target()) == ["made"]


def test_an_object_without_handlers_is_accepted() -> None:
    """A base class can pass `self` for the handlers of derived classes."""
    assert seen_by(object()) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("coroutine", "is asynchronous, and the bus does not await it"),
        ("coroutine_of_class", "is asynchronous, and the bus does not await it"),
        ("generator", "is a generator, and the bus does not iterate it"),
        ("takes_nothing", "must accept one argument"),
        ("takes_two", "must accept one argument"),
        ("static_with_self", "must accept one argument"),
    ],
)
def test_a_decorated_method_that_cannot_run_is_refused(name: str, reason: str) -> None:
    """By the rules of `EventBus.subscribe`, for all kinds of methods."""

    async def coroutine(self: object, ctx: Context) -> None: ...

    def generator(self: object, ctx: Context) -> Iterator[None]:
        yield

    def takes_nothing(self: object) -> None: ...

    def takes_two(self: object, ctx: Context, scale: float) -> None: ...

    methods: dict[str, Any] = {
        "coroutine": coroutine,
        "coroutine_of_class": classmethod(coroutine),
        "generator": generator,
        "takes_nothing": takes_nothing,
        "takes_two": takes_two,
        "static_with_self": staticmethod(takes_two),
    }
    target = type("Target", (), {name: subscribe(EVENT_A)(methods[name])})()

    with pytest.raises(TypeError, match=rf"^handler .* of event 'user\.a' {reason}"):
        subscribe_annotated(EventBus(), target)
