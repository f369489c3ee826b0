"""The events inside a step are triggered on the right ranks, with the same facts."""

import pytest
from layout_job import LAYOUTS, ClassifyTask, configure
from ranks import run_on_ranks

from d9d.loop.event.catalogue.train import EVENT_TRAIN_EPOCH_FINISHED, EVENT_TRAIN_EPOCH_STARTED


def epochs_in(layout: str) -> list[tuple[str, int, int]]:
    """Train seven steps of 32 of 100 samples, and return the epochs that this rank saw, each with its step."""
    trainer = configure(LAYOUTS[layout], 2, ClassifyTask(), total_steps=7)
    seen: list[tuple[str, int, int]] = []
    bus = trainer.event_bus
    bus.subscribe(EVENT_TRAIN_EPOCH_STARTED, lambda ctx: seen.append(("start", ctx.stepper.current_step, ctx.epoch)))
    bus.subscribe(EVENT_TRAIN_EPOCH_FINISHED, lambda ctx: seen.append(("end", ctx.stepper.current_step, ctx.epoch)))
    trainer.train()
    return seen


@pytest.mark.parametrize("layout", ["fsdp", "1f1b"])
def test_all_ranks_have_the_same_epochs(layout: str) -> None:
    """An epoch belongs to the job, not to the share of a rank."""
    expected = [("start", 0, 0), ("start", 3, 1), ("end", 3, 0), ("start", 6, 2), ("end", 6, 1)]

    assert run_on_ranks(2, epochs_in, layout) == [expected] * 2
