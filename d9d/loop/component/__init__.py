"""The parts of the loops, one concept per module. Users import from here those that they build themselves."""

from d9d.loop.component.optim import LRSchedule, OptimizerBuilder, ParameterGroup

__all__ = ["LRSchedule", "OptimizerBuilder", "ParameterGroup"]
