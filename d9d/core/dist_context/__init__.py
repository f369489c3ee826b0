"""The processes that run a job together."""

from d9d.core.dist_context.context import DistributedContext
from d9d.core.dist_context.mesh import DeviceMeshParameters, MeshName

__all__ = ["DeviceMeshParameters", "DistributedContext", "MeshName"]
