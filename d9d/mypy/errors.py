"""The error codes of the plugin. What each of them says stands with the check that says it."""

import dataclasses
from typing import Final

from mypy import errorcodes
from mypy.errorcodes import ARG_TYPE, MISC, NO_UNTYPED_DEF, OVERRIDE, USED_BEFORE_DEF, ErrorCode

# Sub-codes of the mypy codes that they refine, so that an ignore comment which names the broad code works as well.
HANDLER: Final = ErrorCode(
    "d9d-handler", "Check that a handler accepts the context of its event", "d9d", sub_code_of=ARG_TYPE
)
UNTYPED_HANDLER: Final = ErrorCode(
    "d9d-untyped-handler", "Check that a handler annotates its context", "d9d", sub_code_of=NO_UNTYPED_DEF
)
CONTEXT: Final = ErrorCode(
    "d9d-context", "Check that an event is triggered with the context that it carries", "d9d", sub_code_of=ARG_TYPE
)
PAIR: Final = ErrorCode(
    "d9d-pair", "Check that a bounded moment has its own two sides, and a block between them", "d9d", sub_code_of=MISC
)
EMITTER: Final = ErrorCode("d9d-emitter", "Check that an emitter is called", "d9d", sub_code_of=MISC)
SCOPE: Final = ErrorCode("d9d-scope", "Check that a task listens to the loop that runs it", "d9d", sub_code_of=MISC)
UNREGISTERED: Final = ErrorCode(
    "d9d-unregistered", "Check that the subscribed methods of a task are registered", "d9d", sub_code_of=MISC
)
DROPPED: Final = ErrorCode(
    "d9d-dropped", "Check that the override of a subscribed method is subscribed too", "d9d", sub_code_of=OVERRIDE
)
EVENT_ID: Final = ErrorCode(
    "d9d-event-id", "Check that an event has a well-formed id of its own, and a context type", "d9d", sub_code_of=MISC
)
DEPRECATED: Final = ErrorCode(
    "d9d-deprecated",
    "Report uses of what a catalogue deprecates, with the replacement",
    "d9d",
    sub_code_of=errorcodes.DEPRECATED,
)
HOST_SYNC: Final = ErrorCode(
    "d9d-host-sync",
    "Report what makes every step wait for the device",
    "d9d",
    default_enabled=False,
    sub_code_of=MISC,
)
COLLECTIVE: Final = ErrorCode(
    "d9d-collective",
    "Report collectives that only some ranks reach",
    "d9d",
    default_enabled=False,
    sub_code_of=MISC,
)
ORDER: Final = ErrorCode(
    "d9d-order",
    "Report attributes that a handler reads before the handler of a later event has assigned them",
    "d9d",
    default_enabled=False,
    sub_code_of=USED_BEFORE_DEF,
)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One error, ready to be reported.

    Attributes:
        code: What users name to ignore it.
        message: What was found, what was expected, and what to do.
    """

    code: ErrorCode
    message: str
