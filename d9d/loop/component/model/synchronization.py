"""How a loop makes sure that processes with other samples add their gradients up."""

from collections.abc import Iterable

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d9d.core.configuration import ConfigurationError
from d9d.core.dist_context import DistributedContext
from d9d.core.sharding import is_composed_replica, is_dtensor
from d9d.loop.component.ranks import Ranks

_REMEDY = (
    "apply shard_data_parallel (d9d.core.parallel) or torch's fully_shard to the whole model in parallelize_model_stage"
)
_NUM_NAMED = 5
# Each process has two stages, whose backward passes come in halves.
_V_SCHEDULES = frozenset({"zbv", "dualpipev"})


def require_synchronized(
    modules: Iterable[nn.Module], dist_context: DistributedContext, *, schedule: str | None = None
) -> None:
    """Refuse a model whose gradients would not be added up over all processes that have samples or tokens of their own.

    Each process would train a model of its own, in silence. All processes call this, and all are told alike.

    Args:
        modules: The stages of the model on this process, ready to run.
        dist_context: Says which processes there are.
        schedule: The schedule of the pipeline, where there is one.

    Raises:
        ConfigurationError: If a trainable parameter is not spread over all those processes, on any of them; or if
            DistributedDataParallel is at work, which takes means where the loop needs sums.
    """
    modules = [*modules]
    own = _averaging(modules, schedule) or _unsynchronized(modules, dist_context)
    for rank, problem in enumerate(Ranks.of(dist_context).gather(own)):
        if problem is not None:
            raise ConfigurationError(problem if dist_context.world_size == 1 else f"on rank {rank}: {problem}")


def _averaging(modules: list[nn.Module], schedule: str | None) -> str | None:
    """Describe the first module that synchronises its gradients by means over the processes."""
    for name, module in (pair for stage in modules for pair in stage.named_modules()):
        composed = is_composed_replica(module)
        if isinstance(module, DistributedDataParallel) or composed:
            with_schedule = f", and with a V schedule such as {schedule} it fails" if schedule in _V_SCHEDULES else ""
            return (
                f"{name or 'the model itself'} ({type(module).__name__}) is wrapped by DistributedDataParallel"
                f"{' (by the older replicate)' if composed else ''}: it takes the mean of gradients over the "
                f"processes, and the loop, which weighs losses itself, needs their sum{with_schedule}. Set "
                f"data_parallel_replicate in the mesh, and {_REMEDY}: it holds copies of the model likewise"
            )
    return None


def _unsynchronized(modules: list[nn.Module], dist_context: DistributedContext) -> str | None:
    """Describe the trainable parameters of this process that are not spread over all that have other samples."""
    if dist_context.world_size == 1:
        return None
    mesh = dist_context.mesh_for("batch")["data_parallel", "context_parallel"].mesh
    if mesh.numel() == 1:
        return None
    needed = {*mesh.flatten().tolist()}
    stray = [
        name
        for stage in modules
        for name, parameter in stage.named_parameters()
        if parameter.requires_grad and not needed <= _processes_of(parameter)
    ]
    if not stray:
        return None
    named = ", ".join(stray[:_NUM_NAMED]) + (f" and {len(stray) - _NUM_NAMED} more" if len(stray) > _NUM_NAMED else "")
    return (
        f"{len(needed)} processes (data_parallel_replicate × data_parallel_shard × context_parallel) have samples or "
        f"tokens of their own, and the gradients of these trainable parameters are not added up over all of them: "
        f"{named}. Freeze them, or {_REMEDY}"
    )


def _processes_of(parameter: nn.Parameter) -> set[int]:
    return {*parameter.device_mesh.mesh.flatten().tolist()} if is_dtensor(parameter) else set()
