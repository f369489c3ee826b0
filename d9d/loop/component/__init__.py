"""The collaborators of the loops, one a file; those that users build themselves can be imported from here."""

from d9d.loop.component.optimizer.lr_schedule import LRSchedule
from d9d.loop.component.optimizer.optimizer_builder import OptimizerBuilder, ParameterGroup

__all__ = ["LRSchedule", "OptimizerBuilder", "ParameterGroup"]
