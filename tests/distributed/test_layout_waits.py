"""Steps on several processes do not make the host wait for the device.

Process groups do not work on the meta device, so reads are counted on the CPU. The first step is not counted: in it
pipeline stages exchange their shapes, and FSDP sets up its buffers.
"""

import pytest
import torch
from layout_job import LAYOUTS, ClassifyTask, configure
from ranks import run_on_ranks
from readings import readings

from d9d.loop.component import OptimizerBuilder
from d9d.loop.control import ComputeLossContext, ComputeLossResult
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_PRE, EventStepContext

# Reads of tensors that are always on the host: sample order, micro-batch number and stop flag.
HOST_READS = {
    "tolist in _read",
    "__int__ in _compute_loss",
    "aten::_local_scalar_dense in _compute_loss",
    "tolist in _unpack",
}


class WaitingTask(ClassifyTask):
    """Reads its loss in the third step."""

    def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
        result = super().compute_loss(ctx)
        if ctx.stepper.current_step == 2:
            read_loss(result.loss)
        return result


def read_loss(loss: torch.Tensor) -> float:
    return loss.item()


def reads_in(name: str, num_ranks: int, kind: type[ClassifyTask]) -> list[str]:
    """Train four steps, and return all reads of values after the first step."""
    trainer = configure(LAYOUTS[name], num_ranks, kind(), total_steps=4, optimizer=OptimizerBuilder(torch.optim.SGD))
    start: list[int] = []

    with readings("cpu") as found:

        def note(ctx: EventStepContext) -> None:
            if ctx.stepper.current_step == 1:
                start.append(len(found))

        trainer.event_bus.subscribe(EVENT_TRAIN_STEP_PRE, note)
        trainer.train()
    return [read for read in found[start[0] :] if read not in HOST_READS]


@pytest.mark.parametrize(
    ("name", "num_ranks"),
    [
        ("fsdp", 2),
        pytest.param("hsdp", 2, marks=pytest.mark.slow),
        ("tensor", 2),
        ("1f1b", 2),
        ("zbv", 2),
        pytest.param("zbv+fsdp", 4, marks=pytest.mark.slow),
    ],
)
def test_steps_read_no_value(name: str, num_ranks: int) -> None:
    """On no rank does a step read a value of a loss, weight, norm or activation."""
    assert run_on_ranks(num_ranks, reads_in, name, num_ranks, ClassifyTask) == [[]] * num_ranks


@pytest.mark.parametrize("name", ["fsdp", "1f1b"])
def test_a_task_that_reads_its_loss_is_caught(name: str) -> None:
    """The read is found on each rank that computes losses."""
    reads = run_on_ranks(2, reads_in, name, 2, WaitingTask)

    assert [{*each} for each in reads] == [
        {"item in read_loss", "aten::_local_scalar_dense in read_loss"} if name == "fsdp" or rank == 1 else set()
        for rank in range(2)
    ]
