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

    Attributes:
        stop_reason: Why a stop was asked for, the first reason that was given; `None` if it was not.
        is_save_requested: Whether a checkpoint was asked for.
        requested_evaluations: The names of the evaluations that were asked for. A control that does not know which
            ones there are has `"*"` for all of them.

    Args:
        evaluations: The names of the evaluations that the loop has. `None` accepts any name.
    """

    __slots__ = ("_evaluations", "is_save_requested", "requested_evaluations", "stop_reason")

    def __init__(self, evaluations: Collection[str] | None = None) -> None:
        self._evaluations = None if evaluations is None else tuple(evaluations)
        self.stop_reason: str | None = None
        self.is_save_requested = False
        self.requested_evaluations: frozenset[str] = frozenset()

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
        if self.stop_reason is None:
            self.stop_reason = reason

    def save(self) -> None:
        """Ask for a checkpoint. Without checkpointing nothing is saved."""
        self.is_save_requested = True

    def evaluate(self, *names: str) -> None:
        """Ask for evaluations.

        Args:
            names: Which ones, as in `evaluations={...}` of the configurator; all of them by default.

        Raises:
            ValueError: If the loop has no evaluations, or none of this name.
        """
        known = self._evaluations
        if known is None:
            self.requested_evaluations |= {*(names or ("*",))}
            return
        if not known:
            raise ValueError(
                "control.evaluate was called in a loop without evaluations: only training has them, if "
                "TrainingConfigurator is given evaluations={...}"
            )
        for name in names:
            if name not in known:
                raise ValueError(f"there is no evaluation named {name!r}: this loop has {', '.join(map(repr, known))}")
        self.requested_evaluations |= {*(names or known)}

    def clear(self) -> None:
        """Forget all requests; the loop calls this when it has read them."""
        self.stop_reason = None
        self.is_save_requested = False
        self.requested_evaluations = frozenset()
