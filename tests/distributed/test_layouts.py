"""A job comes to the same in every layout of its processes."""

import functools

import pytest
import torch
from declared import declared_run, violation
from layout_job import LAYOUTS, NUM_STEPS, ClassifyTask, Outcome, Stage, configure, train_in
from ranks import run_on_ranks
from torch import nn

from d9d.core.pipeline import StagePosition
from d9d.loop.component.weight_init import initialize_weights

TOLERANCE = 1e-4
# Two processes divide either the layers or the weights; where both are divided there are four.
SHORT = [(name, 4 if "+" in name else 2) for name in LAYOUTS if name != "plain"]
LONG = [(name, 2 if "+" in name else 4) for name, _ in SHORT]
EVERY_LAYOUT = [*SHORT, *(pytest.param(*each, marks=pytest.mark.slow) for each in LONG)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@functools.cache
def alone() -> Outcome:
    """Run the job in one process."""
    return train_in("plain", 1)


@functools.cache
def together(name: str, num_ranks: int) -> list[Outcome]:
    """Run the job in a layout, and return what each process saw."""
    return run_on_ranks(num_ranks, train_in, name, num_ranks)


def test_one_process_does_what_a_hand_written_loop_does() -> None:
    """The reference of all layouts is not only equal to itself."""
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

    torch.testing.assert_close(alone().losses, losses, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_nothing_to_one_process(name: str) -> None:
    """The same script runs without a launcher, and to the last bit as if it knew of no layout."""
    outcome = train_in(name, 1)

    assert outcome.losses == alone().losses
    assert all(torch.equal(weight, alone().weights[each]) for each, weight in outcome.weights.items())


@pytest.mark.parametrize(("name", "num_ranks"), EVERY_LAYOUT)
def test_losses_are_those_of_one_process(name: str, num_ranks: int) -> None:
    """In each of twenty steps, and on every rank."""
    for outcome in together(name, num_ranks):
        torch.testing.assert_close(outcome.losses, alone().losses, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("name", "num_ranks"), EVERY_LAYOUT)
def test_final_weights_are_those_of_one_process(name: str, num_ranks: int) -> None:
    """All of them, under the same names, by the stages of all ranks together."""
    outcomes = together(name, num_ranks)

    assert {each for outcome in outcomes for each in outcome.weights} == alone().weights.keys()
    for outcome in outcomes:
        for each, weight in outcome.weights.items():
            torch.testing.assert_close(weight, alone().weights[each], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("name", "num_ranks"), EVERY_LAYOUT)
def test_each_loss_is_computed_once(name: str, num_ranks: int) -> None:
    """Where the last stage is, so that a metric counts once. Ranks that divide matrices or sequences have each one."""
    layout = LAYOUTS[name].mesh[num_ranks]
    num_samples_seen = NUM_STEPS * 32 * layout.tensor_parallel * layout.context_parallel

    assert sum(outcome.num_losses for outcome in together(name, num_ranks)) == num_samples_seen // 2


@pytest.mark.parametrize(("name", "num_ranks"), EVERY_LAYOUT)
def test_no_stage_runs_more_often_than_there_are_micro_batches(name: str, num_ranks: int) -> None:
    """Not even once to find out shapes."""
    data_parallel_size = LAYOUTS[name].mesh[num_ranks].data_parallel_size

    for outcome in together(name, num_ranks):
        assert set(outcome.num_passes) == {NUM_STEPS * 16 // data_parallel_size}


@pytest.mark.parametrize(("name", "num_ranks"), EVERY_LAYOUT)
def test_the_trace_of_every_rank_is_legal(name: str, num_ranks: int) -> None:
    """By the lifecycle that the catalogue declares."""
    for outcome in together(name, num_ranks):
        found = violation("train", outcome.trace, complete=True)
        assert found is None, found
        assert outcome.trace == declared_run("train", num_steps=NUM_STEPS)
