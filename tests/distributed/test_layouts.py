"""A job gives the same result in every parallel layout."""

import functools

import pytest
import torch
from declared import violation
from layout_job import LAYOUTS, ClassifyTask, Outcome, Stage, configure, train_in
from ranks import run_on_ranks
from torch import nn

from d9d.core.dist_context import DeviceMeshParameters
from d9d.core.pipeline import StagePosition
from d9d.loop.component.weight_init import initialize_weights

TOLERANCE = 1e-4
# Layouts that combine a pipeline with FSDP need four processes, the others two. The slow variants run each layout on
# both numbers of processes, with the number of steps of docs/layouts.md.
NUM_PROCESSES = {name: 4 if "+" in name else 2 for name in LAYOUTS if name != "plain"}
NUM_STEPS, NUM_STEPS_SLOW = 6, 20
# One layout for each kind of parallelism and of schedule.
ALWAYS_RUN = ("fsdp", "hsdp", "tensor", "context", "1f1b", "interleaved-zb", "zbv", "zbv+fsdp")
CASES = [
    *((name, NUM_PROCESSES[name], NUM_STEPS) for name in ALWAYS_RUN),
    *(
        pytest.param(name, num_ranks, NUM_STEPS_SLOW, marks=pytest.mark.slow)
        for name in NUM_PROCESSES
        for num_ranks in (2, 4)
    ),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@functools.cache
def alone(num_steps: int) -> Outcome:
    """Run the job in one process."""
    return train_in("plain", 1, num_steps)


def test_one_process_equals_a_hand_written_loop() -> None:
    """The run on one process, the reference for all layouts, has the losses of a hand-written loop."""
    micro_batches = list(configure(LAYOUTS["plain"], 1, ClassifyTask())._loop.data_loader)
    with torch.device("meta"):
        model = Stage(StagePosition())
    initialize_weights(model, device=torch.device("cpu"), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    losses = []
    for step in range(NUM_STEPS):
        own = micro_batches[step * 16 : (step + 1) * 16]
        logits = model(torch.cat([batch["features"] for batch in own]))
        loss = nn.functional.cross_entropy(logits, torch.cat([batch["class"] for batch in own]))
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    torch.testing.assert_close(alone(NUM_STEPS).losses, losses, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", [name if name in {"fsdp", "zbv"} else pytest.param(name, marks=pytest.mark.slow) for name in NUM_PROCESSES]
)
def test_a_layout_has_no_effect_on_one_process(name: str) -> None:
    """On one process, losses and weights are bit-identical in every layout."""
    outcome, expected = train_in(name, 1, NUM_STEPS), alone(NUM_STEPS)

    assert outcome.losses == expected.losses
    assert all(torch.equal(weight, expected.weights[each]) for each, weight in outcome.weights.items())


@pytest.mark.parametrize(("name", "num_ranks", "num_steps"), CASES)
def test_a_layout_gives_the_result_of_one_process(name: str, num_ranks: int, num_steps: int) -> None:
    """Losses, weights, events and the numbers of losses and passes equal those of one process."""
    outcomes = run_on_ranks(num_ranks, train_in, name, num_ranks, num_steps)

    require_equal_losses(outcomes, num_steps)
    require_equal_weights(outcomes, num_steps)
    require_no_extra_loss_or_pass(outcomes, LAYOUTS[name].mesh[num_ranks], num_steps)
    require_declared_events(outcomes, num_steps)


def require_equal_losses(outcomes: list[Outcome], num_steps: int) -> None:
    """Check the loss of each step on every rank."""
    for outcome in outcomes:
        torch.testing.assert_close(outcome.losses, alone(num_steps).losses, atol=TOLERANCE, rtol=0)


def require_equal_weights(outcomes: list[Outcome], num_steps: int) -> None:
    """Check that the stages of all ranks together have all weights under the same names, and that they are equal."""
    expected = alone(num_steps).weights
    assert {each for outcome in outcomes for each in outcome.weights} == expected.keys()
    for outcome in outcomes:
        for each, weight in outcome.weights.items():
            torch.testing.assert_close(weight, expected[each], atol=TOLERANCE, rtol=0)


def require_no_extra_loss_or_pass(outcomes: list[Outcome], mesh: DeviceMeshParameters, num_steps: int) -> None:
    """Check that each loss is computed once per tensor- and context-parallel rank, and that no pass is repeated."""
    num_micro_batches = num_steps * 16
    num_copies = mesh.tensor_parallel * mesh.context_parallel
    assert sum(outcome.num_losses for outcome in outcomes) == num_micro_batches * num_copies
    for outcome in outcomes:
        assert set(outcome.num_passes) == {num_micro_batches // mesh.data_parallel_size}


def require_declared_events(outcomes: list[Outcome], num_steps: int) -> None:
    """Check that every rank triggers the events that the catalogue declares."""
    for outcome in outcomes:
        found = violation("train", outcome.trace, complete=True)
        assert found is None, found
        assert outcome.trace.count("train.step.post") == num_steps
