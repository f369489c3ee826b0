"""The codes of what is reported, each with what it means."""

from typing import Final

UNCHECKED: Final = "d9d-unchecked"

CODES: Final = {
    "d9d-unregistered": "A handler that nothing registers on a bus",
    "d9d-target": "`subscribe_annotated` on an object without handlers",
    "d9d-uncalled": "A function of the bus that is named, but not called",
    "d9d-twice": "A handler that is subscribed twice on one bus",
    "d9d-late": "A subscription to an event that is over, or one more in every step",
    "d9d-scope": "A handler of an event that only the other loop triggers",
    "d9d-untriggered": "A handler of an event that nothing triggers",
    "d9d-dropped": "A handler that an override or a decorator replaces",
    "d9d-recursion": "A handler that triggers its own event without end",
    "d9d-handler": "A handler that takes the context of another event",
    "d9d-context": "An event that is triggered with something other than its context",
    "d9d-pair": "A block without a `with` statement, or of two events that do not belong together",
    "d9d-emitter": "An emitter that nothing calls",
    "d9d-event-id": "Two events with one id on one bus",
    "d9d-host-sync": "A handler that makes every step wait for the device",
    "d9d-collective": "A collective that only some ranks reach",
    "d9d-order": "An attribute that is read before a later event's handler assigns it",
    "d9d-held": "Something of one step that a handler keeps in all later ones",
    "d9d-restore": "A change for the time between two events that nothing takes back",
    "d9d-index": "A catalogue, an index or settings that cannot be read or do not match",
    "d9d-syntax": "A file that cannot be read or parsed",
    UNCHECKED: "Something that could not be verified (a note)",
}
"""By code: what it reports. All are on but the last, which is counted in the summary."""
