"""Measures whole processes, from start to exit."""

import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """What a process used.

    Attributes:
        seconds: Seconds of CPU.
        mebibytes: The peak of memory.
    """

    seconds: float
    mebibytes: float


def cost(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, statuses: Collection[int] = (0,)
) -> Cost:
    """Run a command, and return what it used.

    Python writes its bytecode, so that a later run finds it, as after an installation.

    Args:
        command: The command.
        folder: The folder to run it in.
        environment: Environment variables to add to those of this process.
        statuses: The expected exit statuses.

    Raises:
        RuntimeError: If the command ends with another status.
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
