"""One change between two versions of a catalogue: what it is, whom it breaks, and its positions in both."""

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
        advice: The consequence, and what to do.
    """

    effect: Effect
    advice: str


_DEPRECATE: Final = "deprecate it in one version, and remove it in a later one"
_RENAME: Final = "keep the old name with `deprecated: {since: …, replaced_by: …}`"
KINDS: Final = {
    "catalogue-added": Kind(Effect.COMPATIBLE, "nothing has to change"),
    "catalogue-removed": Kind(Effect.HANDLERS, "importing its modules fails: deprecate their contents first"),
    "constant-renamed": Kind(Effect.HANDLERS, f"the old constant can no longer be imported: {_RENAME}"),
    "context-added": Kind(Effect.COMPATIBLE, "nothing has to change"),
    "context-changed": Kind(
        Effect.HANDLERS, "handlers take the old context: keep it, or add a new event and deprecate this one"
    ),
    "context-removed": Kind(Effect.HANDLERS, f"handlers annotated with it can no longer be imported: {_DEPRECATE}"),
    "default-added": Kind(Effect.COMPATIBLE, "code that triggers the event may now omit the field"),
    "default-changed": Kind(Effect.COMPATIBLE, "code that omits the field now gets the new default"),
    "default-removed": Kind(Effect.TRIGGERS, "code that omits the field fails: keep a default"),
    "deprecated": Kind(Effect.COMPATIBLE, "it still works, with a warning"),
    "documentation-changed": Kind(Effect.COMPATIBLE, "nothing has to change"),
    "event-added": Kind(Effect.COMPATIBLE, "nothing has to change"),
    "event-removed": Kind(Effect.HANDLERS, f"code that handles or triggers it can no longer import it: {_DEPRECATE}"),
    "field-added": Kind(Effect.COMPATIBLE, "code that triggers the event may omit it"),
    "field-removed": Kind(Effect.HANDLERS, f"handlers that read it fail, and so does code that sets it: {_DEPRECATE}"),
    "field-required": Kind(Effect.TRIGGERS, "code that does not set it fails: give it a default"),
    "id-changed": Kind(
        Effect.HANDLERS,
        "code that looks it up by its id no longer finds it: keep the id, or add a new event and deprecate this one",
    ),
    "module-added": Kind(Effect.COMPATIBLE, "nothing has to change"),
    "module-removed": Kind(Effect.HANDLERS, "importing it fails: deprecate its contents first"),
    "moved-to-device": Kind(
        Effect.HANDLERS, "a handler that reads it now makes the host wait: add a new field, and deprecate this one"
    ),
    "moved-to-host": Kind(Effect.COMPATIBLE, "reading it no longer makes the host wait"),
    "occurrence-changed": Kind(Effect.LIFECYCLE, "a run may trigger the event more or less often than before"),
    "order-changed": Kind(Effect.LIFECYCLE, "a run triggers the event at another point"),
    "package-changed": Kind(Effect.HANDLERS, "every import of an event or a context fails: keep the package"),
    "phase-added": Kind(Effect.LIFECYCLE, "a run has one more phase"),
    "phase-changed": Kind(Effect.LIFECYCLE, "a run may go through the phase more or less often than before"),
    "phase-moved": Kind(Effect.LIFECYCLE, "a run goes through the phases in another order"),
    "phase-of-event-changed": Kind(Effect.LIFECYCLE, "a run triggers the event in another phase"),
    "phase-removed": Kind(Effect.LIFECYCLE, "a run has one phase less"),
    "relation-changed": Kind(Effect.LIFECYCLE, "a run triggers the two events in another relation"),
    "replacement-changed": Kind(
        Effect.HANDLERS,
        "code that uses the old name now gets something else: keep its `replaced_by`, or remove the old name",
    ),
    "stability-changed": Kind(Effect.COMPATIBLE, "nothing has to change"),
    "type-changed": Kind(
        Effect.BOTH,
        "handlers and code that triggers the event expect the old type: add a new field, and deprecate this one",
    ),
    "type-narrowed": Kind(
        Effect.TRIGGERS, "code that triggers the event may pass values that are no longer allowed: keep the wider type"
    ),
    "type-respelt": Kind(Effect.COMPATIBLE, "it means the same type as before"),
    "type-widened": Kind(
        Effect.HANDLERS, "handlers may receive values that they do not expect: keep the narrower type, or add a field"
    ),
    "undeprecated": Kind(Effect.COMPATIBLE, "nothing has to change"),
}


class Position(NamedTuple):
    """A piece of text of one version."""

    source: Source
    text: Text


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Attributes:
        kind: A key of `KINDS`.
        message: What has changed.
        old: The position in the old version; that of the parent entry where it did not exist yet.
        new: The position in the new version; that of the parent entry where it no longer exists.
        justification: Why a breaking change is allowed, if it is.
    """

    kind: str
    message: str
    old: Position
    new: Position
    justification: str | None = None

    @property
    def effect(self) -> Effect:
        """Whom it breaks."""
        return KINDS[self.kind].effect

    @property
    def severity(self) -> str:
        """An error where the change is breaking and not justified."""
        if self.effect is Effect.COMPATIBLE:
            return "notice"
        return "warning" if self.effect is Effect.LIFECYCLE or self.justification else "error"

    @property
    def remedy(self) -> str:
        """The consequence, and what to do."""
        because = f" ({self.justification})" if self.justification else ""
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


def justification(*statuses: Status, removal: bool = False) -> str | None:
    """Return why an entry of the old version may change, if it may.

    Args:
        statuses: The status of the entry, and of all that it is a part of.
        removal: Whether the entry is removed, which a deprecation has announced.
    """
    deprecated = statuses[0].deprecated if removal and statuses else None
    if deprecated:
        return f"deprecated since {deprecated.since}"
    return "experimental" if any(status.stability == "experimental" for status in statuses) else None


def _line(place: Position) -> str:
    return place.source.line(place.text.span.line)


def _shown(place: Position) -> str:
    return f"{place.source.path}:{place.text.span.line}:{place.text.span.column}"


def _position(place: Position) -> dict[str, object]:
    line, column, length = place.text.span
    return {"path": str(place.source.path), "line": line, "column": column, "length": length}
