"""Runs that are killed right after a checkpoint is announced, or between a request to stop and the last checkpoint."""

import os
import signal
from pathlib import Path

import pytest
from layout_job import LAYOUTS, ClassifyTask, configure
from ranks import run_on_ranks
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException

from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.config import CheckpointingConfig
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CHECKPOINT_SAVED,
    EVENT_TRAIN_CLOSED,
    EVENT_TRAIN_STEP_POST,
    EventCheckpointContext,
    EventStepContext,
)

NUM_STEPS = 8


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_when_saved(folder: Path, asynchronous: bool, rank: int) -> None:  # noqa: FBT001 -- called by position
    """Train, and die on one rank as soon as the second checkpoint is announced there."""
    config = CheckpointingConfig(folder=folder, period_steps=2, num_to_keep=9, asynchronous=asynchronous)
    trainer = configure(LAYOUTS["fsdp"], 2, ClassifyTask(), total_steps=NUM_STEPS, checkpointing=config)

    def die(ctx: EventCheckpointContext) -> None:
        if ctx.step == 4 and distributed.get_rank() == rank:
            be_killed()

    trainer.event_bus.subscribe(EVENT_TRAIN_CHECKPOINT_SAVED, die)
    trainer.train()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_checkpoint_that_was_announced_is_complete(rank: int, tmp_path: Path, *, asynchronous: bool) -> None:
    """Whatever happens to the ranks in the next moment."""
    with pytest.raises(ProcessExitedException):
        run_on_ranks(2, die_when_saved, tmp_path, asynchronous, rank)

    checkpoint = Checkpoint(tmp_path / "step-4")
    assert checkpoint.problem() is None
    assert [*checkpoint.verify()] == []


def stop_soon(folder: Path, is_killed: bool) -> tuple[int, list[tuple[str, str]]]:  # noqa: FBT001 -- called by position
    """Ask for a stop on rank 1 from the second step on, and die in the step after it; return the steps and the end."""
    config = CheckpointingConfig(folder=folder, period_steps=1, num_to_keep=9)
    trainer = configure(LAYOUTS["fsdp"], 2, ClassifyTask(), total_steps=NUM_STEPS, checkpointing=config)
    ends: list[tuple[str, str]] = []
    steps: list[int] = []

    def act(ctx: EventStepContext) -> None:
        step = ctx.stepper.current_step
        steps.append(step)
        if step >= 1 and distributed.get_rank() == 1:
            ctx.control.stop("seen enough")
        if step == 2 and is_killed and distributed.get_rank() == 0:
            be_killed()

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_POST, act)
    trainer.event_bus.subscribe(EVENT_TRAIN_CLOSED, lambda ctx: ends.append((ctx.outcome, ctx.reason)))
    trainer.train()
    return len(steps), ends


def test_a_run_that_is_killed_before_its_last_checkpoint_stops_when_it_is_run_again(tmp_path: Path) -> None:
    """The request was not saved, so its handler makes it again; after that the run is over."""
    with pytest.raises(ProcessExitedException):
        run_on_ranks(2, stop_soon, tmp_path, True)  # noqa: FBT003 -- the arguments of the function
    assert sorted(checkpoint.num_steps for checkpoint in Checkpoint.list_in(tmp_path)) == [1, 2]

    assert run_on_ranks(2, stop_soon, tmp_path, False) == [(2, [("finished", "seen enough")])] * 2  # noqa: FBT003
    assert Checkpoint(tmp_path / "step-4").manifest()["stop_reason"] == "seen enough"
    assert run_on_ranks(2, stop_soon, tmp_path, False) == [(0, [("finished", "seen enough")])] * 2  # noqa: FBT003
