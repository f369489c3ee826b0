"""The processes that run a job together, and the device of this one."""

from d9d.core.dist_context.context import DistributedContext

__all__ = ["DistributedContext"]
