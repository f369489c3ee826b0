"""What handlers ask of a loop on some ranks happens on all of them, after the same step."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layout_job import LAYOUTS, ClassifyTask, Samples, configure
from ranks import run_on_ranks
from torch import distributed

from d9d.loop.component.evaluation import Evaluation
from d9d.loop.component.exchange import Exchange, Flags
from d9d.loop.component.ranks import Ranks
from d9d.loop.config import CheckpointingConfig, ReportingConfig
from d9d.loop.control import RegisterTaskEventsContext
from d9d.loop.event import Event
from d9d.loop.event.catalogue import train
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CHECKPOINT_SAVED,
    EVENT_TRAIN_CLOSED,
    EVENT_TRAIN_STEP_POST,
    EventStepContext,
)
from d9d.testing import make_context

NUM_STEPS = 6
Notes = list[tuple[str, Any]]


def run(layout: str, folder: Path, act: Callable[[EventStepContext], None], *, asynchronous: bool) -> Notes:
    """Train, and note what happened on this rank."""
    config = CheckpointingConfig(folder=folder, period_steps=None, num_to_keep=9, asynchronous=asynchronous)
    trainer = configure(LAYOUTS[layout], 2, ClassifyTask(), total_steps=NUM_STEPS, checkpointing=config)
    notes: Notes = []
    bus = trainer.event_bus
    bus.subscribe(EVENT_TRAIN_STEP_POST, act)
    bus.subscribe(
        EVENT_TRAIN_CHECKPOINT_SAVED, lambda ctx: notes.append(("saved", (ctx.step, ctx.stepper.current_step)))
    )
    bus.subscribe(EVENT_TRAIN_CLOSED, lambda ctx: notes.append((ctx.outcome, ctx.reason)))
    trainer.train()
    return notes


def stop_on(rank: int | None, layout: str, folder: Path) -> Notes:
    """Ask for a stop in the second step, on one rank or on all, each for a reason of its own."""

    def act(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 1 and rank in (distributed.get_rank(), None):
            ctx.control.stop(f"rank {distributed.get_rank()} has seen enough")

    return run(layout, folder, act, asynchronous=False)


@pytest.mark.parametrize("layout", ["fsdp", pytest.param("1f1b", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("rank", "lowest"), [(1, 1), pytest.param(0, 0, marks=pytest.mark.slow), (None, 0)])
def test_one_rank_stops_all(rank: int | None, lowest: int, layout: str, tmp_path: Path) -> None:
    """After the step that follows; the reason of the lowest rank that asked is the one that counts."""
    reason = f"rank {lowest} has seen enough"

    assert run_on_ranks(2, stop_on, rank, layout, tmp_path) == [[("saved", (3, 3)), ("finished", reason)]] * 2
    manifest = json.loads((tmp_path / "step-3" / "checkpoint.json").read_text(encoding="utf-8"))
    assert manifest["stop_reason"] == reason


def save_on_one(folder: Path, asynchronous: bool) -> Notes:  # noqa: FBT001 -- called by position
    """Ask for a checkpoint on rank 1 in the second step."""

    def act(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 1 and distributed.get_rank() == 1:
            ctx.control.save()

    return run("fsdp", folder, act, asynchronous=asynchronous)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_one_rank_saves_on_all(tmp_path: Path, *, asynchronous: bool) -> None:
    """A checkpoint is announced on all ranks after the same step, when it is on disk for all of them."""
    first, second = run_on_ranks(2, save_on_one, tmp_path, asynchronous)

    assert first == second
    (_, (step, announced)), last, end = first
    assert step == 3
    assert announced > 3 if asynchronous else announced == 3
    assert last == ("saved", (NUM_STEPS, NUM_STEPS))
    assert end == ("finished", "all steps are done")


# After how many steps a request takes effect that is made at an event, from the `current_step` of its context on.
REQUESTS: dict[Event[Any], int] = {
    **dict.fromkeys(
        (
            train.EVENT_TRAIN_STEP_PRE,
            train.EVENT_TRAIN_EPOCH_STARTED,
            train.EVENT_TRAIN_FORWARD_BACKWARD_PRE,
            train.EVENT_TRAIN_LOSS_READY,
            train.EVENT_TRAIN_FORWARD_BACKWARD_POST,
            train.EVENT_TRAIN_GRADIENTS_READY,
            train.EVENT_TRAIN_OPTIMIZER_STEP_PRE,
            train.EVENT_TRAIN_OPTIMIZER_STEP_POST,
            train.EVENT_TRAIN_STEP_POST,
            train.EVENT_TRAIN_EPOCH_FINISHED,
        ),
        2,
    ),
    train.EVENT_TRAIN_REPORT_READY: 1,  # before this boundary's exchange has begun
    train.EVENT_TRAIN_EVALUATION_STARTED: 2,
    train.EVENT_TRAIN_EVALUATION_FINISHED: 2,
}


class Asking(ClassifyTask):
    """Asks for a checkpoint at one event after the other, on one rank, and keeps steps between them."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.expected: list[int] = []
        self._left = [*REQUESTS]

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        if ctx.dist_context.rank == self.rank:
            for event in REQUESTS:
                ctx.event_bus.subscribe(event, functools.partial(self._ask, event))

    def _ask(self, event: Event[Any], ctx: Any) -> None:
        step = ctx.stepper.current_step
        is_report_of_training = event != train.EVENT_TRAIN_REPORT_READY or "steps_per_second" in ctx.report.metrics
        if self._left[:1] == [event] and is_report_of_training and step > (self.expected or [0])[-1]:
            ctx.control.save()
            self.expected.append(step + REQUESTS[event])
            del self._left[0]


