"""The stages of a pipeline, and the schedules in which they run."""

import dataclasses
from typing import Literal, TypeAlias

from d9d.core.settings import ConfigurationError

__all__ = ["SCHEDULES", "ScheduleName", "ScheduleTraits", "StagePosition"]


@dataclasses.dataclass(frozen=True)
class StagePosition:
    """One of the successive stages that a model is cut into; without a pipeline there is one, the whole model.

    Attributes:
        index: Which stage this is, from 0.
        num_stages: How many there are.
    """

    index: int = 0
    num_stages: int = 1

    @property
    def is_first(self) -> bool:
        """Whether the inputs of the model come to this stage."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage returns the outputs of the model."""
        return self.index == self.num_stages - 1

    def layers(self, num_layers: int) -> range:
        """Divide layers evenly; where they do not divide, the first stages have one more.

        Args:
            num_layers: How many layers the whole model has.

        Returns:
            The indices of the layers of this stage.

        Raises:
            ConfigurationError: If there are fewer layers than stages.
        """
        if num_layers < self.num_stages:
            raise ConfigurationError(
                f"the pipeline has {self.num_stages} stages (mesh.pipeline_parallel times the stages of each process, "
                f"pipeline.num_stages_per_process), and the model has {num_layers} layers to divide among them: use "
                f"at most {num_layers} stages, or at least {self.num_stages} layers"
            )
        size, num_larger = divmod(num_layers, self.num_stages)
        start = self.index * size + min(self.index, num_larger)
        return range(start, start + size + (self.index < num_larger))


ScheduleName: TypeAlias = Literal["gpipe", "1f1b", "interleaved_1f1b", "interleaved_zero_bubble", "zbv", "dualpipev"]
"""The orders of forward and backward passes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleTraits:
    """One schedule.

    Attributes:
        class_name: Its class in `torch.distributed.pipelining`.
        num_stages_per_process: How many stages each process holds; `None` leaves the choice, of two or more.
        is_v_shaped: Whether the stages go down the processes and up again; otherwise they go round.
        splits_backward: Whether gradients of weights are computed apart from those of activations.
        num_micro_batches_per_process: How many micro-batches it takes at least, for each process of the pipeline.
        deals_rounds: Whether micro-batches go in rounds of one for each process, all rounds being of one size.
    """

    class_name: str
    num_stages_per_process: int | None = 1
    is_v_shaped: bool = False
    splits_backward: bool = False
    num_micro_batches_per_process: int = 0
    deals_rounds: bool = False

    def stages_of(self, *, process: int, num_processes: int, num_stages_per_process: int) -> list[StagePosition]:
        """Return the stages that a process holds.

        Args:
            process: Its place in the pipeline, from 0.
            num_processes: How many processes the pipeline has.
            num_stages_per_process: How many stages each of them holds.

        Returns:
            The stages, in the order of the pipeline.
        """
        num_stages = num_processes * num_stages_per_process
        if self.is_v_shaped:
            indices = [process, num_stages - 1 - process]
        else:
            indices = list(range(process, num_stages, num_processes))
        return [StagePosition(index, num_stages) for index in indices]

    def accepts(self, num_micro_batches: int, num_processes: int) -> bool:
        """Say whether a step of so many micro-batches can be scheduled.

        Args:
            num_micro_batches: How many micro-batches each process has in a step.
            num_processes: How many processes the pipeline has.

        Returns:
            Whether it can.
        """
        if num_micro_batches < max(1, self.num_micro_batches_per_process * num_processes):
            return False
        num_rounds = max(1, num_micro_batches // num_processes)
        return not self.deals_rounds or num_micro_batches % num_rounds == 0


SCHEDULES: dict[ScheduleName, ScheduleTraits] = {
    "gpipe": ScheduleTraits(class_name="ScheduleGPipe"),
    "1f1b": ScheduleTraits(class_name="Schedule1F1B", num_micro_batches_per_process=1),
    "interleaved_1f1b": ScheduleTraits(
        class_name="ScheduleInterleaved1F1B", num_stages_per_process=None, deals_rounds=True
    ),
    "interleaved_zero_bubble": ScheduleTraits(
        class_name="ScheduleInterleavedZeroBubble",
        num_stages_per_process=None,
        splits_backward=True,
        deals_rounds=True,
    ),
    "zbv": ScheduleTraits(
        class_name="ScheduleZBVZeroBubble", num_stages_per_process=2, is_v_shaped=True, splits_backward=True
    ),
    "dualpipev": ScheduleTraits(
        class_name="ScheduleDualPipeV",
        num_stages_per_process=2,
        is_v_shaped=True,
        splits_backward=True,
        num_micro_batches_per_process=2,
    ),
}
"""All schedules, by their names in the configuration."""
