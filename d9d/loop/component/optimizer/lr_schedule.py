"""Learning rates that rise at first and fall in the end."""

import dataclasses
from typing import Self

from torch.optim.lr_scheduler import LambdaLR

from d9d.core.protocol import LRSchedulerProtocol
from d9d.loop.component.optimizer.lr_factor import REMAINDERS, DecayShape, LRFactor
from d9d.loop.config import ConfigurationError
from d9d.loop.control import InitializeLRSchedulerContext


@dataclasses.dataclass(frozen=True, kw_only=True)
class LRSchedule:
    """Brings a scheduler that multiplies the learning rates of all parameter groups with one factor.

    The factor rises linearly to 1, so that the optimizer's own rate is the largest, and falls in the last steps. Its
    end is where a step after the last one would stand: no step is spent on a rate of zero.

    Attributes:
        shape: How the rate falls.
        warmup_steps: How many steps it rises in; with 0 it begins at its largest.
        decay_steps: How many steps, the last ones, it falls in; `None` means all that follow the warm-up.
        final_fraction: Where it ends, as a fraction of the largest.

    Raises:
        ConfigurationError: If one of them is out of its range.
    """

    shape: DecayShape
    warmup_steps: int = 0
    decay_steps: int | None = None
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        """Check each number by itself."""
        if self.shape not in REMAINDERS:
            raise ConfigurationError(f"shape is {self.shape!r}: choose one of {', '.join(map(repr, REMAINDERS))}")
        if self.warmup_steps < 0:
            raise ConfigurationError(f"warmup_steps is {self.warmup_steps}: at least 0 works")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ConfigurationError(
                f"decay_steps is {self.decay_steps}: at least 1 works, or None for all steps after the warm-up"
            )
        if not 0 <= self.final_fraction <= 1:
            raise ConfigurationError(f"final_fraction is {self.final_fraction}: 0.0 to 1.0 works")

    @classmethod
    def linear(cls, *, warmup_steps: int = 0, final_fraction: float = 0.0) -> Self:
        """Let the rate rise, and fall along a line for the rest of the run.

        Args:
            warmup_steps: How many steps it rises in.
            final_fraction: Where it ends, as a fraction of the largest.

        Returns:
            The schedule.
        """
        return cls(shape="linear", warmup_steps=warmup_steps, final_fraction=final_fraction)

    @classmethod
    def cosine(cls, *, warmup_steps: int = 0, final_fraction: float = 0.0) -> Self:
        """Let the rate rise, and fall along half a cosine for the rest of the run.

        After Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv 1608.03983,
        equation 5, without restarts.

        Args:
            warmup_steps: How many steps it rises in.
            final_fraction: Where it ends, as a fraction of the largest.

        Returns:
            The schedule.
        """
        return cls(shape="cosine", warmup_steps=warmup_steps, final_fraction=final_fraction)

    @classmethod
    def wsd(
        cls, *, decay_steps: int, warmup_steps: int = 0, final_fraction: float = 0.0, shape: DecayShape = "1-sqrt"
    ) -> Self:
        """Let the rate rise, stay, and fall in the last steps: warm-up, stable, decay.

        After Hu et al., "MiniCPM", arXiv 2404.06395, section 4, with the fall of Hägele et al., "Scaling Laws and
        Compute-Optimal Training Beyond Fixed Training Durations", arXiv 2405.18392, by default.

        Args:
            decay_steps: How many steps it falls in; a tenth to a fifth of the run is usual.
            warmup_steps: How many steps it rises in.
            final_fraction: Where it ends, as a fraction of the largest.
            shape: How it falls.

        Returns:
            The schedule.
        """
        return cls(shape=shape, warmup_steps=warmup_steps, decay_steps=decay_steps, final_fraction=final_fraction)

    def factor(self, total_steps: int) -> LRFactor:
        """Fit the schedule into a run.

        Args:
            total_steps: How many optimizer steps the run has.

        Returns:
            What the learning rate of each step is multiplied with.

        Raises:
            ConfigurationError: If the run is too short for it.
        """
        shortest_decay = self.decay_steps or 1
        if self.warmup_steps + shortest_decay > total_steps:
            raise ConfigurationError(self._misfit(shortest_decay, total_steps))
        decay_steps = self.decay_steps or total_steps - self.warmup_steps
        return LRFactor(
            warmup_steps=self.warmup_steps,
            decay_start=total_steps - decay_steps,
            decay_steps=decay_steps,
            final_fraction=self.final_fraction,
            shape=self.shape,
        )

    def __call__(self, ctx: InitializeLRSchedulerContext, /) -> LRSchedulerProtocol:
        """Build the scheduler.

        Args:
            ctx: Holds the optimizer, and knows how many steps the run has.

        Returns:
            The scheduler.

        Raises:
            ConfigurationError: If the run is too short for the schedule.
            TypeError: If the optimizer is none of torch's kind.
        """
        return LambdaLR(ctx.torch_optimizer, self.factor(ctx.total_steps))

    def _misfit(self, shortest_decay: int, total_steps: int) -> str:
        remedies = [f"total_steps of at least {self.warmup_steps + shortest_decay}"]
        if total_steps >= shortest_decay:
            remedies.insert(0, f"warmup_steps of at most {total_steps - shortest_decay}")
        if self.decay_steps is not None and total_steps > self.warmup_steps:
            remedies.insert(0, f"decay_steps of at most {total_steps - self.warmup_steps}")
        asked = "at least 1 step of decay" if self.decay_steps is None else f"decay_steps={self.decay_steps}"
        return (
            f"warmup_steps={self.warmup_steps} and {asked} do not fit into total_steps={total_steps}: take "
            f"{', or '.join(remedies)}"
        )
