"""A mesh describes how the processes of a job divide the work."""

import datetime as dt
import importlib
import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ranks import run_on_ranks
from torch import distributed

from d9d.core import dist_context
from d9d.core.dist_context import DeviceMeshParameters, DistributedContext
from d9d.core.settings import ConfigurationError
from d9d.loop.config import TrainingConfig

SIZES = st.tuples(*[st.integers(1, 4)] * 5)


@given(SIZES, st.data())
def test_each_mesh_has_all_processes(sizes: tuple[int, ...], data: st.DataObject) -> None:
    """Whatever its dimensions are."""
    pipeline, replicate, shard, context, tensor = sizes
    num_with_experts = replicate * shard * context
    parameters = DeviceMeshParameters(
        pipeline_parallel=pipeline,
        data_parallel_replicate=replicate,
        data_parallel_shard=shard,
        context_parallel=context,
        tensor_parallel=tensor,
        expert_parallel=data.draw(st.sampled_from([n for n in range(1, 65) if num_with_experts % n == 0])),
    )

    for name in ("dense", "batch", "expert", "loss"):
        assert math.prod(parameters.shape_of(name).values()) == math.prod(sizes)


def test_expert_parallel_must_divide_the_number_of_processes() -> None:
    """The error lists the numbers that do."""
    with pytest.raises(ValidationError, match=r"expert_parallel=4 does not divide the 6 processes .* 1, 2, 3, 6"):
        DeviceMeshParameters(data_parallel_replicate=2, data_parallel_shard=3, expert_parallel=4)


def test_a_misspelt_dimension_is_refused() -> None:
    """The error suggests the right one."""
    with pytest.raises(ValidationError, match="did you mean 'tensor_parallel'"):
        DeviceMeshParameters.model_validate({"tensor_paralel": 2})


def test_a_mesh_for_another_number_of_processes_is_refused() -> None:
    """The error lists each setting that would fit."""
    with pytest.raises(ConfigurationError) as raised:
        DeviceMeshParameters(data_parallel_shard=2, tensor_parallel=3).require_world_size(12)

    assert str(raised.value) == (
        "the mesh is for 6 processes (data_parallel_shard=2 × tensor_parallel=3), and 12 processes were started: "
        "start 6 (`torchrun --nproc-per-node` × `--nnodes`), or set data_parallel_shard=4 or data_parallel_replicate=2 "
        "or pipeline_parallel=2 or context_parallel=2 or tensor_parallel=6"
    )


def test_a_mesh_without_a_launcher_is_refused() -> None:
    """The error names torchrun."""
    with pytest.raises(ConfigurationError, match=r"for 2 processes .* and one process was started: start 2 .*torchrun"):
        DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_shard=2))


