"""A run resumes in another parallel layout, with the same result."""

import contextlib
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from layout_job import LAYOUTS, ClassifyTask, Outcome, configure, full_weights, record_losses
from ranks import run_on_ranks

from d9d.loop.config import CheckpointingConfig
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE, EventStepContext

NUM_STEPS = 8
PERIOD_STEPS = 2
# The run stops in the step after the last save, so that this step is repeated.
STOPPED_AT = 4
# In the pairs each layout is once the first and once the second.
SHORT = [("plain", 1), ("fsdp", 2), ("1f1b", 2), ("tensor", 2), ("zbv+fsdp", 4), ("hsdp", 4)]
PAIRS = list(zip(SHORT, [*SHORT[1:], SHORT[0]], strict=True))
LONG = [(first, second) for first in SHORT for second in SHORT if first != second and (first, second) not in PAIRS]


class StoppedError(Exception):
    """Stops a run."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def train(name: str, num_ranks: int, folder: Path, stop_at: int | None = None) -> Outcome:
    """Train from the newest checkpoint, if there is one, to the end or to a step."""
    task = ClassifyTask()
    checkpointing = CheckpointingConfig(folder=folder, period_steps=PERIOD_STEPS)
    settings: dict[str, Any] = {"checkpointing": checkpointing, "total_steps": NUM_STEPS}
    trainer = configure(LAYOUTS[name], num_ranks, task, **settings)
    losses = record_losses(trainer)

    def stop(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == stop_at:
            raise StoppedError

    trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, stop)
    with contextlib.suppress(StoppedError):
        trainer.train()
    return Outcome(
        losses=[loss.item() for loss in losses],
        weights=full_weights(trainer),
        trace=task.trace,
        num_losses=task.num_losses,
        num_passes=[],
    )


def run(layout: tuple[str, int], folder: Path, stop_at: int | None = None) -> list[Outcome]:
    name, num_ranks = layout
    if num_ranks == 1:
        return [train(name, 1, folder, stop_at)]
    outcomes: list[Outcome] = run_on_ranks(num_ranks, train, name, num_ranks, folder, stop_at)
    return outcomes


@functools.cache
def undisturbed(folder: Path) -> Outcome:
    return train("plain", 1, folder)


@pytest.mark.parametrize(("first", "second"), [*PAIRS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in LONG)])
def test_a_run_resumes_in_another_layout(
    first: tuple[str, int], second: tuple[str, int], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its losses and final weights equal those of an uninterrupted run on one process."""
    whole = undisturbed(tmp_path_factory.getbasetemp() / "undisturbed")

    run(first, tmp_path, STOPPED_AT + 1)
    outcomes = run(second, tmp_path)

    for outcome in outcomes:
        assert len(outcome.losses) == NUM_STEPS - STOPPED_AT
        torch.testing.assert_close(outcome.losses, whole.losses[STOPPED_AT:], atol=1e-4, rtol=0)
        for name, weight in outcome.weights.items():
            torch.testing.assert_close(weight, whole.weights[name], atol=1e-4, rtol=0)
