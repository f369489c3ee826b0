"""The stages of a pipeline, and the orders in which they can take turns."""

from d9d.core.pipeline.position import StagePosition
from d9d.core.pipeline.schedule import SCHEDULES, ScheduleName, ScheduleTraits

__all__ = ["SCHEDULES", "ScheduleName", "ScheduleTraits", "StagePosition"]
