"""Common ways to spread a model over the processes of a job; torch's own functions serve as well."""

from d9d.core.parallel.data_parallel import shard_data_parallel
from d9d.core.parallel.experts import shard_experts

__all__ = ["shard_data_parallel", "shard_experts"]
