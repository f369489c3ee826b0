"""Finds the files of this project that run during an operation, such as one step, a save, or `generate`.

A reader who follows the operation through the code opens these files, so tests limit their number.
"""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

PROJECT = Path(__file__).parents[2]
SOURCES = (PROJECT / "d9d", PROJECT / "codegen" / "d9d_codegen")


def files_opened(journey: Callable[[], object]) -> list[str]:
    """Run an operation; return the files of this project whose functions ran, in this thread and in new threads.

    A module that is only imported does not count: a reader need not open it.

    Args:
        journey: The operation to run.

    Returns:
        The files, relative to the project, sorted.
    """
    opened: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            opened.add(frame.f_code.co_filename)

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        journey()
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    paths = [Path(name).resolve() for name in opened if name.endswith(".py")]
    own = [path for path in paths if any(path.is_relative_to(source) for source in SOURCES)]
    return sorted(str(path.relative_to(PROJECT)) for path in own)
