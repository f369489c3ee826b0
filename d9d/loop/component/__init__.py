"""The collaborators of the loops, one a file; those that users build themselves can be imported from here."""

from d9d.loop.component.optim import LRSchedule, OptimizerBuilder, ParameterGroup

__all__ = ["LRSchedule", "OptimizerBuilder", "ParameterGroup"]
