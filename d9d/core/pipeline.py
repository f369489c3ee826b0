"""The stages of a pipeline, and the schedules that run them."""

import dataclasses
from typing import Literal, TypeAlias

from d9d.core.settings import ConfigurationError

__all__ = ["SCHEDULES", "ScheduleName", "ScheduleTraits", "StagePosition"]


@dataclasses.dataclass(frozen=True)
class StagePosition:
    """The position of a stage in the pipeline. Without a pipeline there is one stage, the whole model.

    Attributes:
        index: The index of the stage.
        num_stages: How many stages the pipeline has.
    """

    index: int = 0
    num_stages: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this stage receives the inputs of the model."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether this stage returns the outputs of the model."""
        return self.index == self.num_stages - 1

    def layers(self, num_layers: int) -> range:
        """Divide the layers of a model evenly among the stages. If they do not divide, the first stages get one more.

        Args:
            num_layers: How many layers the whole model has.

        Returns:
            The indices of the layers of this stage.

        Raises:
            ConfigurationError: If there are fewer layers than stages.
        """
        if num_layers < self.num_stages:
            raise ConfigurationError(
                f"the pipeline has {self.num_stages} stages (mesh.pipeline_parallel × pipeline.num_stages_per_process) "
                f"and the model only {num_layers} layers to divide among them: use at most {num_layers} stages, or at "
                f"least {self.num_stages} layers"
            )
        size, num_larger = divmod(num_layers, self.num_stages)
        start = self.index * size + min(self.index, num_larger)
        return range(start, start + size + (self.index < num_larger))


ScheduleName: TypeAlias = Literal["gpipe", "1f1b", "interleaved_1f1b", "interleaved_zero_bubble", "zbv", "dualpipev"]
"""The names of the pipeline schedules."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleTraits:
    """The properties of a schedule.

    Attributes:
        class_name: Its class in `torch.distributed.pipelining`.
        num_stages_per_process: How many stages each process holds; `None` leaves the choice of two or more to the user.
        is_v_shaped: Whether stages are assigned to the processes in order and then back in reverse order, as in a V;
            otherwise they are assigned round-robin.
        splits_backward: Whether the gradients of weights are computed separately from those of activations.
        num_micro_batches_per_process: The smallest number of micro-batches, per process of the pipeline.
        has_equal_rounds: Whether the micro-batches are processed in rounds that must all have the same size.
    """

    class_name: str
    num_stages_per_process: int | None = 1
    is_v_shaped: bool = False
    splits_backward: bool = False
    num_micro_batches_per_process: int = 0
    has_equal_rounds: bool = False

    def stages_of(self, *, process: int, num_processes: int, num_stages_per_process: int) -> list[StagePosition]:
        """Return the stages that a process holds.

        Args:
            process: The position of the process in the pipeline.
            num_processes: How many processes the pipeline has.
            num_stages_per_process: How many stages each of them holds.

        Returns:
            The stages, in pipeline order.
        """
        num_stages = num_processes * num_stages_per_process
        if self.is_v_shaped:
            indices = [process, num_stages - 1 - process]
        else:
            indices = list(range(process, num_stages, num_processes))
        return [StagePosition(index, num_stages) for index in indices]

    def accepts(self, num_micro_batches: int, num_processes: int) -> bool:
        """Return whether the schedule can run a number of micro-batches per step.

        Args:
            num_micro_batches: How many micro-batches a step has.
            num_processes: How many processes the pipeline has.
        """
        if num_micro_batches < max(1, self.num_micro_batches_per_process * num_processes):
            return False
        num_rounds = max(1, num_micro_batches // num_processes)
        return not self.has_equal_rounds or num_micro_batches % num_rounds == 0


SCHEDULES: dict[ScheduleName, ScheduleTraits] = {
    "gpipe": ScheduleTraits(class_name="ScheduleGPipe"),
    "1f1b": ScheduleTraits(class_name="Schedule1F1B", num_micro_batches_per_process=1),
    "interleaved_1f1b": ScheduleTraits(
        class_name="ScheduleInterleaved1F1B", num_stages_per_process=None, has_equal_rounds=True
    ),
    "interleaved_zero_bubble": ScheduleTraits(
        class_name="ScheduleInterleavedZeroBubble",
        num_stages_per_process=None,
        splits_backward=True,
        has_equal_rounds=True,
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
