"""The learning rate of each step, as a fraction of the largest one."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

DecayShape = Literal["linear", "cosine", "1-sqrt"]
"""How a learning rate falls: along a line, half a cosine (Loshchilov and Hutter, arXiv 1608.03983), or one minus the
square root of the progress, steep first (Hägele et al., arXiv 2405.18392)."""

# What is left of the height of a fall, from 1 to 0, by how much of it is behind, from 0 to 1.
REMAINDERS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LRFactor:
    """Rises linearly to 1, stays there, and falls: a pure function of the step.

    `torch.optim.lr_scheduler.LambdaLR` keeps its numbers in the state of the scheduler.

    Attributes:
        warmup_steps: How many steps it rises in, from `1 / warmup_steps` to 1.
        decay_start: The index of the step from which it falls; that step still has 1.
        decay_steps: How many steps later it is at its end, where it stays.
        final_fraction: Its end.
        shape: How it falls.
    """

    warmup_steps: int
    decay_start: int
    decay_steps: int
    final_fraction: float
    shape: DecayShape

    def __call__(self, step: int) -> float:
        """Compute the factor of a step.

        Args:
            step: The index of the step, from 0.

        Returns:
            The fraction of the largest learning rate.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(max(0, step - self.decay_start) / self.decay_steps, 1)
        return self.final_fraction + (1 - self.final_fraction) * REMAINDERS[self.shape](progress)
