"""The events inside a step are triggered on the right ranks, with the same facts."""

import pytest
import torch
from layout_job import LAYOUTS, ClassifyTask, configure
from ranks import run_on_ranks

from d9d.loop.control import ComputeLossContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_EPOCH_FINISHED,
    EVENT_TRAIN_EPOCH_STARTED,
    EVENT_TRAIN_LOSS_READY,
    EventLossReadyContext,
)


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


def losses_in(layout: str, num_ranks: int) -> list[tuple[int, int, bool, float, float]]:
    """Train two steps, and return for each loss: step, number, whether it is that of its batch, loss and weight."""
    task = ClassifyTask()
    trainer = configure(LAYOUTS[layout], num_ranks, task, total_steps=2)
    seen: list[tuple[int, int, bool, float, float]] = []

    def note(ctx: EventLossReadyContext) -> None:
        again = task.compute_loss(ComputeLossContext(outputs=ctx.outputs, batch=ctx.batch, stepper=ctx.stepper))
        is_of_batch = torch.allclose(again.loss, ctx.loss, rtol=0, atol=0, equal_nan=True)  # NaN without any class
        weight = float(ctx.loss_weight)
        seen.append((ctx.stepper.current_step, ctx.micro_batch_index, is_of_batch, ctx.loss.item(), weight))

    trainer.event_bus.subscribe(EVENT_TRAIN_LOSS_READY, note)
    trainer.train()
    return seen


@pytest.mark.parametrize(
    ("layout", "computes"),
    [
        ("fsdp", [0, 1]),
        ("1f1b", [1]),
        ("zbv", [0]),
        pytest.param("gpipe", [1], marks=pytest.mark.slow),
        pytest.param("interleaved", [1], marks=pytest.mark.slow),
        pytest.param("interleaved-zb", [1], marks=pytest.mark.slow),
        pytest.param("dualpipev", [0], marks=pytest.mark.slow),
    ],
)
def test_losses_are_ready_on_the_ranks_that_compute_them(layout: str, computes: list[int]) -> None:
    """Each loss comes with its own micro-batch and its number, whatever the order of the schedule."""
    alone = {(step, number): (loss, weight) for step, number, _, loss, weight in losses_in("plain", 1)}

    on_ranks = run_on_ranks(2, losses_in, layout, 2)

    assert [rank for rank, seen in enumerate(on_ranks) if seen] == computes
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for place, rank in enumerate(computes):
        assert all(is_of_batch for _, _, is_of_batch, _, _ in on_ranks[rank])
        # Micro-batch n of this process is number n * count + place of the job.
        found |= {(s, n * len(computes) + place): (loss, weight) for s, n, _, loss, weight in on_ranks[rank]}
    assert found.keys() == alone.keys()
    assert [found[key][1] for key in alone] == [weight for _, weight in alone.values()]
    for key, (loss, _) in alone.items():
        assert found[key][0] == pytest.approx(loss, rel=1e-3, nan_ok=True)
