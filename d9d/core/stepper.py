"""Which step this is, of how many, and what is due in it. Standard library only."""

from typing import Any


class Stepper:
    """Counts the steps of a loop.

    Args:
        total_steps: How many steps the loop has.
        current_step: The index, from 0, of the step that runs first.

    Raises:
        ValueError: If there is no step at all, or the first one lies outside of the loop.
    """

    __slots__ = ("_current_step", "_total_steps")

    def __init__(self, total_steps: int, current_step: int = 0) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, and is {total_steps}")
        if not 0 <= current_step <= total_steps:
            raise ValueError(f"current_step must lie between 0 and total_steps={total_steps}, and is {current_step}")
        self._total_steps = total_steps
        self._current_step = current_step

    @property
    def current_step(self) -> int:
        """The index, from 0, of the step that runs; equal to `total_steps` once the loop has ended."""
        return self._current_step

    @property
    def total_steps(self) -> int:
        """How many steps the loop has."""
        return self._total_steps

    @property
    def is_last(self) -> bool:
        """Whether the step that runs is the last one."""
        return self._current_step == self._total_steps - 1

    @property
    def is_finished(self) -> bool:
        """Whether no step is left to run."""
        return self._current_step == self._total_steps

    def is_due(self, period_steps: int | None) -> bool:
        """Say whether something that happens periodically happens in the step that runs.

        Args:
            period_steps: The period, in steps; `None` means never.

        Returns:
            True in each step that completes a period, and in the last step of the loop.

        Raises:
            ValueError: If the period is shorter than one step.
        """
        if period_steps is None:
            return False
        if period_steps < 1:
            raise ValueError(f"period_steps must be at least 1, or None for never, and is {period_steps}")
        return self.is_last or (self._current_step + 1) % period_steps == 0

    def advance(self) -> None:
        """Go on to the next step.

        Raises:
            RuntimeError: If the last step has been completed already.
        """
        if self.is_finished:
            raise RuntimeError(f"all {self._total_steps} steps are complete, and none is left to advance to")
        self._current_step += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps.

        Returns:
            The index of the step that runs next.
        """
        return {"current_step": self._current_step}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on from where a checkpoint was taken.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: If the step lies outside of this loop.
        """
        self._current_step = Stepper(self._total_steps, state_dict["current_step"]).current_step
