"""Places in source where something is done with an event."""

from dataclasses import dataclass, field

from d9d_codegen.coverage.python_file import PythonFile
from d9d_codegen.source import Span


@dataclass(frozen=True, slots=True)
class Site:
    """A place where an event is triggered or subscribed to.

    Attributes:
        event: The full path of the event's constant.
        file: The file.
        span: Where the event is named.
        function: The function that does it.
    """

    event: str
    file: PythonFile = field(compare=False)
    span: Span
    function: str

    @property
    def name(self) -> str:
        """The event's constant."""
        return self.event.rpartition(".")[2]

    def __str__(self) -> str:
        """Return the place as people and editors read it."""
        return f"{self.file.source.path}:{self.span.line}:{self.span.column}"


@dataclass(slots=True)
class Sites:
    """All that is done with events in the files in view.

    Attributes:
        triggers: Where events are triggered.
        handlers: Where handlers subscribe to events.
        disorders: Triggers that come after one that they must not come after.
        unpaired: The sides of `bounded` calls that are no pair.
    """

    triggers: list[Site] = field(default_factory=list)
    handlers: list[Site] = field(default_factory=list)
    disorders: dict[Site, Site] = field(default_factory=dict)
    unpaired: list[tuple[Site, Site]] = field(default_factory=list)
