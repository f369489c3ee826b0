"""Requests of handlers to the loop: stop, save, evaluate."""

from collections.abc import Collection


class LoopControl:
    """Asks the loop to act. A handler finds it in the field `control` of its context.

    The loop acts between two steps, where state and step agree: a request made in a step takes effect after the next
    one, on all ranks alike. It is enough that one rank asks. Several requests of one kind are one request.

    Made by hand in a unit test, a control records what was asked:

    ```python
    control = LoopControl()
    handler(EventStepContext(stepper=Stepper(total_steps=10), control=control))
    assert control.stop_reason == "the loss diverged"
    ```

    Args:
        evaluations: The names of the evaluations that the loop has. `None` accepts any name.
    """

    __slots__ = ("_evaluations", "_is_save_requested", "_requested_evaluations", "_stop_reason")

    def __init__(self, evaluations: Collection[str] | None = None) -> None:
        self._evaluations = None if evaluations is None else tuple(evaluations)
        self._stop_reason: str | None = None
        self._is_save_requested = False
        self._requested_evaluations: dict[str, None] = {}

    @property
    def stop_reason(self) -> str | None:
        """Why a stop was asked for, the first reason that was given; `None` if it was not."""
        return self._stop_reason

    @property
    def is_save_requested(self) -> bool:
        """Whether a checkpoint was asked for."""
        return self._is_save_requested

    @property
    def requested_evaluations(self) -> tuple[str, ...]:
        """The names of the evaluations that were asked for, each once, in the order in which the loop runs them.

        For a control without known names: in the order in which they were asked for, and `"*"` for all of them.
        """
        requested = self._requested_evaluations
        return tuple(requested if self._evaluations is None else filter(requested.__contains__, self._evaluations))

    def stop(self, reason: str) -> None:
        """Ask the loop to end. It has succeeded then: it saves a checkpoint if checkpointing is on.

        Args:
            reason: Why, in a few words, for the log and the checkpoint.

        Raises:
            TypeError: If the reason is not a string.
            ValueError: If it is empty.
        """
        if not isinstance(reason, str):
            raise TypeError(f"control.stop needs a reason in words, but found {reason!r}")
        if not reason.strip():
            raise ValueError("control.stop needs a reason in words, but found an empty string")
        if self._stop_reason is None:
            self._stop_reason = reason

    def save(self) -> None:
        """Ask for a checkpoint. Without checkpointing nothing is saved."""
        self._is_save_requested = True

    def evaluate(self, *names: str) -> None:
        """Ask for evaluations.

        Args:
            names: Which ones, as in `evaluations={...}` of the configurator; all of them by default.

        Raises:
            ValueError: If the loop has no evaluations, or none of this name.
        """
        known = self._evaluations
        if known is None:
            self._requested_evaluations |= dict.fromkeys(names or ("*",))
            return
        if not known:
            raise ValueError(
                "control.evaluate was called in a loop without evaluations: only training has them, if "
                "TrainingConfigurator is given evaluations={...}"
            )
        for name in names:
            if name not in known:
                raise ValueError(f"there is no evaluation named {name!r}: this loop has {', '.join(map(repr, known))}")
        self._requested_evaluations |= dict.fromkeys(names or known)

    def clear(self) -> None:
        """Forget all requests; the loop calls this when it has read them."""
        self._stop_reason = None
        self._is_save_requested = False
        self._requested_evaluations = {}
