"""Ranks compare their handlers before they refuse any."""

import logging
from collections.abc import Callable

from layout_job import LAYOUTS, ClassifyTask, configure
from ranks import run_on_ranks
from torch import distributed

from d9d.core.settings import ConfigurationError
from d9d.loop.control import RegisterTaskEventsContext
from d9d.loop.event import EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EventStepContext,
    EventTrainReadyContext,
)

NUM_RANKS = 2


class Tracker:
    """Registers on the main process alone, and listens to everything there."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        if ctx.dist_context.is_main_process:
            subscribe_annotated(ctx.event_bus, self)

    @subscribe(EVENT_TRAIN_STEP_POST, every=2)
    def note(self, ctx: EventStepContext) -> None:
        self.steps.append(ctx.stepper.current_step)


class OnMain:
    """Listens in the main process, by a filter."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    @subscribe(EVENT_TRAIN_STEP_POST, main_process_only=True)
    def note(self, ctx: EventStepContext) -> None:
        self.steps.append(ctx.stepper.current_step)


class Forgetful(ClassifyTask):
    """Leaves out one of its handlers."""

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_CONFIG_STARTED, self._find_part)
        ctx.event_bus.subscribe(EVENT_TRAIN_READY, self.on_ready)

    @subscribe(EVENT_TRAIN_READY)
    def on_ready(self, ctx: EventTrainReadyContext) -> None: ...

    @subscribe(EVENT_TRAIN_STEP_POST)  # type: ignore[d9d-unregistered]  # is tested
    def on_step(self, ctx: EventStepContext) -> None: ...


def first(ctx: EventStepContext) -> None: ...


def second(ctx: EventStepContext) -> None: ...


class Listening(ClassifyTask):
    """Subscribes the handlers of a test."""

    def __init__(self, listen: Callable[[EventBus], None]) -> None:
        super().__init__()
        self._listen = listen

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        self._listen(ctx.event_bus)


def in_another_order(bus: EventBus) -> None:
    handlers = [first, second]
    for handler in handlers if distributed.get_rank() == 0 else reversed(handlers):
        bus.subscribe(EVENT_TRAIN_STEP_POST, handler)


def one_more_on_rank_one(bus: EventBus) -> None:
    for handler in [first, second] if distributed.get_rank() == 1 else [second]:
        bus.subscribe(EVENT_TRAIN_STEP_POST, handler)


def twice_on_rank_one(bus: EventBus) -> None:
    on_main = OnMain()
    for _ in range(distributed.get_rank() + 1):
        subscribe_annotated(bus, on_main)


def refused(task: ClassifyTask) -> str:
    """Return why this rank refuses a task."""
    try:
        configure(LAYOUTS["fsdp"], NUM_RANKS, task, total_steps=4)
    except ConfigurationError as error:
        return str(error)
    return ""


def try_everything() -> tuple[list[int], list[int], list[str], list[str]]:
    """Return the steps that each subscriber noted, why tasks are refused, and what is logged about handlers."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("d9d.loop.run.subscribers")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    tracker, on_main = Tracker(), OnMain()
    configure(LAYOUTS["fsdp"], NUM_RANKS, ClassifyTask(), total_steps=4, subscribers=[tracker, on_main]).train()
    listening = map(Listening, (in_another_order, twice_on_rank_one, one_more_on_rank_one))
    refusals = [refused(task) for task in (Forgetful(), *listening)]
    return tracker.steps, on_main.steps, refusals, records


def test_ranks_compare_their_handlers() -> None:
    """One rank is enough for a handler; all refuse what no rank has subscribed, or one in another order or twice."""
    (tracked, on_main, refusals, records), (other_tracked, other_on_main, other_refusals, other_records) = run_on_ranks(
        NUM_RANKS, try_everything
    )

    assert (tracked, other_tracked) == ([1, 3], [])
    assert (on_main, other_on_main) == ([0, 1, 2, 3], [])
    assert refusals == other_refusals
    unregistered, reordered, repeated, allowed = refusals
    assert "Forgetful.on_step" in unregistered
    assert "of the task has @subscribe for event 'train.step.post', but no process has subscribed it" in unregistered
    assert "on_ready" not in unregistered
    assert "the handlers of event 'train.step.post' are in another order on rank 1 (" in reordered
    assert "subscribes the handlers of an object of class" in repeated
    assert "OnMain" in repeated
    assert allowed == ""
    assert [record for record in records if "Tracker.note" in record and "is on rank 0 only" in record]
    assert other_records == []
