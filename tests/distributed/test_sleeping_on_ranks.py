"""Sharded state and the stages of a pipeline sleep and wake between steps."""

import itertools

import pytest
import torch
from layout_job import LAYOUTS, ClassifyTask, configure, full_weights
from ranks import run_on_ranks
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from d9d.loop.run import Trainer


def state_of(trainer: Trainer) -> list[torch.Tensor]:
    """Return the parameters, the buffers, and the state of the optimizer themselves."""
    assert isinstance(trainer.optimizer, torch.optim.Optimizer)
    states = trainer.optimizer.state.values()
    return [
        *itertools.chain.from_iterable(module.parameters() for module in trainer.modules),
        *itertools.chain.from_iterable(module.buffers() for module in trainer.modules),
        *(value for values in states for value in values.values()),
    ]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this rank holds."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def placed(tensor: torch.Tensor) -> object:
    return (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else None


def train_with_sleep(layout: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Train without sleep and with sleep between all steps, and return the full weights of both runs."""
    expected = configure(LAYOUTS[layout], 2, ClassifyTask(), total_steps=4)
    expected.train()
    trainer = configure(LAYOUTS[layout], 2, ClassifyTask(), total_steps=4)
    for _ in trainer.steps():
        before = state_of(trainer)
        values, places = [local(each).clone() for each in before], [placed(each) for each in before]
        storages = [local(each).untyped_storage() for each in before]

        trainer.sleep()

        assert all(storage.nbytes() == 0 for storage in storages)
        assert all(local(each).isnan().all() for each in before if each.is_floating_point())
        trainer.wake()
        after = state_of(trainer)
        assert len(after) > len(list(trainer.modules[0].parameters()))
        assert all(one is other for one, other in zip(before, after, strict=True))
        assert [placed(each) for each in after] == places
        assert all(map(torch.equal, map(local, after), values))
    return full_weights(trainer), full_weights(expected)


@pytest.mark.parametrize(
    "layout",
    ["fsdp", "1f1b", pytest.param("hsdp", marks=pytest.mark.slow), pytest.param("zbv", marks=pytest.mark.slow)],
)
def test_a_run_that_sleeps_between_steps_ends_like_one_that_does_not(layout: str) -> None:
    """On each rank the memory is freed, and tensors, placements and values are the same afterwards, bit for bit."""
    for weights, expected in run_on_ranks(2, train_with_sleep, layout):
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


def sleep_after_a_forward_pass() -> list[bool]:
    """Run the sharded model without a backward pass, after which FSDP still holds gathered weights, then sleep."""
    trainer = configure(LAYOUTS["fsdp"], 2, ClassifyTask(), total_steps=2)
    (model,) = trainer.modules
    assert isinstance(model, FSDPModule)
    found = []
    for ctx in trainer.steps():
        if ctx.stepper.current_step == 1:
            with torch.no_grad():
                outputs = model(torch.ones(2, 6))
            found.append(all(not isinstance(each, DTensor) for each in model.parameters(recurse=False)))
            gathered = [each.detach() for each in model.parameters() if not isinstance(each, DTensor)]
            found.append(bool(gathered))
            trainer.sleep()
            found.append(all(each.untyped_storage().nbytes() == 0 for each in gathered))
            trainer.wake()
            with torch.no_grad():
                found.append(torch.equal(model(torch.ones(2, 6)), outputs))
    return found


def test_gathered_weights_are_freed_too() -> None:
    """After a forward pass alone, the outermost sharded module still holds its gathered weights."""
    assert run_on_ranks(2, sleep_after_a_forward_pass) == [[True] * 4] * 2
