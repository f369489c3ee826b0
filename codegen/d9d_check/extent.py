"""How much of a program is followed."""

import dataclasses
from typing import Final

OF_THE_BUS: Final = frozenset(
    {
        *("subscribe", "unsubscribe", "subscribe_annotated", "register_events", "event_bus", "EventBus", "Event"),
        *("trigger", "bounded", "emitter", "TrainingConfigurator", "InferenceConfigurator", "Trainer", "Inference"),
    }
)


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much of a program is followed.

    Attributes:
        outside: Packages that are not followed, because what they do is known.
        leading: What a function mentions that leads to a bus, itself or through others.
        leading_alone: What a function mentions so that it is run, but not what calls it.
        follows_calls_only: Whether a function leads to a bus through those that it calls alone, not through others that
            it mentions; nor are functions followed because they are short.
        packages: A module leads to a bus if it imports one of these, itself or through others; if there are none, any
            module may.
        max_steps: Statements in one run from outside. What a longer run would still find counts as unknown.
        max_steps_of_function: The same for a function of a module: what it calls is run from outside, too.
        max_depth: How deep calls are followed.
        runs_unseen: Whether functions within functions that nothing calls are run, too, and an annotation stands for
            the classes below the one that it names.
    """

    outside: tuple[str, ...] = ("d9d",)
    leading: frozenset[str] = OF_THE_BUS
    leading_alone: frozenset[str] = frozenset()
    follows_calls_only: bool = False
    packages: frozenset[str] = frozenset({"d9d"})
    max_steps: int = 2_000
    max_steps_of_function: int = 500
    max_depth: int = 10
    runs_unseen: bool = False

    def is_outside(self, name: str) -> bool:
        """Return whether a module is not followed."""
        return any(name == package or name.startswith(f"{package}.") for package in self.outside)