def save_at_each_event(num_ranks: int, rank: int, folder: Path) -> tuple[list[int], list[int]]:
    """Return after which steps checkpoints should be saved, and after which they are."""
    task = Asking(rank)
    trainer = configure(
        LAYOUTS["fsdp" if num_ranks > 1 else "plain"],
        num_ranks,
        task,
        total_steps=46,
        micro_batch_size=16,
        checkpointing=CheckpointingConfig(folder=folder, period_steps=None, num_to_keep=99),
        evaluations={"one": Evaluation(dataset_provider=Samples(1), period_steps=3)},
        reporting=ReportingConfig(progress_bar=False, period_steps=2, json_lines=None),
    )
    saved: list[int] = []
    trainer.event_bus.subscribe(EVENT_TRAIN_CHECKPOINT_SAVED, lambda ctx: saved.append(ctx.step))
    trainer.train()
    return task.expected, saved[:-1]


def test_one_rank_may_ask_at_each_event_that_has_a_control(tmp_path: Path) -> None:
    """All ranks act after the step that follows; between two steps, a request may belong to the one or to the other."""
    events = [event for event in vars(train).values() if isinstance(event, Event)]
    assert {event for event in events if hasattr(make_context(event), "control")} == REQUESTS.keys()

    alone, _ = save_at_each_event(1, 0, tmp_path / "alone")
    (_, first), (expected, second) = run_on_ranks(2, save_at_each_event, 2, 1, tmp_path / "ranks")

    assert len(expected) == len(REQUESTS)
    assert first == second == expected == alone


def agree_around_a_collective() -> tuple[float, list[bool]]:
    """Start a collective operation before the exchange on rank 0, and after it on rank 1."""
    rank = distributed.get_rank()
    exchange = Exchange(Ranks(rank, 2).with_own_group(), ["validation"])
    total = torch.tensor(float(1 + rank))
    flags = Flags(stop=rank == 0, evaluations=frozenset({"validation"} if rank == 1 else ()))
    if rank == 0:
        work = distributed.all_reduce(total, async_op=True)
    exchange.begin(flags)
    if rank == 1:
        work = distributed.all_reduce(total, async_op=True)
    agreed = exchange.read()
    work.wait()
    return total.item(), [agreed.stop, agreed.save, "validation" in agreed.evaluations]


def test_collective_operations_of_users_do_not_meet_the_exchange() -> None:
    """It has a process group of its own, so a handler may start one on each rank at another time."""
    assert run_on_ranks(2, agree_around_a_collective) == [(3.0, [True, False, True])] * 2
