"""Objects with state that exist on some ranks only are saved with the checkpoint of all ranks."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from layout_job import LAYOUTS, ClassifyTask, configure
from ranks import run_on_ranks
from torch import distributed

from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.config import CheckpointingConfig
from d9d.loop.control import RegisterTaskEventsContext
from d9d.loop.event import subscribe, subscribe_annotated
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST, EventStepContext


class StepCount:
    """Counts steps, over all runs."""

    def __init__(self) -> None:
        self.count = 0

    @subscribe(EVENT_TRAIN_STEP_POST)
    def add(self, ctx: EventStepContext) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.count = state_dict["count"]


class CountedTask(ClassifyTask):
    """Has a subscriber on some ranks, and another one on rank 0 only."""

    def __init__(self, ranks: Collection[int] = (0, 1)) -> None:
        super().__init__()
        rank = distributed.get_rank()
        self.counts = [StepCount() for has_one in (rank in ranks, rank == 0) if has_one]

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        super().register_events(ctx)
        for count in self.counts:
            subscribe_annotated(ctx.event_bus, count)


def count_steps(
    num_ranks: int, folder: Path, initial: int, ranks: Collection[int] = (0, 1), more_per_rank: int = 0
) -> list[int]:
    """Train, or resume; return the counts of the subscribers of this rank, which start with a given number."""
    logging.getLogger("d9d").setLevel(logging.ERROR)
    task = CountedTask(ranks)
    for count in task.counts:
        count.count = initial + more_per_rank * distributed.get_rank()
    configure(
        LAYOUTS["fsdp"],
        num_ranks,
        task,
        total_steps=4,
        checkpointing=CheckpointingConfig(folder=folder, period_steps=1, num_to_keep=10),
    ).train()
    return [count.count for count in task.counts]


def keep_two_steps(folder: Path) -> None:
    for step in (3, 4):
        (folder / f"step-{step}").rename(folder.parent / f"{folder.name}-{step}")


def test_a_subscriber_on_rank_zero_only_is_resumed_there(tmp_path: Path) -> None:
    """The other rank does not wait for it."""
    folder = tmp_path / "checkpoints"
    assert run_on_ranks(2, count_steps, 2, folder, 0) == [[4, 4], [4]]
    keep_two_steps(folder)

    assert run_on_ranks(2, count_steps, 2, folder, 100) == [[4, 4], [4]]


def test_on_another_number_of_ranks_only_replicated_subscribers_are_resumed(tmp_path: Path) -> None:
    """The others start fresh."""
    folder = tmp_path / "checkpoints"
    run_on_ranks(2, count_steps, 2, folder, 0)
    keep_two_steps(folder)

    assert run_on_ranks(1, count_steps, 1, folder, 100) == [[4, 102]]


def refusal(folder: Path) -> str:
    """Resume without the subscriber of rank 1, and return the error."""
    try:
        count_steps(2, folder, 0, (0,))
    except CheckpointError as error:
        return str(error)
    return ""


def test_state_of_a_rank_that_has_no_such_subscriber_any_more_is_refused(tmp_path: Path) -> None:
    """By its name, on all ranks, since it differs from that of the other rank."""
    folder = tmp_path / "checkpoints"
    assert run_on_ranks(2, count_steps, 2, folder, 0, (0, 1), 1) == [[4, 4], [5]]
    keep_two_steps(folder)

    refused, other = run_on_ranks(2, refusal, folder)

    assert refused == other
    assert "StepCount' for rank 1, where this job has no such object, so it would be lost" in refused
