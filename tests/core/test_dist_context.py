"""The distributed context describes the process and its device."""

import dataclasses

import pytest
import torch

from d9d.core.dist_context import DistributedContext
from d9d.core.settings import ConfigurationError


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore a launcher that may have started the tests."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def test_a_single_process_is_the_main_process() -> None:
    """It has rank 0 of 1."""
    context = DistributedContext.start("cpu")

    assert (context.rank, context.world_size) == (0, 1)
    assert context.is_main_process
    assert context.device == torch.device("cpu")


def test_only_rank_0_is_the_main_process() -> None:
    """Rank 1 is not."""
    assert not DistributedContext(device=torch.device("cpu"), rank=1, world_size=2).is_main_process


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
def test_without_an_accelerator_the_cpu_is_chosen() -> None:
    """Without an argument."""
    assert DistributedContext.start().device == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="this machine has no accelerator")
def test_an_accelerator_is_chosen_by_default() -> None:
    """With its index."""
    device = DistributedContext.start().device
    accelerator = torch.accelerator.current_accelerator()

    assert accelerator is not None
    assert device.type == accelerator.type
    assert device.index == torch.accelerator.current_device_index()


@pytest.mark.parametrize("device", ["cuda:99", "abacus", ""])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    """The error quotes the setting."""
    with pytest.raises(RuntimeError, match=f"device={device!r} cannot be used on this machine"):
        DistributedContext.start(device)


@pytest.mark.parametrize("world_size", ["2", "64"])
def test_several_processes_need_a_mesh(world_size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error suggests one."""
    monkeypatch.setenv("WORLD_SIZE", world_size)

    with pytest.raises(
        ConfigurationError, match=f"for one process .*, and {world_size} .* set data_parallel_shard={world_size}"
    ):
        DistributedContext.start("cpu")


def test_a_context_is_immutable() -> None:
    """Its rank cannot be set."""
    context, field = DistributedContext.start("cpu"), "rank"

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(context, field, 1)
