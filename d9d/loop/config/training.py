"""Everything about a training run that is a number, a name or a path."""

from typing import Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from d9d.core.pipeline import SCHEDULES
from d9d.loop.config.loop import LoopConfig


class TrainingConfig(LoopConfig):
    """Everything about a training run that is a number, a name or a path."""

    total_steps: PositiveInt
    """How many optimizer steps the run has."""

    max_gradient_norm: PositiveFloat | None = 1.0
    """The L2 norm, over all parameters, to which larger gradients are scaled down. `None` leaves them as they are, as
    sparse gradients need."""

    non_finite_gradients: Literal["allow", "skip", "stop"] = "allow"
    """What happens in a step in which the norm over all gradients is infinite or NaN. `allow` takes the step, and is
    the only choice that every optimizer can follow and that costs nothing: the loss in the reports shows what became of
    it. `skip` changes neither weights nor the optimizer's state in such a step; the learning rate goes on as it would.
    `stop` takes no step from there on, and raises an error a few steps later. Both need an optimizer with
    `fused=True`, and no step waits for the device to know."""

    gradient_dtype: Literal["fp32"] | None = None
    """The number format in which the gradients of parameters of 16 bits are gathered over the micro-batches of a step,
    measured and clipped; the optimizer gets them in the format of the parameters. `None` gathers in that one, where a
    sum loses what is small beside it. Under FSDP, whose `MixedPrecisionPolicy.reduce_dtype` does the same for
    the sum over processes, that one must be fp32 as well; fp32 parameters with `param_dtype=torch.bfloat16` and
    `reduce_dtype=torch.float32` need nothing else."""

    @model_validator(mode="after")
    def _micro_batches_suit_schedule(self) -> Self:
        num_processes, schedule = self.mesh.pipeline_parallel, SCHEDULES[self.pipeline.schedule]
        if num_processes == 1 or schedule.accepts(self.num_micro_batches, num_processes):
            return self
        fitting = [
            number
            for number in range(1, self.num_micro_batches + 2 * num_processes + 1)
            if schedule.accepts(number, num_processes)
        ]
        nearest = min(fitting, key=lambda number: abs(number - self.num_micro_batches))
        samples = self.samples_per_micro_batch * self.mesh.data_parallel_size
        raise ValueError(
            f"pipeline.schedule={self.pipeline.schedule!r} on mesh.pipeline_parallel={num_processes} cannot take the "
            f"{self.num_micro_batches} micro-batches that each process has in a step: it takes "
            f"{', '.join(str(number) for number in fitting)} and so on; set global_batch_size={nearest * samples}, or "
            "another micro_batch_size"
        )
