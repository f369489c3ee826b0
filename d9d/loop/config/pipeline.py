"""How the stages of a model take turns."""

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from d9d.core.configuration import Settings
from d9d.core.pipeline import SCHEDULES, ScheduleName, StagePosition


class PipelineConfig(Settings):
    """How the stages of a model take turns; of no effect while `mesh.pipeline_parallel` is 1."""

    schedule: ScheduleName = "1f1b"
    """The order of forward and backward passes. `gpipe` and `1f1b` have one stage a process, `zbv` and `dualpipev`
    have two, and the others `num_stages_per_process`."""

    num_stages_per_process: PositiveInt | None = None
    """How many stages each process holds; `None` takes two where the schedule leaves a choice."""

    activation_dtype: Literal["fp32", "bf16"] | None = None
    """The number format in which activations and their gradients travel between stages; `None` keeps that of the
    weights as the model provider makes them."""

    @model_validator(mode="after")
    def _stages_suit_schedule(self) -> Self:
        fixed, asked = SCHEDULES[self.schedule].num_stages_per_process, self.num_stages_per_process
        if fixed is not None and asked not in (None, fixed):
            raise ValueError(
                f"schedule={self.schedule!r} has {fixed} stage{'s' * (fixed > 1)} a process, and "
                f"num_stages_per_process is {asked}: leave it out, or choose another schedule"
            )
        if fixed is None and asked == 1:
            raise ValueError(
                f"schedule={self.schedule!r} has several stages a process, and num_stages_per_process is 1: set it to "
                "2 or more, or choose '1f1b'"
            )
        return self

    def stages_of(self, process: int, num_processes: int) -> list[StagePosition]:
        """Return the stages that a process holds.

        Args:
            process: Its place in the pipeline, from 0.
            num_processes: How many processes the pipeline has; one alone holds the whole model.

        Returns:
            The stages, in the order of the pipeline.
        """
        if num_processes == 1:
            return [StagePosition()]
        traits = SCHEDULES[self.schedule]
        return traits.stages_of(
            process=process,
            num_processes=num_processes,
            num_stages_per_process=traits.num_stages_per_process or self.num_stages_per_process or 2,
        )
