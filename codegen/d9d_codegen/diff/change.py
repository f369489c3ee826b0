"""Change."""

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from d9d_codegen.catalogue import Status
from d9d_codegen.diagnostic import Diagnostic, Source, Text, excerpt


class Effect(Enum):
    """Whom a change breaks."""

    HANDLERS = "breaking for handlers"
    TRIGGERS = "breaking for triggers"
    BOTH = "breaking for handlers and triggers"
    LIFECYCLE = "lifecycle"
    COMPATIBLE = "compatible"


class Kind(NamedTuple):
    """A kind of change.

    Attributes:
        effect: Whom it breaks.
        advice: What follows from it, and what to do.
    """

    effect: Effect
    advice: str


_DEPRECATE: Final = "deprecate it in one version, and remove it in a later one"
_RENAME: Final = "keep the old name with `deprecated: {since: …, replaced_by: …}`"
KINDS: Final = {
    "constant-renamed": Kind(Effect.HANDLERS, f"the old constant cannot be imported any more: {_RENAME}"),
    "context-added": Kind(Effect.COMPATIBLE, "nothing has to change"),
    "context-changed": Kind(
        Effect.HANDLERS, "handlers take the old context: keep it, or deprecate the old one in favour of the new"
    ),
    "context-removed": Kind(Effect.HANDLERS, f"handlers that are annotated with it cannot be imported: {_DEPRECATE}"),
    "default-added": Kind(Effect.COMPATIBLE, "triggers may leave the field out now"),
    "default-changed": Kind(Effect.COMPATIBLE, "triggers that leave the field out mean the new default"),
    "default-removed": Kind(Effect.TRIGGERS, "triggers that leave the field out fail: keep a default"),
    "deprecated": Kind(Effect.COMPATIBLE, "what uses it goes on working, and is warned"),
    "documentation-changed": Kind(Effect.COMPATIBLE, "nothing has to change"),
    "event-added": Kind(Effect.COMPATIBLE, "nothing has to change"),
    "event-removed": Kind(
        Effect.HANDLERS, f"handlers of it cannot be imported, and nothing can trigger it: {_DEPRECATE}"
    ),
    "field-added": Kind(Effect.COMPATIBLE, "triggers may leave it out"),
    "field-removed": Kind(Effect.HANDLERS, f"handlers that read it fail, and so do triggers that set it: {_DEPRECATE}"),
    "field-required": Kind(Effect.TRIGGERS, "triggers that do not set it fail: give it a default"),
    "id-changed": Kind(
        Effect.HANDLERS,
        "what knows the event by its id misses it: keep the id, or add a new event and deprecate this one",
    ),
    "module-added": Kind(Effect.COMPATIBLE, "nothing has to change"),
    "module-removed": Kind(Effect.HANDLERS, "what imports it fails: deprecate what is in it first"),
    "occurrence-changed": Kind(Effect.LIFECYCLE, "runs may show the event more or less often than before"),
    "order-changed": Kind(Effect.LIFECYCLE, "runs show the event at another place than before"),
    "package-changed": Kind(Effect.HANDLERS, "every import of an event or a context fails: keep the package"),
    "phase-added": Kind(Effect.LIFECYCLE, "runs pass through one phase more"),
    "phase-changed": Kind(Effect.LIFECYCLE, "runs pass through the phase in another way than before"),
    "phase-moved": Kind(Effect.LIFECYCLE, "runs pass through the phases in another order"),
    "phase-of-event-changed": Kind(Effect.LIFECYCLE, "runs show the event in another phase"),
    "phase-removed": Kind(Effect.LIFECYCLE, "runs pass through one phase less"),
    "replacement-changed": Kind(
        Effect.HANDLERS, "what uses the old name means something else now: keep the replacement, or remove the name"
    ),
    "stability-changed": Kind(Effect.COMPATIBLE, "nothing has to change"),
    "type-changed": Kind(
        Effect.BOTH, "handlers and triggers both mean the old type: add a new field, and deprecate this one"
    ),
    "type-narrowed": Kind(Effect.TRIGGERS, "triggers may give what is not allowed any more: keep the wider type"),
    "type-respelt": Kind(Effect.COMPATIBLE, "it means the same"),
    "type-widened": Kind(
        Effect.HANDLERS, "handlers may be given what they do not expect: keep the narrower type, or add a field"
    ),
    "undeprecated": Kind(Effect.COMPATIBLE, "nothing has to change"),
}


class Place(NamedTuple):
    """A piece of text of one version."""

    source: Source
    text: Text


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Attributes:
        kind: A key of `KINDS`.
        message: What has changed.
        old: Where that stands in the old version; what holds it where it was not there yet.
        new: The same of the new version.
        excuse: Why a breaking change may be made, if it may.
    """

    kind: str
    message: str
    old: Place
    new: Place
    excuse: str | None = None

    @property
    def effect(self) -> Effect:
        """Whom it breaks."""
        return KINDS[self.kind].effect

    @property
    def severity(self) -> str:
        """How it is told: an error where it must not be made like this."""
        if self.effect is Effect.COMPATIBLE:
            return "notice"
        return "warning" if self.effect is Effect.LIFECYCLE or self.excuse else "error"

    @property
    def remedy(self) -> str:
        """What follows, and what to do."""
        because = f" ({self.excuse})" if self.excuse else ""
        return f"{self.effect.value}{because}: {KINDS[self.kind].advice}"

    def as_diagnostic(self) -> Diagnostic:
        """Return the change as a diagnostic of the new version that shows the old one below."""
        source, text = self.new
        before = excerpt(self.old.text.span, _line(self.old))
        return Diagnostic(
            path=source.path,
            rule=self.kind,
            message=self.message,
            remedy=self.remedy,
            span=text.span,
            line=_line(self.new),
            detail="\n".join([f"{_shown(self.old)}: before", *before]),
            severity=self.severity,
        )

    def as_object(self) -> dict[str, object]:
        """Return the change as data."""
        return {
            "kind": self.kind,
            "class": self.effect.value,
            "severity": self.severity,
            "message": self.message,
            "remedy": self.remedy,
            "old": _position(self.old),
            "new": _position(self.new),
        }


def excuse(*statuses: Status, removal: bool = False) -> str | None:
    """Return why something may be changed that was of a status in the old version, if it may.

    Args:
        statuses: The status of the entry, and of all that it is a part of.
        removal: Whether it is gone altogether, which a deprecation has announced.
    """
    deprecated = statuses[0].deprecated if removal and statuses else None
    if deprecated:
        return f"deprecated since {deprecated.since}"
    return "experimental" if any(status.stability == "experimental" for status in statuses) else None


def _line(place: Place) -> str:
    return place.source.line(place.text.span.line)


def _shown(place: Place) -> str:
    return f"{place.source.path}:{place.text.span.line}:{place.text.span.column}"


def _position(place: Place) -> dict[str, object]:
    line, column, length = place.text.span
    return {"path": str(place.source.path), "line": line, "column": column, "length": length}
