"""Methods decorated with `@subscribe` are subscribed together by `subscribe_annotated`."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d9d.loop.event import EventBus, subscribe

from .listeners import EVENT_A, EVENT_B, Base, Context, seen_by

P = ParamSpec("P")


def test_decorated_methods_are_called_on_the_object() -> None:
    """The handler is the bound method."""

    class Target:
        def __init__(self, name: str) -> None:
            self.name = name

        @subscribe(EVENT_A)
        def on_a(self, ctx: Context) -> None:
            ctx.seen.append(self.name)

    assert seen_by(Target("one")) == ["one"]


def test_the_decorator_alone_subscribes_nothing() -> None:
    """`subscribe_annotated` does that."""
    context = Context()
    Base()

    EventBus().trigger(EVENT_A, context)

    assert context.seen == []


def test_a_decorated_method_stays_the_same_function() -> None:
    """It can be called directly."""

    def on_a(ctx: Context) -> None:
        ctx.seen.append("called")

    context = Context()
    assert subscribe(EVENT_A)(on_a) is on_a
    Base().zulu(context)
    assert context.seen == ["Base.zulu"]


def test_handlers_of_one_object_run_in_the_order_of_definition() -> None:
    """Not in alphabetical order."""
    assert seen_by(Base()) == ["Base.zulu", "Base.alpha"]


@given(names=st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(str.isidentifier), unique=True, max_size=8))
def test_any_names_run_in_the_order_of_definition(names: list[str]) -> None:
    """For any names, and any number of them."""

    def handler(name: str) -> Callable[[Any, Context], None]:
        def function(self: object, ctx: Context) -> None:
            ctx.seen.append(name)

        return subscribe(EVENT_A)(function)

    target = type("Target", (), {name: handler(name) for name in names})()

    assert seen_by(target) == names


def test_one_method_may_handle_several_events() -> None:
    """A decorator does not overwrite the one below it."""

    class Target:
        @subscribe(EVENT_A)
        @subscribe(EVENT_B)
        def on_both(self, ctx: Context) -> None:
            ctx.seen.append("on_both")

    assert seen_by(Target(), EVENT_A, EVENT_B) == ["on_both", "on_both"]
    assert seen_by(Target(), EVENT_B) == ["on_both"]


def test_one_event_twice_on_one_method_is_refused() -> None:
    """The method would be called twice per event."""
    with pytest.raises(ValueError, match=r"on_a is decorated twice with @subscribe for event 'user\.a': remove one"):

        class Target:
            @subscribe(EVENT_A)
            @subscribe(EVENT_A)
            def on_a(self, ctx: Context) -> None: ...


def test_static_and_class_methods_work_with_the_decorators_in_either_order() -> None:
    """Both orders have the same effect."""

    class Target:
        @subscribe(EVENT_A)
        @staticmethod
        def static_below(ctx: Context) -> None:
            ctx.seen.append("static_below")

        @staticmethod
        @subscribe(EVENT_A)
        def static_above(ctx: Context) -> None:
            ctx.seen.append("static_above")

        @subscribe(EVENT_A)
        @classmethod
        def class_below(cls, ctx: Context) -> None:
            ctx.seen.append(f"class_below of {cls.__name__}")

        @classmethod
        @subscribe(EVENT_A)
        def class_above(cls, ctx: Context) -> None:
            ctx.seen.append(f"class_above of {cls.__name__}")

    assert seen_by(Target()) == ["static_below", "static_above", "class_below of Target", "class_above of Target"]


def test_another_decorator_may_wrap_a_handler() -> None:
    """`functools.wraps` copies the mark, so the wrapper is the handler."""

    def logged(function: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
            function(*args, **kwargs)
            seen.append("logged")

        return wrapper

    seen: list[str] = []

    class Target:
        @logged
        @subscribe(EVENT_A)
        def on_a(self, ctx: Context) -> None:
            seen.append("on_a")

    seen_by(Target())

    assert seen == ["on_a", "logged"]


@pytest.mark.parametrize("decorated", [property(lambda self: None), 1, functools.partial(print)])
def test_only_methods_and_functions_can_be_decorated(decorated: Any) -> None:
    """On anything else the mark would not be found again."""
    with pytest.raises(TypeError, match=r"@subscribe for event 'user\.a' decorates methods and functions, not"):
        subscribe(EVENT_A)(decorated)


def test_subscribe_without_its_event_is_refused() -> None:
    """`@subscribe` instead of `@subscribe(EVENT)` is a common mistake."""
    with pytest.raises(TypeError, match=r"@subscribe needs an event, as in @subscribe\(EVENT_TRAIN_READY\)"):

        @subscribe  # type: ignore[arg-type]  # what is tested
        def on_a(ctx: Context) -> None: ...
