"""`EventBus.bounded` triggers one event before a block and another after it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from d9d.loop.event import Event, EventBus


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedContext:
    step: int
    path: Path = Path("/checkpoints")


EVENT_SAVE_PRE = Event[SavedContext](id="user.save.pre")
EVENT_SAVE_POST = Event[SavedContext](id="user.save.post")

CONTEXT = SavedContext(step=3)


@pytest.fixture(name="bus")
def _bus() -> EventBus:
    return EventBus()


def fail(error: BaseException) -> Callable[[SavedContext], None]:
    """Make a handler that raises."""

    def failing_handler(ctx: SavedContext) -> None:
        raise error

    return failing_handler


def note(seen: list[str], name: str) -> Callable[[object], None]:
    """Make a handler that records its call."""
    return lambda _: seen.append(name)


def test_bounded_triggers_pre_then_the_block_then_post(bus: EventBus) -> None:
    """Handlers of both events receive the same context."""
    seen: list[tuple[str, SavedContext | None]] = []
    bus.subscribe(EVENT_SAVE_PRE, lambda ctx: seen.append(("pre", ctx)))
    bus.subscribe(EVENT_SAVE_POST, lambda ctx: seen.append(("post", ctx)))

    with bus.bounded(EVENT_SAVE_PRE, EVENT_SAVE_POST, CONTEXT):
        seen.append(("block", None))

    assert seen == [("pre", CONTEXT), ("block", None), ("post", CONTEXT)]


def test_bounded_alone_triggers_nothing(bus: EventBus) -> None:
    """Nothing happens before the `with` statement."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVE_PRE, seen.append)

    bus.bounded(EVENT_SAVE_PRE, EVENT_SAVE_POST, CONTEXT)  # type: ignore[d9d-pair]  # what is tested

    assert seen == []


@pytest.mark.parametrize("error", [LookupError(), KeyboardInterrupt(), GeneratorExit()])
def test_bounded_skips_post_when_the_block_raises(bus: EventBus, error: BaseException) -> None:
    """Post means success, and the exception propagates unchanged."""
    seen: list[SavedContext] = []
    bus.subscribe(EVENT_SAVE_POST, seen.append)

    with (
        pytest.raises(type(error)) as caught,
        bus.bounded(EVENT_SAVE_PRE, EVENT_SAVE_POST, CONTEXT),
    ):
        raise error

    assert caught.value is error
    assert seen == []


def test_bounded_runs_neither_block_nor_post_when_a_handler_of_pre_raises(bus: EventBus) -> None:
    """The exception propagates from the `with` statement."""
    seen: list[object] = []
    bus.subscribe(EVENT_SAVE_PRE, fail(LookupError()))
    bus.subscribe(EVENT_SAVE_POST, seen.append)

    with pytest.raises(LookupError), bus.bounded(EVENT_SAVE_PRE, EVENT_SAVE_POST, CONTEXT):
        seen.append("block")

    assert seen == []


def test_a_handler_of_post_that_raises_propagates(bus: EventBus) -> None:
    """As it does from a handler of pre."""
    bus.subscribe(EVENT_SAVE_POST, fail(LookupError()))

    with pytest.raises(LookupError), bus.bounded(EVENT_SAVE_PRE, EVENT_SAVE_POST, CONTEXT):
        pass


def test_bounded_nests(bus: EventBus) -> None:
    """The inner block ends before the outer one."""
    seen: list[str] = []
    inner_pre, inner_post = Event[int](id="user.inner.pre"), Event[int](id="user.inner.post")
    for event in (inner_pre, inner_post):
        bus.subscribe(event, note(seen, event.id))
    bus.subscribe(EVENT_SAVE_POST, note(seen, EVENT_SAVE_POST.id))

    with bus.bounded(EVENT_SAVE_PRE, EVENT_SAVE_POST, CONTEXT), bus.bounded(inner_pre, inner_post, 0):
        pass

    assert seen == ["user.inner.pre", "user.inner.post", "user.save.post"]


def test_a_handler_that_subscribes_in_the_block_hears_its_end(bus: EventBus) -> None:
    """Handlers of post are looked up when the block ends."""
    seen: list[SavedContext] = []

    with bus.bounded(EVENT_SAVE_PRE, EVENT_SAVE_POST, CONTEXT):
        bus.subscribe(EVENT_SAVE_POST, seen.append)

    assert seen == [CONTEXT]
