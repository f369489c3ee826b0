"""Reports as lines of JSON, for programs to read."""

import datetime as dt
import errno
import json
import math
import os
import secrets
from pathlib import Path

from d9d.loop.component.report.report import Report


class JsonLines:
    """Appends a line to a file for each report.

    The file belongs to no run: each line names its run, so that several runs, one after another or at once, and those
    that go on from a checkpoint, share it. Each line is written whole and by one call, into a file that is opened for
    it. Where a process was killed, or the disk was full, in the middle of a line, the next one begins on a new line.

    Args:
        path: The file; it and its folders are made with the first report.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Neither the seed nor the clock alone: a job may start many runs in a second, all with one seed.
        self._run = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

    @property
    def target(self) -> str:  # noqa: D102 -- inherited
        return f"reporting.json_lines={self._path}"

    def write(self, report: Report) -> None:  # noqa: D102 -- inherited
        record = {
            "run": self._run,
            "loop": report.loop,
            "step": report.num_steps,
            "time": report.taken_at.isoformat(timespec="milliseconds"),
            **{name: _in_json(number) for name, number in report.numbers.items()},
        }
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        # Without a file object, which asks the system twice as often, and that is most of what a line takes.
        file = self._open()
        try:
            size = os.lseek(file, 0, os.SEEK_END)
            if size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line
            if os.write(file, line) != len(line):
                raise OSError(errno.ENOSPC, "only a part of the line could be written")
        finally:
            os.close(file)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        try:
            return os.open(self._path, flags, 0o666)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, flags, 0o666)

    def close(self) -> None:
        """Do nothing: no file is open between two reports."""


def _in_json(number: float) -> float | str:
    """Spell what JSON has no numbers for; `float` reads each of them."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
