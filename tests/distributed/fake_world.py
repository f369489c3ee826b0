"""One process of a job of 64, without the others: prints a report in JSON.

Nothing is sent, and received tensors have arbitrary values. So this shows that all groups exist and all shapes fit, not
that numbers are right.
"""

import json
import sys

import torch
from layout_job import ClassifyTask, Layout, Stage, configure, sharded, tensor_parallel
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from d9d.core.dist_context import DeviceMeshParameters
from d9d.loop.component.pipeline import LoopStage
from d9d.loop.component.ranks import Ranks
from d9d.loop.control import ParallelizeModelStageContext

NUM_RANKS = 64
MESH = DeviceMeshParameters(
    pipeline_parallel=2, data_parallel_replicate=2, data_parallel_shard=4, tensor_parallel=4, expert_parallel=8
)
NUM_STEPS = 2


def divide_all(ctx: ParallelizeModelStageContext) -> None:
    """Apply tensor parallelism, then HSDP."""
    tensor_parallel(ctx)
    sharded(ctx)


def main(rank: int, num_steps: int) -> None:
    """Configure the job as one of its processes, and train.

    Args:
        rank: The rank of this process.
        num_steps: How many steps to run. A process that is not in the first stage cannot run any, because it would wait
            for the shapes of its inputs.
    """
    # Rank 0 is not there to answer.
    Ranks.run_on_rank_zero = lambda ranks, function: function()  # type: ignore[method-assign,assignment]
    # The stages agree on whether all of them know their shapes, which needs a real all-reduce.
    LoopStage._warmup_backward_result = lambda stage, received_result=None: torch.ones(1)  # type: ignore[assignment,method-assign]
    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=NUM_RANKS)
    task = ClassifyTask()
    layout = Layout({NUM_RANKS: MESH}, divide_all)
    trainer = configure(layout, NUM_RANKS, task, total_steps=NUM_STEPS, global_batch_size=64)
    if num_steps:
        trainer.train()
    (stage,) = trainer.modules
    assert isinstance(stage, Stage)
    report = {
        "layers": list(stage.layers),
        "num_passes": stage.num_passes,
        "trace": task.trace,
        "placements": {name: str(weight.placements) for name, weight in stage.named_parameters()},  # type: ignore[attr-defined]
        "num_local": sum(weight.to_local().numel() for weight in stage.parameters()),  # type: ignore[attr-defined]
        "num_micro_batches": trainer._num_micro_batches,
    }
    print(json.dumps(report))  # noqa: T201 -- the report


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]))
