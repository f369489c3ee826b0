"""The events inside a step are triggered on the right ranks, with the same facts."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from layout_job import LAYOUTS, ClassifyTask, configure, full_weights
from ranks import run_on_ranks
from torch.distributed.tensor import DTensor

from d9d.loop.config import ConfigurationError
from d9d.loop.control import ComputeLossContext, RegisterTaskEventsContext
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_CONFIG_STARTED,
    EVENT_TRAIN_EPOCH_FINISHED,
    EVENT_TRAIN_EPOCH_STARTED,
    EVENT_TRAIN_GRADIENTS_READY,
    EVENT_TRAIN_LOSS_READY,
    EventGradientsReadyContext,
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


class ListeningTask(ClassifyTask):
    """Notes the gradient norm of each step on some ranks, and skips some updates.

    Args:
        ranks: The ranks that listen.
        skipped: The steps whose update is skipped.
    """

    def __init__(self, ranks: Sequence[int], skipped: Sequence[int] = ()) -> None:
        super().__init__()
        self.norms: list[float] = []
        self._ranks, self._skipped = ranks, skipped

    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        ctx.event_bus.subscribe(EVENT_TRAIN_CONFIG_STARTED, self._find_part)
        if ctx.dist_context.rank in self._ranks:
            ctx.event_bus.subscribe(EVENT_TRAIN_GRADIENTS_READY, self.note)

    def note(self, ctx: EventGradientsReadyContext) -> None:
        self.norms.append(ctx.norm.item())
        if self._skipped:
            ctx.skip_update(torch.tensor(ctx.stepper.current_step in self._skipped))


def norms_in(
    layout: str, num_ranks: int, ranks: Sequence[int], skipped: Sequence[int] = (), **settings: Any
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train four steps, and return the norms that this rank saw, and the full weights of its stages."""
    task = ListeningTask(ranks, skipped)
    trainer = configure(LAYOUTS[layout], num_ranks, task, total_steps=4, **settings)
    trainer.train()
    return task.norms, full_weights(trainer)


@pytest.mark.parametrize(("layout", "policy"), [("fsdp", "allow"), ("1f1b", "skip")])
def test_all_ranks_see_the_norm_of_the_job_and_skip_the_same_updates(layout: str, policy: str) -> None:
    """Norms and weights are those of one process, and all ranks see the same bits."""
    norms, weights = norms_in("plain", 1, [0], [1], non_finite_gradients=policy)

    (first, of_first), (second, of_second) = run_on_ranks(2, skip_second_update, layout, policy)

    assert first == second == pytest.approx(norms, rel=1e-4)
    for name, weight in {**of_first, **of_second}.items():
        torch.testing.assert_close(weight, weights[name], atol=1e-4, rtol=1e-4)


def skip_second_update(layout: str, policy: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    return norms_in(layout, 2, [0, 1], [1], non_finite_gradients=policy)


@pytest.mark.parametrize("layout", [pytest.param("fsdp", marks=pytest.mark.slow), "1f1b"])
def test_a_handler_on_one_rank_alone_gets_the_norm_of_all(layout: str) -> None:
    """The other rank measures too, although nothing of its own needs the norm."""
    norms, _ = norms_in("plain", 1, [0], max_gradient_norm=None)

    (first, _), (second, _) = run_on_ranks(2, listen_on_second_rank, layout)

    assert first == []
    assert second == pytest.approx(norms, rel=1e-4)


def listen_on_second_rank(layout: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    return norms_in(layout, 2, [1], max_gradient_norm=None)


def local_weights(*, is_late: bool) -> list[torch.Tensor]:
    """Train replicas of which one listens, and return the weights that this rank holds."""
    task = ListeningTask([] if is_late else [1])
    trainer = configure(LAYOUTS["replicate"], 2, task, total_steps=8, max_gradient_norm=0.1)
    if is_late and torch.distributed.get_rank() == 1:
        trainer.event_bus.subscribe(EVENT_TRAIN_GRADIENTS_READY, task.note)
    trainer.train()
    assert len(task.norms) == (8 if torch.distributed.get_rank() == 1 else 0)
    weights = [weight for module in trainer.modules for weight in module.parameters()]
    return [weight.to_local().detach().clone() if isinstance(weight, DTensor) else weight for weight in weights]


@pytest.mark.parametrize("work", ["early", "late"])
def test_replicas_do_not_drift_apart_if_one_of_them_listens(work: str) -> None:
    """All scale their gradients by the same operations, also if the handler came after `configure`."""
    first, second = run_on_ranks(2, listen_late if work == "late" else listen_early)

    assert all(map(torch.equal, first, second))


def listen_late() -> list[torch.Tensor]:
    return local_weights(is_late=True)


def listen_early() -> list[torch.Tensor]:
    return local_weights(is_late=False)


def subscribe_between_steps() -> list[str]:
    """Subscribe the first handler after the first step, and return the error."""
    trainer = configure(LAYOUTS["fsdp"], 2, ListeningTask([]), total_steps=2)
    errors = []
    for ctx in trainer.steps():
        if ctx.stepper.current_step == 1:
            with pytest.raises(ConfigurationError) as caught:
                trainer.event_bus.subscribe(EVENT_TRAIN_GRADIENTS_READY, print)
            errors.append(str(caught.value))
    return errors


def test_the_first_handler_of_several_ranks_cannot_come_between_two_steps() -> None:
    """The others would not know of it."""
    for errors in run_on_ranks(2, subscribe_between_steps):
        assert len(errors) == 1
        assert "the first step has begun" in errors[0]


def reductions_in(layout: str, ranks: Sequence[int], max_gradient_norm: float | None) -> list[int]:
    """Train four steps, and return how often this rank calls `all_reduce` in each of the last three."""
    trainer = configure(LAYOUTS[layout], 2, ListeningTask(ranks), total_steps=4, max_gradient_norm=max_gradient_norm)
    counts: list[int] = []
    number = 0
    all_reduce = torch.distributed.all_reduce

    def count(*arguments: Any, **options: Any) -> Any:
        nonlocal number
        number += 1
        return all_reduce(*arguments, **options)

    torch.distributed.all_reduce = count
    try:
        for _ in trainer.steps():
            counts.append(number)
            number = 0
    finally:
        torch.distributed.all_reduce = all_reduce
    return counts[1:-1]


def reductions() -> list[list[int]]:
    """Count in a run without a norm, with a handler on one rank, with clipping, and with both."""
    return [
        reductions_in("fsdp", ranks, max_norm) for ranks, max_norm in (((), None), ((1,), None), ((), 1.0), ((1,), 1.0))
    ]


def test_a_handler_adds_the_reduction_of_the_norm_and_no_other() -> None:
    """A step reduces its loss and the exchange of the loop; where the norm is measured, that too, once."""
    for of_rank in run_on_ranks(2, reductions):
        assert of_rank == [[2, 2], [3, 3], [3, 3], [3, 3]]
