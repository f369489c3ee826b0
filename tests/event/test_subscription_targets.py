"""What can be registered with `subscribe_annotated`, how often, and what is left untouched."""

import dataclasses
import functools
import types
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from d9d.loop.event import EventBus, subscribe, subscribe_annotated

from .tagged import EVENT_A, Base, Context, seen_by


def test_registering_one_object_twice_on_one_bus_is_refused() -> None:
    """Its handlers would run twice an event: a base class and a derived one both registered `self`."""
    bus, target, context = EventBus(), Base(), Context()
    subscribe_annotated(bus, target)

    with pytest.raises(ValueError, match=r"handlers of Base object .* are subscribed on this bus already"):
        subscribe_annotated(bus, target)

    bus.trigger(EVENT_A, context)
    assert context.seen == ["Base.zulu", "Base.alpha"]


def test_one_object_may_listen_to_two_buses_and_two_objects_to_one() -> None:
    """Only the same pair of object and bus is a mistake."""
    first, second = EventBus(), EventBus()
    target = Base()
    subscribe_annotated(first, target)
    subscribe_annotated(second, target)
    subscribe_annotated(second, Base())
    context = Context()

    second.trigger(EVENT_A, context)

    assert context.seen == ["Base.zulu", "Base.alpha"] * 2


def test_equal_objects_are_two_objects() -> None:
    """Identity counts: a dataclass may equal another, and need not be hashable."""

    @dataclasses.dataclass
    class Target:
        value: int

        @subscribe(EVENT_A)
        def on_a(self, ctx: Context) -> None: ...

    bus = EventBus()
    subscribe_annotated(bus, Target(1))
    subscribe_annotated(bus, Target(1))


def test_a_class_in_place_of_an_object_is_refused() -> None:
    """Its methods are bound to nothing."""
    with pytest.raises(TypeError, match=r"needs an instance.* was given the class Base: pass Base\(\.\.\.\) or self"):
        subscribe_annotated(EventBus(), Base)


def test_properties_are_never_evaluated() -> None:
    """A property may cost a lot, fail, or not be ready while the object registers."""

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


def test_objects_that_answer_to_any_attribute_are_no_trouble() -> None:
    """Neither `__getattr__` nor `__getattribute__` of the object is asked for its handlers."""

    class Target:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(name)

        @subscribe(EVENT_A)
        def on_a(self, ctx: Context) -> None:
            ctx.seen.append("on_a")

    assert seen_by(Target()) == ["on_a"]


def test_objects_with_slots_work() -> None:
    """An object needs no `__dict__`."""

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


def test_a_function_can_be_registered() -> None:
    """It is its own handler."""
    assert seen_by(function_handler) == ["function_handler"]


def test_a_module_can_be_registered() -> None:
    """Its own tagged functions are handlers; those that it imports belong to another module."""
    module = types.ModuleType("user_handlers")
    source = "@subscribe(EVENT_A)\ndef own(ctx):\n    ctx.seen.append('own')\n"
    module.__dict__.update(subscribe=subscribe, EVENT_A=EVENT_A, imported=function_handler)
    exec(compile(source, "user_handlers.py", "exec"), module.__dict__)  # noqa: S102 - a module of its own

    assert seen_by(module) == ["own"]


def test_a_tagged_function_kept_by_an_object_is_registered_with_it() -> None:
    """Handlers that are made when the object is, find their bus as well."""

    class Target:
        def __init__(self) -> None:
            @subscribe(EVENT_A)
            def handler(ctx: Context) -> None:
                ctx.seen.append("made")

            self.handler = handler

    assert seen_by(Target()) == ["made"]


def test_an_object_without_handlers_may_be_registered() -> None:
    """A base class can register `self` for whatever its derived classes handle."""
    assert seen_by(object()) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("coroutine", "is asynchronous, and the bus awaits nothing"),
        ("coroutine_of_class", "is asynchronous, and the bus awaits nothing"),
        ("generator", "is a generator, and the bus does not iterate it"),
        ("takes_nothing", "must accept exactly one argument"),
        ("takes_two", "must accept exactly one argument"),
        ("static_with_self", "must accept exactly one argument"),
    ],
)
def test_a_tagged_method_that_could_never_run_is_refused_when_it_is_registered(name: str, reason: str) -> None:
    """The rules of the bus hold for tagged handlers as well, whatever kind of method they are."""

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
