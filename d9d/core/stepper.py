"""The stepper, which counts the steps of a loop. Standard library only."""

from typing import Any


class Stepper:
    """Counts the steps of a loop.

    Args:
        total_steps: How many steps the loop has.
        current_step: The index of the step to start from.

    Raises:
        ValueError: If `total_steps` is less than 1, or `current_step` is not between 0 and `total_steps`.
    """

    __slots__ = ("_current_step", "_total_steps")

    def __init__(self, total_steps: int, current_step: int = 0) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, but is {total_steps}")
        if not 0 <= current_step <= total_steps:
            raise ValueError(f"current_step must be between 0 and total_steps={total_steps}, but is {current_step}")
        self._total_steps = total_steps
        self._current_step = current_step

    @property
    def current_step(self) -> int:
        """The index of the current step, from 0; equal to `total_steps` when the loop has finished."""
        return self._current_step

    @property
    def total_steps(self) -> int:
        """How many steps the loop has."""
        return self._total_steps

    @property
    def is_last(self) -> bool:
        """Whether the current step is the last one."""
        return self._current_step == self._total_steps - 1

    @property
    def is_finished(self) -> bool:
        """Whether all steps are complete."""
        return self._current_step == self._total_steps

    def is_due(self, period_steps: int | None) -> bool:
        """Return whether something periodic is due in the current step.

        Args:
            period_steps: The period in steps; `None` means never.

        Returns:
            True in each step that completes a period, and in the last step of the loop.

        Raises:
            ValueError: If the period is less than one step.
        """
        if period_steps is None:
            return False
        if period_steps < 1:
            raise ValueError(f"period_steps must be at least 1, or None for never, but is {period_steps}")
        return self.is_last or (self._current_step + 1) % period_steps == 0

    def set_total_steps(self, total_steps: int) -> None:
        """Change how many steps the loop has, such as when a run resumes with more data.

        Args:
            total_steps: The new number of steps.

        Raises:
            ValueError: If it is less than 1, or more steps are complete.
        """
        self._total_steps = Stepper(total_steps, self._current_step).total_steps

    def advance(self) -> None:
        """Complete the current step.

        Raises:
            RuntimeError: If all steps are complete already.
        """
        if self._current_step == self._total_steps:
            raise RuntimeError(f"cannot advance: all {self._total_steps} steps are complete")
        self._current_step += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint.

        Returns:
            The index of the current step.
        """
        return {"current_step": self._current_step}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the state from a checkpoint.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: If this loop has fewer steps.
        """
        self._current_step = Stepper(self._total_steps, state_dict["current_step"]).current_step