@given(st.tuples(*[st.integers(1, 3)] * 4), st.integers(1, 4))
def test_an_automatic_mesh_has_all_processes(sizes: tuple[int, ...], num_shards: int) -> None:
    """Those that no other dimension takes are along `data_parallel_shard`."""
    names = ("pipeline_parallel", "data_parallel_replicate", "context_parallel", "tensor_parallel")
    others = dict(zip(names, sizes, strict=True))
    num_processes = num_shards * math.prod(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", str(num_processes))
        mesh = DeviceMeshParameters.auto(**others)
        in_file = DeviceMeshParameters.model_validate({**others, "data_parallel_shard": "auto"})

    assert mesh == in_file == DeviceMeshParameters(**others, data_parallel_shard=num_shards)
    assert mesh.world_size == num_processes


def test_an_automatic_mesh_of_a_single_process_is_the_default() -> None:
    """Without a launcher."""
    assert DeviceMeshParameters.auto() == DeviceMeshParameters.model_validate("auto") == DeviceMeshParameters()


def test_a_number_of_processes_that_the_other_dimensions_do_not_divide_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error says how many to start."""
    monkeypatch.setenv("WORLD_SIZE", "8")

    with pytest.raises(ValidationError) as caught:
        DeviceMeshParameters.auto(tensor_parallel=3)

    assert (
        "tensor_parallel=3 needs a multiple of 3 processes, and 8 processes were started: start 6 or 9 (`torchrun "
        "--nproc-per-node` × `--nnodes`), or set other dimensions"
    ) in str(caught.value)


def test_mistakes_in_an_automatic_mesh_are_those_of_any_mesh() -> None:
    """They are found at their field."""
    with pytest.raises(ValidationError) as caught:
        DeviceMeshParameters.auto(tensor_parallel=0)

    assert [error["loc"] for error in caught.value.errors()] == [("tensor_parallel",)]


def test_the_schema_accepts_an_automatic_mesh() -> None:
    """As a whole, and with other dimensions."""
    make_validator: Any = importlib.import_module("jsonschema").Draft202012Validator  # it comes without types
    validator = make_validator(TrainingConfig.model_json_schema())

    def accepts(mesh: object) -> bool:
        return bool(validator.is_valid({"total_steps": 1, "global_batch_size": 1, "mesh": mesh}))

    assert accepts("auto")
    assert accepts({"data_parallel_shard": "auto", "tensor_parallel": 2})
    assert accepts({"data_parallel_shard": 2})
    refused: list[object] = ["outo", {"tensor_parallel": "auto"}, {"tensor_paralel": 2}, 2]
    assert [mesh for mesh in refused if accepts(mesh)] == []


def derived_mesh() -> DeviceMeshParameters:
    return TrainingConfig.model_validate({"total_steps": 1, "global_batch_size": 4, "mesh": "auto"}).mesh


def refused_batch_size() -> str:
    with pytest.raises(ValidationError) as caught:
        TrainingConfig(total_steps=1, global_batch_size=3, mesh=DeviceMeshParameters.auto())
    return str(caught.value)


def test_settings_use_the_mesh_of_the_processes() -> None:
    """The group that the ranks have formed counts, and the global batch size is checked with it."""
    assert run_on_ranks(2, derived_mesh) == [DeviceMeshParameters(data_parallel_shard=2)] * 2
    for message in run_on_ranks(2, refused_batch_size):
        assert (
            "global_batch_size=3 cannot be divided on 2 data-parallel processes: it must be a multiple of 2, such as 2 "
            "or 4"
        ) in message


def layout(parameters: DeviceMeshParameters) -> tuple[int, int, int, list[int]]:
    """Return the rank of this process, its share of the data, its pipeline rank, and the ranks of its loss group."""
    context = DistributedContext.start("cpu", parameters)
    peers = distributed.get_process_group_ranks(context.mesh_for("loss").get_group("loss"))
    return context.rank, context.data_parallel_rank, context.pipeline_rank, peers


def test_each_process_has_its_coordinates() -> None:
    """Neighbours along the tensor dimension have consecutive ranks and the same samples."""
    places = run_on_ranks(4, layout, DeviceMeshParameters(data_parallel_shard=2, tensor_parallel=2))

    assert places == [(0, 0, 0, [0, 2]), (1, 0, 0, [1, 3]), (2, 1, 0, [0, 2]), (3, 1, 0, [1, 3])]


def test_a_single_process_creates_meshes_on_demand() -> None:
    """Until then there is no process group."""
    assert run_on_ranks(1, sizes_alone) == [(1, 1, 1, 1)]


def sizes_alone() -> tuple[int, ...]:
    distributed.destroy_process_group()
    context = DistributedContext.start("cpu")
    assert not distributed.is_initialized()
    shape: tuple[int, ...] = context.mesh_for("dense").shape
    assert distributed.is_initialized()
    return shape


def order_of_entry() -> float:
    """Return the time at which this process was in the context."""
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_replicate=2))
    with context.main_process_first():
        return dt.datetime.now(tz=dt.UTC).timestamp()


def test_main_process_first_runs_the_main_process_first() -> None:
    """The others wait for it."""
    first, second = run_on_ranks(2, order_of_entry)

    assert first < second


def reduce_alone() -> str:
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_replicate=2))
    context.set_timeout(dt.timedelta(milliseconds=200))
    group = context.mesh_for("batch").get_group("data_parallel")
    message = ""
    if context.is_main_process:
        try:
            distributed.all_reduce(torch.zeros(1), group=group)
        except RuntimeError as error:
            message = str(error)
    return message


def test_a_timeout_applies_to_later_operations() -> None:
    """In every group, not only in that of all processes."""
    assert "imed out" in run_on_ranks(2, reduce_alone)[0]


class RecordedBackend:
    """A backend that records its timeout."""

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name

    def set_timeout(self, timeout: dt.timedelta) -> None:
        self.timeout = timeout


def test_operations_on_a_device_may_take_longer_than_those_on_the_host() -> None:
    """Else NCCL would end a process before the ranks find out which one hangs."""
    backends = {torch.device("cpu"): RecordedBackend("gloo"), torch.device("cuda"): RecordedBackend("nccl")}
    group: Any = SimpleNamespace(_device_types=[*backends], _get_backend=backends.__getitem__)
    dist_context._set_timeout(group, dt.timedelta(seconds=600))

    assert [backend.timeout.total_seconds() for backend in backends.values()] == [600, 660]


def timeouts_of_host_group() -> list[float]:
    context = DistributedContext.start("cpu", DeviceMeshParameters(data_parallel_replicate=2), dt.timedelta(seconds=90))
    group = context.new_host_group()
    timeouts = []
    for seconds in (70, 80):
        context.set_timeout(dt.timedelta(seconds=seconds))
        options = group._get_backend(torch.device("cpu")).options
        timeouts.append(options._timeout.total_seconds())
    return timeouts


def test_a_group_for_the_host_has_the_timeouts_of_the_job() -> None:
    """Through it the ranks agree, and find out which one hangs."""
    assert run_on_ranks(2, timeouts_of_host_group) == [[70, 80]] * 2


def test_a_logger_names_the_rank(caplog: pytest.LogCaptureFixture) -> None:
    """If there are several processes."""
    several = DistributedContext(device=torch.device("cpu"), rank=3, world_size=8)
    with caplog.at_level(logging.INFO):
        several.logger("job").info("hello")
        DistributedContext(device=torch.device("cpu")).logger("job").info("hello")

    assert [record.getMessage() for record in caplog.records] == ["[rank 3 of 8] hello", "hello"]
