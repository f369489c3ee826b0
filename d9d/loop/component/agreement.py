"""What the processes of a job have to agree on before they begin."""

from typing import TypeVar

from torch import distributed

from d9d.core.dist_context import DistributedContext

TFinding = TypeVar("TFinding")


def findings_of_all(finding: TFinding, dist_context: DistributedContext) -> list[TFinding]:
    """Tell all processes what this one has found, so that they refuse it together and none waits for one that left.

    Args:
        finding: What this process has found; it can be pickled.
        dist_context: The processes.

    Returns:
        What each process has found, by its rank.
    """
    if dist_context.world_size == 1:
        return [finding]
    found = [finding] * dist_context.world_size
    distributed.all_gather_object(found, finding)
    return found
