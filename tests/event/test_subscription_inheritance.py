"""Tagged methods that are inherited and overridden."""

import pytest

from d9d.loop.event import EventBus, subscribe, subscribe_annotated

from .tagged import EVENT_A, EVENT_B, Base, Context, seen_by


def test_inherited_handlers_run_before_those_of_the_derived_class() -> None:
    """A base class comes first, as in its constructor."""

    class Derived(Base):
        @subscribe(EVENT_A)
        def beta(self, ctx: Context) -> None:
            ctx.seen.append("Derived.beta")

    assert seen_by(Derived()) == ["Base.zulu", "Base.alpha", "Derived.beta"]


def test_a_tagged_override_takes_the_place_of_what_it_overrides() -> None:
    """It runs once, where the base class put it."""

    class Derived(Base):
        @subscribe(EVENT_A)
        def beta(self, ctx: Context) -> None:
            ctx.seen.append("Derived.beta")

        @subscribe(EVENT_A)
        def zulu(self, ctx: Context) -> None:
            ctx.seen.append("Derived.zulu")

    assert seen_by(Derived()) == ["Derived.zulu", "Base.alpha", "Derived.beta"]


def test_an_override_may_handle_another_event() -> None:
    """The tags of the override count, not those of what it overrides."""

    class Derived(Base):
        @subscribe(EVENT_B)
        def zulu(self, ctx: Context) -> None:
            ctx.seen.append("Derived.zulu")

    assert seen_by(Derived()) == ["Base.alpha"]
    assert seen_by(Derived(), EVENT_B) == ["Derived.zulu"]


def test_an_override_may_call_what_it_overrides() -> None:
    """`super()` reaches the tagged method like any other, and the bus does not call it again."""

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
def test_an_override_that_drops_the_decorator_is_refused_and_both_methods_are_named(override: object) -> None:
    """It would never be called, silently."""
    derived = type("Derived", (Base,), {"zulu": override, "__module__": "user"})
    bus = EventBus()

    with pytest.raises(
        TypeError,
        match=rf"user\.Derived\.zulu overrides {Base.__module__}\.Base\.zulu, a handler of 'user\.a', without @subsc",
    ):
        subscribe_annotated(bus, derived())

    context = Context()
    bus.trigger(EVENT_A, context)
    assert context.seen == []


def test_a_base_class_that_hides_a_handler_of_another_is_refused() -> None:
    """Neither of the two would be called, and neither knows of the other: all three classes are named."""

    class Hider:
        def zulu(self, ctx: Context) -> None: ...

    derived = type("Derived", (Hider, Base), {"__module__": "user"})

    with pytest.raises(
        TypeError,
        match=rf"in user\.Derived, .*\.Hider\.zulu hides {Base.__module__}\.Base\.zulu, a handler of 'user\.a', wi",
    ):
        subscribe_annotated(EventBus(), derived())


def test_a_handler_hidden_from_nobody_is_called() -> None:
    """What lies between the tagged override and the first handler plays no part: it is not looked up either."""

    class Hider:
        def zulu(self, ctx: Context) -> None: ...

    class Derived(Hider, Base):
        @subscribe(EVENT_A)
        def zulu(self, ctx: Context) -> None:
            ctx.seen.append("Derived.zulu")

    assert seen_by(Derived()) == ["Derived.zulu", "Base.alpha"]
