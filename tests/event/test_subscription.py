"""Handlers that are tagged where they are defined, and subscribed all at once."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d9d.loop.event import EventBus, subscribe

from .tagged import EVENT_A, EVENT_B, Base, Context, seen_by

P = ParamSpec("P")


def test_tagged_methods_are_called_on_the_object() -> None:
    """The handler is the bound method, with the state of its object."""

    class Target:
        def __init__(self, name: str) -> None:
            self.name = name

        @subscribe(EVENT_A)
        def on_a(self, ctx: Context) -> None:
            ctx.seen.append(self.name)

    assert seen_by(Target("one")) == ["one"]


def test_a_tag_alone_subscribes_nothing() -> None:
    """The bus knows no object that was not registered."""
    context = Context()
    Base()

    EventBus().trigger(EVENT_A, context)

    assert context.seen == []


def test_a_tagged_method_is_still_the_method() -> None:
    """It can be called as before: the decorator returns the very function."""

    def on_a(ctx: Context) -> None:
        ctx.seen.append("called")

    context = Context()
    assert subscribe(EVENT_A)(on_a) is on_a
    Base().zulu(context)
    assert context.seen == ["Base.zulu"]


def test_handlers_of_one_object_run_in_the_order_of_definition() -> None:
    """The alphabet plays no part."""
    assert seen_by(Base()) == ["Base.zulu", "Base.alpha"]


@given(names=st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(str.isidentifier), unique=True, max_size=8))
def test_any_names_run_in_the_order_of_definition(names: list[str]) -> None:
    """What holds for two names holds for all."""

    def handler(name: str) -> Callable[[Any, Context], None]:
        def function(self: object, ctx: Context) -> None:
            ctx.seen.append(name)

        return subscribe(EVENT_A)(function)

    target = type("Target", (), {name: handler(name) for name in names})()

    assert seen_by(target) == names


def test_several_tags_on_one_method_all_count() -> None:
    """One method may handle several events; a decorator does not overwrite the one below it."""

    class Target:
        @subscribe(EVENT_A)
        @subscribe(EVENT_B)
        def on_both(self, ctx: Context) -> None:
            ctx.seen.append("on_both")

    assert seen_by(Target(), EVENT_A, EVENT_B) == ["on_both", "on_both"]
    assert seen_by(Target(), EVENT_B) == ["on_both"]


def test_one_event_twice_on_one_method_is_refused() -> None:
    """It would run twice an event, which nobody means."""
    with pytest.raises(ValueError, match=r"on_a is tagged twice with event 'user\.a': remove one"):

        class Target:
            @subscribe(EVENT_A)
            @subscribe(EVENT_A)
            def on_a(self, ctx: Context) -> None: ...


def test_static_and_class_methods_work_with_the_tag_above_or_below() -> None:
    """Both orders of the decorators mean the same."""

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


def test_a_decorator_that_wraps_a_tagged_method_keeps_the_tag() -> None:
    """`functools.wraps` carries it over, so what runs is the wrapper."""

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
def test_what_is_no_method_or_function_cannot_be_tagged(decorated: Any) -> None:
    """The tag would never be found again."""
    with pytest.raises(TypeError, match=r"@subscribe for event 'user\.a' decorates methods and functions, not"):
        subscribe(EVENT_A)(decorated)


def test_subscribe_without_its_event_is_refused() -> None:
    """`@subscribe` in place of `@subscribe(EVENT)` is a common slip."""
    with pytest.raises(
        TypeError, match=r"@subscribe takes the event to listen to, as in @subscribe\(EVENT_TRAIN_READY\)"
    ):

        @subscribe  # type: ignore[arg-type]  # what is tested
        def on_a(ctx: Context) -> None: ...
