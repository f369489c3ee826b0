"""What handlers ask of a loop on some ranks happens on all of them, after the same step."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layout_job import LAYOUTS, ClassifyTask, configure
from ranks import run_on_ranks
from torch import distributed

from d9d.loop.component.exchange import Exchange, Flags
from d9d.loop.component.ranks import Ranks
from d9d.loop.config import CheckpointingConfig
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CHECKPOINT_SAVED,
    EVENT_TRAIN_CLOSED,
    EVENT_TRAIN_STEP_POST,
    EventStepContext,
)

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
