"""How gradients are summed over the processes that hold the same weights."""

from collections.abc import Sequence

from torch import nn

from d9d.core.sharding import is_fsdp_module


class GradientSynchronizer:
    """Has FSDP sum gradients, where it would average them, and over all replicas only once in a step.

    The loop divides by the weight of the whole step itself, since its processes need not have the same share of it.

    Args:
        modules: The stages of this process.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        sharded = [module for stage in modules for module in stage.modules() if is_fsdp_module(module)]
        for module in sharded:
            module.set_gradient_divide_factor(1.0)
            # Without it a factor of its own needs a kind of reduction that only some backends have.
            module.set_force_sum_reduction_for_comms(True)
        self._sharded = sharded

    def start_micro_batch(self, *, is_last: bool) -> None:
        """Prepare for the backward pass of a micro-batch.

        Shards are summed after each, so that no process holds gradients of more than its own; replicas after the last.

        Args:
            is_last: Whether it is the last one of the step.
        """
        for module in self._sharded:
            module.set_requires_all_reduce(is_last, recurse=False)
