"""The plugin's error codes, and what a check of a class or of a module looks at and reports with."""

import dataclasses
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

from mypy import errorcodes
from mypy.checker import TypeChecker
from mypy.errorcodes import ARG_TYPE, MISC, NO_UNTYPED_DEF, OVERRIDE, USED_BEFORE_DEF, ErrorCode
from mypy.nodes import Context, MypyFile, TypeInfo
from mypy.options import Options
from mypy.semanal import SemanticAnalyzer

from d9d.mypy.catalogues import Indexes
from d9d_check.codes import CODES as CHECKER_CODES
from d9d_check.codes import UNCHECKED

T = TypeVar("T")
TArguments = TypeVarTuple("TArguments")

_GROUP: Final = "d9d"

# Each code refines one of mypy's own, so that an ignore comment with the broad code works as well.
HANDLER: Final = ErrorCode(
    "d9d-handler", "Check that a handler accepts the context of its event", _GROUP, sub_code_of=ARG_TYPE
)
UNTYPED_HANDLER: Final = ErrorCode(
    "d9d-untyped-handler", "Check that a handler annotates its context", _GROUP, sub_code_of=NO_UNTYPED_DEF
)
CONTEXT: Final = ErrorCode(
    "d9d-context", "Check that an event is triggered with the context that it carries", _GROUP, sub_code_of=ARG_TYPE
)
FILTER: Final = ErrorCode(
    "d9d-filter", "Check that a handler counts the steps of an event that lies in a step", _GROUP, sub_code_of=MISC
)
EVENT_ID: Final = ErrorCode(
    "d9d-event-id", "Check that an event has a valid, unique id and a context type", _GROUP, sub_code_of=MISC
)
INDEX: Final = ErrorCode("d9d-index", "Check that imported catalogues have an index", _GROUP, sub_code_of=MISC)
DEPRECATED: Final = ErrorCode(
    "d9d-deprecated",
    "Report uses of what a catalogue deprecates, with the replacement",
    _GROUP,
    sub_code_of=errorcodes.DEPRECATED,
)
_BROAD: Final = {
    "d9d-target": ARG_TYPE,
    "d9d-dropped": OVERRIDE,
    "d9d-order": USED_BEFORE_DEF,
}
"""The codes of mypy that those of `d9d check` refine; all others refine its code for everything else."""
_OWN: Final = frozenset({"d9d-handler", "d9d-context", "d9d-event-id", "d9d-index", "d9d-syntax"})

CODES: Final = {
    code: ErrorCode(code, meaning, _GROUP, default_enabled=code != UNCHECKED, sub_code_of=_BROAD.get(code, MISC))
    for code, meaning in CHECKER_CODES.items()
    if code not in _OWN
}
"""By name: the codes of what `d9d check` finds in the whole program, for which the plugin reports."""


@dataclasses.dataclass(frozen=True)
class CheckedClass:
    """A class whose names are bound, also in the bodies of its methods, and whose types are not inferred yet.

    Attributes:
        info: The class.
        api: The analyzer that has bound its module; it knows all modules.
        indexes: The indexes of all catalogues.
    """

    info: TypeInfo
    api: SemanticAnalyzer
    indexes: Indexes

    def fail(self, message: str, where: Context, code: ErrorCode) -> None:
        """Report an error at a line of the class's own module."""
        self.api.fail(message, where, code=code)


@dataclasses.dataclass(frozen=True)
class CheckedModule:
    """A module whose names are bound, also in the bodies of its functions.

    Attributes:
        tree: The module.
        options: mypy's settings for it.
        api: The pass of mypy that is running; it knows all modules.
        indexes: The indexes of all catalogues.
    """

    tree: MypyFile
    options: Options
    api: SemanticAnalyzer | TypeChecker
    indexes: Indexes

    def report(self, message: str, where: Context, code: ErrorCode, *, is_note: bool) -> None:
        """Report an error or a note at a line of the module. mypy shows equal reports once."""
        watchers = self.api.errors._watchers  # noqa: SLF001 -- mypy may be trying something out, and would drop it
        set_aside = list(watchers)
        watchers.clear()
        try:
            (self.api.note if is_note else self.api.fail)(message, where, code=code)
        finally:
            watchers.extend(set_aside)


def run_check(
    note: Callable[[str, Context], object], where: Context, check: Callable[[*TArguments], T], *arguments: *TArguments
) -> T | None:
    """Run a check, and report an exception in it as a note: it says nothing about the code, and would stop mypy.

    Args:
        note: Reports a note.
        where: What is checked.
        check: The check.
        arguments: What the check is called with.

    Returns:
        The result of the check; `None` if it raised.
    """
    try:
        return check(*arguments)
    except Exception as error:  # noqa: BLE001 -- any fault of the check
        name = f"{check.__module__}.{check.__name__}"
        note(f"d9d.mypy could not check this: {name} raised {type(error).__name__}: {error}. Please report it.", where)
        return None
