"""Measures whole processes, from start to exit."""

import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """What a process took.

    Attributes:
        seconds: Those of CPU.
        mebibytes: The peak of its memory.
    """

    seconds: float
    mebibytes: float


def cost(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, statuses: Collection[int] = (0,)
) -> Cost:
    """Run a command, and return what it took.

    Bytecode is written, so that a later run finds it in place, as after an installation.

    Args:
        command: What is run.
        folder: Where.
        environment: Variables to set besides those of this process.
        statuses: The exit statuses that are as they should be.

    Raises:
        RuntimeError: It ends with another status.
    """
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(  # noqa: S603 -- ours
        command, cwd=folder, env={**variables, **(environment or {})}, stdout=subprocess.DEVNULL
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in statuses:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} in {folder}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
