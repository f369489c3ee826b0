"""Optimizers over sharded parameters."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from d9d.loop.component import OptimizerBuilder, ParameterGroup

from .sharded_training import BUILDERS, LAYOUTS, build, full_weights, mlp, train, train_on

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
ADAMW, SGD = BUILDERS["adamw"], BUILDERS["sgd"]


@pytest.fixture(scope="module")
def weights_of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[torch.Tensor]]:
    """Train in two processes, in each layout with each optimizer."""
    folder = tmp_path_factory.mktemp("sharded")
    script = Path(__file__).with_name("sharded_training.py")
    processes = [subprocess.Popen([sys.executable, script, str(rank), folder]) for rank in range(2)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    weights: dict[tuple[str, str], list[torch.Tensor]] = torch.load(folder / "weights.pt")
    return weights


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_train_like_one(
    layout: str, builder: str, weights_of_two_processes: dict[tuple[str, str], list[torch.Tensor]]
) -> None:
    """Fused or not, with and without plain parameters in the model."""
    model = mlp()
    initial = [weight.clone() for weight in full_weights(model)]
    train(BUILDERS[builder], model)

    weights = weights_of_two_processes[layout, builder]

    torch.testing.assert_close(weights, full_weights(model), atol=1e-6, rtol=1e-5)
    assert all((weight - begin).abs().max() > 1e-3 for weight, begin in zip(weights, initial, strict=True))


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Act as the first of four processes, without the others."""
    dist.init_process_group("fake", rank=0, world_size=4)
    try:
        yield init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))
    finally:
        dist.destroy_process_group()


def test_parameters_of_several_meshes_are_fused_together(mesh: DeviceMesh) -> None:
    """Like those of experts and of the rest of the model; the group stays one."""
    model = nn.ParameterList(
        [
            nn.Parameter(distribute_tensor(torch.zeros(4, 4), mesh["shard"], [Shard(0)])),
            nn.Parameter(distribute_tensor(torch.zeros(4, 4), mesh, [Replicate(), Shard(1)])),
        ]
    )

    optimizer = build(OptimizerBuilder(torch.optim.AdamW), model)

    assert [(group["fused"], len(group["params"])) for group in optimizer.param_groups] == [(True, 2)]


def test_parameters_with_strided_shards_are_fused(mesh: DeviceMesh) -> None:
    """Such as those of FSDP2 over tensor parallelism."""
    model = mlp()
    parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh["shard"])

    optimizer = build(OptimizerBuilder(torch.optim.AdamW), model)

    assert optimizer.defaults["fused"] is True


def test_a_group_of_plain_and_distributed_parameters_becomes_two(mesh: DeviceMesh) -> None:
    """With the same options, because torch's fused kernels accept only one kind."""
    model = mlp()
    parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel()})

    optimizer = build(ADAMW, model)

    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.01, 0.0, 0.0]
    assert [group["fused"] for group in optimizer.param_groups] == [True] * 4
    for group in optimizer.param_groups:
        assert len({isinstance(parameter, DTensor) for parameter in group["params"]}) == 1


def test_an_optimizer_without_a_fused_kernel_for_distributed_parameters_is_not_fused(
    mesh: DeviceMesh, caplog: pytest.LogCaptureFixture
) -> None:
    """Torch itself would fail in the first step."""
    model = mlp()
    fully_shard(model, mesh=mesh["shard"])

    with caplog.at_level(logging.DEBUG, logger="d9d"):
        optimizer = build(SGD, model)

    is_supported = "runs without" not in caplog.text
    assert optimizer.defaults["fused"] is (True if is_supported else None)
    assert is_supported or re.search(r"SGD runs without fused=True: .*_fused_sgd_", caplog.text)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """Initialise a process group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_loaded_state_does_not_change_fused() -> None:
    """SGD is fused only for plain parameters, and a sharded run may resume from a run with plain ones."""
    source, target = mlp(), mlp()
    fully_shard(source, mesh=init_device_mesh("cpu", (1,)))
    fully_shard(target, mesh=init_device_mesh("cpu", (1,)))
    state = get_optimizer_state_dict(source, train(SGD, source), options=FLAT)
    optimizer = build(SGD, target)
    choice = optimizer.defaults["fused"]

    of_fused_run: dict[str, Any] = {key: True if key.endswith(".fused") else value for key, value in state.items()}
    set_optimizer_state_dict(target, optimizer, of_fused_run, options=FLAT)
    train_on(target, optimizer)

    assert of_fused_run.keys() == state.keys()
    assert {group["fused"] for group in optimizer.param_groups} == {choice}


@pytest.mark.usefixtures("alone")
def test_the_state_is_loaded_by_parameter_names() -> None:
    """The order of groups and parameters may differ, as it does between layouts."""
    source, target = mlp(), mlp()
    fully_shard(source, mesh=init_device_mesh("cpu", (1,)))
    fully_shard(target, mesh=init_device_mesh("cpu", (1,)))
    optimizer = train(ADAMW, source)
    groups = [ParameterGroup(lambda name, parameter: parameter.ndim > 1, weight_decay=0.01)]
    other = build(OptimizerBuilder(torch.optim.AdamW, lr=0.1, weight_decay=0.0, groups=groups), target)

    state = get_optimizer_state_dict(source, optimizer, options=FLAT)
    set_optimizer_state_dict(target, other, state, options=FLAT)

    assert [len(group["params"]) for group in other.param_groups] == [4, 2]
    for (name, parameter), twin in zip(source.named_parameters(), target.parameters(), strict=True):
        assert optimizer.state[parameter].keys() == {"step", "exp_avg", "exp_avg_sq"}, name
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(value, other.state[twin][key]), (name, key)
