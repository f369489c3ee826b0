"""A job of 64 processes is configured and runs steps, as one of its processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from declared import violation
from fake_world import MESH, NUM_RANKS, NUM_STEPS

SCRIPT = Path(__file__).with_name("fake_world.py")


def run_as(rank: int, num_steps: int) -> Any:
    """Run the job as one of its processes, and return its report."""
    command = [sys.executable, str(SCRIPT), str(rank), str(num_steps)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    return json.loads(printed.splitlines()[-1])


def require_shards(report: Any, layers: list[str]) -> None:
    """Check the layers of a stage, and that tensor parallelism and FSDP shard each matrix."""
    assert report["layers"] == layers
    placements = report["placements"][f"layers.{layers[0]}.up.weight"]
    assert placements.startswith("(Replicate(), _StridedShard(dim=0")
    assert placements.endswith("Shard(dim=0))")


def test_the_mesh_has_all_dimensions() -> None:
    """Each is larger than one."""
    assert MESH.world_size == NUM_RANKS
    assert MESH.shape_of("dense") == {
        "pipeline_parallel": 2,
        "data_parallel_replicate": 2,
        "data_parallel_shard": 4,
        "tensor_parallel": 4,
    }


@pytest.mark.parametrize("rank", [0, pytest.param(31, marks=pytest.mark.slow)])
def test_a_process_of_the_first_stage_runs_steps(rank: int) -> None:
    """With all events in order, and one forward pass per micro-batch."""
    report = run_as(rank, NUM_STEPS)

    assert violation("train", report["trace"], complete=True) is None
    assert report["trace"].count("train.step.post") == NUM_STEPS
    assert report["num_micro_batches"] == 64 // (8 * 2)
    assert report["num_passes"] == NUM_STEPS * report["num_micro_batches"]
    require_shards(report, ["0", "1", "2", "3"])


def test_a_process_of_the_last_stage_is_configured() -> None:
    """With the other half of the layers."""
    require_shards(run_as(63, 0), ["4", "5", "6", "7"])
