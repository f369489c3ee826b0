"""Background saves of several ranks, while the loop uses collective operations all the time."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from sharded_job import SHARDINGS, Job, Sharding
from torch import distributed

from d9d.loop.component.checkpoint.manager import Checkpointer
from d9d.loop.component.checkpoint.state_dict import split_state
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.component.exchange import Exchange, Flags
from d9d.loop.config import CheckpointingConfig

NUM_STEPS = 4


def checkpointer_of(job: Job, folder: Path, **settings: Any) -> Checkpointer:
    """Make another checkpointer for a job."""
    return Checkpointer(
        CheckpointingConfig(folder=folder, num_to_keep=1000, **settings),
        stepper=job.stepper,
        state=job.state,
        settings=job.state.describe("model"),
        ranks=job.ranks,
    )


def communicate() -> None:
    """Sum numbers over all ranks, as training does."""
    for _ in range(20):
        distributed.all_reduce(torch.ones(1000))


def save_twice(sharding: Sharding, folder: Path) -> None:
    """Save each step synchronously and in the background, while the loop communicates."""
    job = Job(sharding, folder / "unused")
    awaited = checkpointer_of(job, folder / "awaited", period_steps=1)
    with checkpointer_of(job, folder / "background", period_steps=1, asynchronous=True) as background:
        for _ in range(NUM_STEPS):
            job.step()
            awaited.save()
            background.save()
            communicate()


@pytest.mark.parametrize("name", ["fsdp", "pipeline", "replicated", "tensor"])
def test_a_background_save_equals_a_synchronous_one(name: str, tmp_path: Path) -> None:
    """Bit for bit, for any kind of sharding; neither receives what the other has sent."""
    for folder in ("awaited", "background"):
        (tmp_path / folder).mkdir()
    run_on_ranks(2, save_twice, SHARDINGS[name], tmp_path)

    for step in range(1, NUM_STEPS + 1):
        (expected, expected_metadata), (found, metadata) = (
            split_state(Checkpoint(tmp_path / folder / f"step-{step}").read()) for folder in ("awaited", "background")
        )
        assert metadata == expected_metadata
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[path], expected[path]) for path in expected)


def fill_disk(folder: Path, full_on: int) -> tuple[str, list[str]]:
    job = Job(SHARDINGS["fsdp"], folder / "unused")
    checkpointer = checkpointer_of(job, folder, asynchronous=True)
    job.step()
    checkpointer.save()
    checkpointer.wait()
    if distributed.get_rank() == full_on:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    job.step()
    checkpointer.save()
    communicate()
    job.step()
    error = "nothing"
    try:
        checkpointer.save()
    except Exception as raised:  # noqa: BLE001 -- whatever it is
        error = f"{type(raised).__qualname__}: {raised}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return error, sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("full_on", [0, 1])
def test_a_save_that_fails_on_one_rank_is_raised_on_all_ranks(full_on: int, tmp_path: Path) -> None:
    """At the next save, with one message, although the loops have continued."""
    (first, files), (second, _) = run_on_ranks(2, fill_disk, tmp_path, full_on)

    assert first == second
    assert first.startswith(f"CheckpointError: could not write checkpoint step-2 to {tmp_path} (")
    assert "File too large" in first
    assert files == ["step-1"]


def save_by_the_clock(folder: Path, minutes: float, num_steps: int) -> None:
    job = Job(SHARDINGS["replicated"], folder / "unused")
    minutes = minutes if distributed.get_rank() == 0 else 1e9 - minutes
    checkpointer = checkpointer_of(job, folder, period_steps=None, period_minutes=minutes)
    exchange = Exchange(job.ranks.with_own_group())
    for _ in range(num_steps):
        job.step()
        agreed = exchange.read()
        exchange.begin(Flags(is_time_to_save=checkpointer.announce()[0]))
        if checkpointer.is_due(is_time_to_save=agreed.is_time_to_save):
            checkpointer.save()


@pytest.mark.parametrize(("minutes", "steps"), [(1e-9, ["step-2", "step-4", "step-6"]), (1e8, [])])
def test_the_clock_of_rank_zero_decides_for_all_ranks(minutes: float, steps: list[str], tmp_path: Path) -> None:
    """They learn of it one step later."""
    run_on_ranks(2, save_by_the_clock, tmp_path, minutes, 7)

    assert sorted(path.name for path in tmp_path.iterdir()) == steps
