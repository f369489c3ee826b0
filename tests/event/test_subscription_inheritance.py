"""Handlers that are inherited and overridden."""

import pytest

from d9d.loop.event import EventBus, subscribe, subscribe_annotated

from .listeners import EVENT_A, EVENT_B, Base, Context, seen_by


def test_inherited_handlers_run_before_those_of_the_derived_class() -> None:
    """A base class comes first, as in constructors."""

    class Derived(Base):
        @subscribe(EVENT_A)
        def beta(self, ctx: Context) -> None:
            ctx.seen.append("Derived.beta")

    assert seen_by(Derived()) == ["Base.zulu", "Base.alpha", "Derived.beta"]


def test_an_override_takes_the_position_of_the_handler_it_overrides() -> None:
    """It is called once, in the order of the base class."""

    class Derived(Base):
        @subscribe(EVENT_A)
        def beta(self, ctx: Context) -> None:
            ctx.seen.append("Derived.beta")

        @subscribe(EVENT_A)
        def zulu(self, ctx: Context) -> None:
            ctx.seen.append("Derived.zulu")

    assert seen_by(Derived()) == ["Derived.zulu", "Base.alpha", "Derived.beta"]


def test_an_override_may_handle_another_event() -> None:
    """Only the events of the override count."""

    class Derived(Base):
        @subscribe(EVENT_B)
        def zulu(self, ctx: Context) -> None:
            ctx.seen.append("Derived.zulu")

    assert seen_by(Derived()) == ["Base.alpha"]
    assert seen_by(Derived(), EVENT_B) == ["Derived.zulu"]


def test_an_override_may_call_the_handler_it_overrides() -> None:
    """Through `super()`; the bus does not call it again."""

    class Derived(Base):
        @subscribe(EVENT_A)
        def zulu(self, ctx: Context) -> None:
            super().zulu(ctx)
            ctx.seen.append("Derived.zulu")

    assert seen_by(Derived()) == ["Base.zulu", "Derived.zulu", "Base.alpha"]


def test_a_handler_reached_through_two_bases_runs_once() -> None:
    """Diamonds follow the method resolution order."""

    class Left(Base):
        @subscribe(EVENT_A)
        def left(self, ctx: Context) -> None:
            ctx.seen.append("left")

    class Right(Base):
        @subscribe(EVENT_A)
        def right(self, ctx: Context) -> None:
            ctx.seen.append("right")

    class Both(Left, Right):
        pass

    assert seen_by(Both()) == ["Base.zulu", "Base.alpha", "right", "left"]


@pytest.mark.parametrize("override", [lambda self, ctx: None, None, property(lambda self: None)])
def test_an_override_without_the_decorator_is_refused_and_both_methods_are_named(override: object) -> None:
    """It would silently never be called."""
    derived = type("Derived", (Base,), {"zulu": override, "__module__": "user"})
    bus = EventBus()

    with pytest.raises(
        TypeError,
        match=rf"user\.Derived\.zulu overrides {Base.__module__}\.Base\.zulu, a handler of 'user\.a', but has no @subs",
    ):
        subscribe_annotated(bus, derived())

    context = Context()
    bus.trigger(EVENT_A, context)
    assert context.seen == []


def test_a_base_class_that_hides_a_handler_of_another_is_refused() -> None:
    """Neither method would be called. The error names all three classes."""

    class Hider:
        def zulu(self, ctx: Context) -> None: ...

    derived = type("Derived", (Hider, Base), {"__module__": "user"})

    with pytest.raises(
        TypeError,
        match=rf"in user\.Derived, .*\.Hider\.zulu hides {Base.__module__}\.Base\.zulu, a handler of 'user\.a', but",
    ):
        subscribe_annotated(EventBus(), derived())


def test_an_override_with_the_decorator_may_hide_two_methods() -> None:
    """One of which is not a handler."""

    class Hider:
        def zulu(self, ctx: Context) -> None: ...

    class Derived(Hider, Base):
        @subscribe(EVENT_A)
        def zulu(self, ctx: Context) -> None:
            ctx.seen.append("Derived.zulu")

    assert seen_by(Derived()) == ["Derived.zulu", "Base.alpha"]
