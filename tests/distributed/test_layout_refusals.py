"""`configure()` refuses a layout that does not work, on all ranks, and names settings that would work."""

import functools
from typing import Any
from unittest import mock

import pytest
import torch
from layout_job import LAYOUTS, ClassifyTask, Layout, Provider, Stage, configure, tensor_parallel
from pydantic import ValidationError
from ranks import run_on_ranks
from torch import distributed, nn
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from d9d.core import dist_context
from d9d.core.dist_context import DeviceMeshParameters
from d9d.core.pipeline import StagePosition
from d9d.core.settings import ConfigurationError
from d9d.loop.config import PipelineConfig, TrainingConfig
from d9d.loop.control import InitializeModelStageContext, InitializeModelStageResult, ParallelizeModelStageContext


def settings(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"total_steps": 1, "global_batch_size": 8, "micro_batch_size": 2, **changes})


def pipeline(schedule: str, num_processes: int, **changes: Any) -> TrainingConfig:
    mesh = DeviceMeshParameters(pipeline_parallel=num_processes)
    return settings(mesh=mesh, pipeline=PipelineConfig.model_validate({"schedule": schedule}), **changes)


@pytest.mark.parametrize(
    ("schedule", "num_processes", "message"),
    [
        ("1f1b", 8, "can run 8, 9, 10, .* and so on; set global_batch_size=16, or another micro_batch_size"),
        ("dualpipev", 4, "can run 8, 9, 10, .* set global_batch_size=16"),
        ("interleaved_1f1b", 3, None),
        ("zbv", 4, None),
        ("gpipe", 8, None),
    ],
)
def test_too_few_micro_batches_for_a_schedule_are_refused(
    schedule: str, num_processes: int, message: str | None
) -> None:
    """The error names the field and the numbers of micro-batches that would work."""
    if message is None:
        assert pipeline(schedule, num_processes).num_micro_batches == 4
        return
    found = f"pipeline.schedule='{schedule}' on mesh.pipeline_parallel={num_processes} cannot run the 4 micro-batches"
    with pytest.raises(ValidationError, match=f"{found}.*{message}"):
        pipeline(schedule, num_processes)


def test_interleaved_rounds_of_unequal_size_are_refused() -> None:
    """Five micro-batches on two processes are refused, since the rounds would have two, two and one."""
    with pytest.raises(ValidationError, match=r"cannot run the 5 micro-batches .* can run 1, 2, 3, 4, 6, 8 and so on"):
        pipeline("interleaved_1f1b", 2, global_batch_size=10)


@pytest.mark.parametrize(
    ("schedule", "num_stages", "message"),
    [
        (
            "1f1b",
            2,
            "has 1 stage per process, and num_stages_per_process is 2: leave it out, or choose another schedule",
        ),
        ("zbv", 3, "has 2 stages per process, and num_stages_per_process is 3"),
        ("interleaved_1f1b", 1, "has several stages per process, and num_stages_per_process is 1: set it to 2 or more"),
    ],
)
def test_a_number_of_stages_that_does_not_fit_the_schedule_is_refused(
    schedule: str, num_stages: int, message: str
) -> None:
    """The error says which number of stages the schedule needs."""
    with pytest.raises(ValidationError, match=message):
        PipelineConfig.model_validate({"schedule": schedule, "num_stages_per_process": num_stages})


