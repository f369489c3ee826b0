"""What happens when a check fails itself."""

from collections.abc import Callable

from mypy.nodes import Context


class CrashTold:
    """Tells a fault of a check as a note: it says nothing about the checked code, and would stop mypy for all files.

    Args:
        check: What is about to run.
        note: Reports a note.
        where: What is checked.
    """

    def __init__(self, check: Callable[..., object], note: Callable[[str, Context], object], where: Context) -> None:
        self._check = check
        self._note = note
        self._where = where

    def __enter__(self) -> None:
        """Begin to watch the check."""

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> bool:
        """Tell the fault, if there is one."""
        if not isinstance(error, Exception):
            return False
        name = f"{self._check.__module__}.{self._check.__name__}"
        raised = f"{type(error).__name__}: {error}"
        self._note(f"d9d.mypy could not check this: {name} raised {raised}. Please report it.", self._where)
        return True
