"""A job of 64 processes is configured and runs steps, as one of its processes."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from declared import declared_run
from fake_world import MESH, NUM_RANKS, NUM_STEPS

SCRIPT = Path(__file__).with_name("fake_world.py")
# The first and the last process of the first stage.
OF_FIRST_STAGE = [0, 31]


@functools.cache
def run_as(rank: int, num_steps: int) -> Any:
    """Run the job as one of its processes, and return its report."""
    command = [sys.executable, str(SCRIPT), str(rank), str(num_steps)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    return json.loads(printed.splitlines()[-1])


def test_the_mesh_has_all_dimensions() -> None:
    """Each is larger than one."""
    assert MESH.world_size == NUM_RANKS
    assert MESH.shape_of("dense") == {
        "pipeline_parallel": 2,
        "data_parallel_replicate": 2,
        "data_parallel_shard": 4,
        "tensor_parallel": 4,
    }


@pytest.mark.parametrize("rank", OF_FIRST_STAGE)
def test_a_process_runs_steps(rank: int) -> None:
    """With all events in order, and one forward pass per micro-batch."""
    report = run_as(rank, NUM_STEPS)

    assert report["trace"] == declared_run("train", num_steps=NUM_STEPS)
    assert report["num_micro_batches"] == 64 // (8 * 2)
    assert report["num_passes"] == NUM_STEPS * report["num_micro_batches"]


@pytest.mark.parametrize(("rank", "layers"), [(0, ["0", "1", "2", "3"]), (63, ["4", "5", "6", "7"])])
def test_each_process_holds_its_shard(rank: int, layers: list[str]) -> None:
    """The layers of its stage, sharded by tensor parallelism and by FSDP."""
    report = run_as(rank, NUM_STEPS if rank in OF_FIRST_STAGE else 0)

    assert report["layers"] == layers
    placements = report["placements"][f"layers.{layers[0]}.up.weight"]
    assert placements.startswith("(Replicate(), _StridedShard(dim=0")
    assert placements.endswith("Shard(dim=0))")