@pytest.mark.parametrize(("num_layers", "num_stages"), [(8, 3), (8, 8), (5, 1), (9, 4)])
def test_layers_are_divided_evenly(num_layers: int, num_stages: int) -> None:
    """Stages get all layers once and in order, and their numbers of layers differ by at most one."""
    parts = [StagePosition(index, num_stages).layers(num_layers) for index in range(num_stages)]

    assert [layer for part in parts for layer in part] == [*range(num_layers)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def refused(layout: Layout, provider: type[Provider] = Provider, **changes: Any) -> str:
    try:
        configure(layout, 2, ClassifyTask(), provider=provider, **changes)
    except ConfigurationError as error:
        return str(error)
    return ""


def test_more_stages_than_layers_are_refused_on_every_rank() -> None:
    """All ranks raise the same error, even a rank whose own stages would have layers."""
    refuse = functools.partial(refused, num_stages_per_process=6)
    messages = run_on_ranks(2, refuse, LAYOUTS["interleaved"])

    assert len({*messages}) == 1
    assert "the pipeline has 12 stages" in messages[0]
    assert "the model only 8 layers to divide among them: use at most 8 stages, or at least 12 layers" in messages[0]


def wrapped(ctx: ParallelizeModelStageContext) -> None:
    """Wrap a layer of each stage in DistributedDataParallel."""
    ctx.model.add_module(f"wrapped{ctx.stage.index}", DistributedDataParallel(nn.Linear(3, 3)))


@pytest.mark.parametrize("schedule", ["zbv", "dualpipev"])
def test_ddp_with_a_v_schedule_is_refused(schedule: str) -> None:
    """The error says to use shard_data_parallel instead."""
    layout = Layout({2: DeviceMeshParameters(pipeline_parallel=2)}, wrapped, schedule)
    messages = run_on_ranks(2, refused, layout)

    assert "is wrapped by DistributedDataParallel" in messages[0]
    assert f"DDP fails with {schedule}" in messages[0]
    assert "apply shard_data_parallel" in messages[0]


class SameNamesProvider(Provider):
    """Names the layers of every stage like those of the first."""

    def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
        return super().initialize_model_stage(
            InitializeModelStageContext(dist_context=ctx.dist_context, stage=StagePosition(0, ctx.stage.num_stages))
        )


@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_stages_that_share_names_are_refused(schedule: str) -> None:
    """Two stages with a weight of the same name are refused, since a checkpoint could not distinguish the weights."""
    layout = Layout({2: DeviceMeshParameters(pipeline_parallel=2)}, schedule=schedule)
    messages = run_on_ranks(2, refused, layout, SameNamesProvider)

    assert len({*messages}) == 1
    assert "of the pipeline both have a weight named 'entry.weight'" in messages[0]


def test_gradients_that_are_not_summed_are_refused() -> None:
    """A plain model on a data-parallel mesh is refused: each process would silently train its own model."""
    layout = Layout({2: DeviceMeshParameters(data_parallel_shard=2)})
    messages = run_on_ranks(2, refused, layout)

    assert len({*messages}) == 1
    assert "are not summed over all of them: entry.weight" in messages[0]


def test_a_mesh_for_another_number_of_processes_is_refused_on_every_rank() -> None:
    """The error names the number of processes to start and the mesh that would work."""
    layout = Layout({2: DeviceMeshParameters(tensor_parallel=3)})

    for message in run_on_ranks(2, refused, layout):
        assert "the mesh is for 3 processes (tensor_parallel=3), and 2 processes were started: start 3" in message
        assert "tensor_parallel=2" in message


def offloaded(ctx: ParallelizeModelStageContext) -> None:
    """Shard the model, and keep its shards on the host."""
    mesh = ctx.dist_context.mesh_for("dense")["data_parallel_shard"]
    fully_shard(ctx.model, mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))


def test_parameters_that_fsdp_keeps_on_the_host_are_refused() -> None:
    """Torch's own error would come in the first step, and name a function that the loop calls."""
    layout = Layout({2: DeviceMeshParameters(data_parallel_shard=2)}, offloaded)
    messages = run_on_ranks(2, refused, layout)

    assert len({*messages}) == 1
    assert "the model itself is sharded with CPUOffloadPolicy, which the loops do not support" in messages[0]


def refused_with(devices: list[tuple[str, str]]) -> str:
    """Start on two processes, each of which finds the device that is given for its rank."""
    with mock.patch.object(dist_context, "identify", return_value=devices[distributed.get_rank()]):
        return refused(Layout({2: DeviceMeshParameters(tensor_parallel=2)}, tensor_parallel))


def test_two_processes_on_one_device_are_refused_on_every_rank() -> None:
    """By what the device itself says, since each process may know it by another index; other machines do not matter."""
    own, other, elsewhere = ("node-1", "GPU-1"), ("node-1", "GPU-2"), ("node-2", "GPU-1")

    assert run_on_ranks(2, refused_with, [own, other]) == ["", ""]
    assert run_on_ranks(2, refused_with, [own, elsewhere]) == ["", ""]
    messages = run_on_ranks(2, refused_with, [own, own])
    assert len({*messages}) == 1
    assert "ranks 0 and 1 both use cpu of node-1, and each process needs a device of its own" in messages[0]


class Bias(nn.Module):
    """Has a parameter, but no `reset_parameters`."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(5))


class BareStage(Stage):
    """Has a `Bias` in the last stage."""

    def __init__(self, position: StagePosition) -> None:
        super().__init__(position)
        if position.is_last:
            self.bias = Bias()


class BareProvider(Provider):
    stage_kind = BareStage


def test_weights_that_cannot_be_initialised_are_refused_on_every_rank() -> None:
    """All ranks raise the same error, even those that have none of these weights."""
    layout = Layout({2: DeviceMeshParameters(pipeline_parallel=2)})
    messages = run_on_ranks(2, refused, layout, BareProvider)

    assert len({*messages}) == 1
    assert "bias (Bias" in messages[0]
    assert "reset_parameters" in messages[0]
