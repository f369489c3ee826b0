"""Random operations on a `DTensor` use the generator of each process, and exchange nothing when they first run.

torch has no random operations on a distributed CPU tensor, so a recorder stands in for its tracker of generators.
"""

from unittest import mock

import torch
from layout_job import LAYOUTS, ClassifyTask, configure
from ranks import run_on_ranks
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, _dispatch, _random, distribute_tensor

from d9d.loop.component import random_state


class RecordedTracker:
    """Records how it was made; on a real device `run_state_sync` would broadcast the generator of rank 0."""

    made: list[tuple[list[int], bool]]
    distribute_region_enabled = False

    def __init__(self, device_mesh: DeviceMesh, run_state_sync: bool = True) -> None:  # noqa: FBT001, FBT002 -- torch's
        self.made.append((device_mesh.mesh.flatten().tolist(), run_state_sync))


def trackers_made(layout: str) -> tuple[list[tuple[list[int], bool]], bool]:
    """Configure a job, run a random operation, and return the trackers and whether the generator was kept."""
    RecordedTracker.made = []
    # The CPU stands in for a device with a generator.
    with (
        mock.patch.object(_random, "OffsetBasedRNGTracker", RecordedTracker),
        mock.patch.object(_random, "_rng_tracker", None),
        mock.patch.object(_random, "is_rng_supported_mesh", return_value=True),
        mock.patch.object(_dispatch, "is_rng_supported_mesh", return_value=True),
        mock.patch.object(random_state, "has_own_generator", return_value=True),
        mock.patch.object(torch.cpu, "get_rng_state", torch.get_rng_state, create=True),
        mock.patch.object(torch.cpu, "set_rng_state", torch.set_rng_state, create=True),
    ):
        trainer = configure(LAYOUTS[layout], 2, ClassifyTask(), total_steps=1)
        del trainer
        made = list(RecordedTracker.made)
        mesh = DeviceMesh("cpu", [[0, 1]], mesh_dim_names=("outer", "inner"))
        torch.nn.functional.dropout(distribute_tensor(torch.ones(8), mesh["inner"], [Replicate()]))
        return made, RecordedTracker.made == made


def test_no_random_operation_takes_the_generator_of_rank_0() -> None:
    """With a pipeline it would hang, since the other stages do not take part."""
    for layout in ("tensor", "1f1b"):
        assert run_on_ranks(2, trackers_made, layout) == [([([0, 1], False)], True)] * 2
