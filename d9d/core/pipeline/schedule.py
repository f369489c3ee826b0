"""What each schedule of `torch.distributed.pipelining` is like, and what it asks for."""

import dataclasses
from typing import Literal, TypeAlias

from d9d.core.pipeline.position import StagePosition

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
