"""Jobs that torchrun starts, for tests of what people see of them, and of how soon their processes end."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# By which all processes of a job are found, whoever is their parent.
_MARK = "D9D_TEST_JOB"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        status: The exit status of torchrun.
        output: All that its processes wrote, in order.
        seconds: How long after what happened to the job the last of its ranks was gone.
    """

    status: int
    output: str
    seconds: float

    def line_of(self, text: str) -> int:
        """Return the number of the first line that has a text in it."""
        return next(number for number, line in enumerate(self.output.splitlines()) if text in line)


class Job:
    """Ranks of a script that note what happens to them in files of `home`, as `failing_job.py` does."""

    def __init__(self, script: Path, home: Path, num_ranks: int, *options: str, **plan: Any) -> None:
        self.home = home
        arguments = ["--standalone", "--nproc-per-node", str(num_ranks), *options]
        self._output = (home / "output").open("w+")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                *arguments,
                script,
                json.dumps({"home": str(home), **plan}),
            ],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", _MARK: str(home)},
        )

    def notes(self, kind: str) -> Iterator[tuple[int, str]]:
        """Yield what ranks have noted of one kind, with their ranks."""
        for path in sorted(self.home.glob("rank-*")):
            for line in path.read_text().splitlines():
                if line.startswith(f"{kind} "):
                    yield int(path.name.removeprefix("rank-")), line.removeprefix(f"{kind} ")

    def events(self, rank: int) -> list[str]:
        """Return the ids of the events of a rank."""
        return [event for noted, event in self.notes("event") if noted == rank]

    def processes(self) -> list[int]:
        """Return all processes of the job that run: launcher, ranks, and whatever these have started."""
        mark, found = f"{_MARK}={self.home}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it may end at any time, or be another user's
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + 120
        while not is_so():
            assert time.monotonic() < deadline, (self.home / "output").read_text()
            time.sleep(0.02)

    def end(self) -> Outcome:
        """Wait for the end of all ranks, and of torchrun."""
        gone_at: list[float] = []
        watch = threading.Thread(target=lambda: gone_at.append(self._wait_for_ranks()))
        watch.start()
        try:
            status = self.process.wait(timeout=200)
        finally:
            self.process.kill()
        watch.join()
        happened_at = max((float(time) for _, time in self.notes("at")), default=gone_at[0])
        self._output.close()
        return Outcome(status, (self.home / "output").read_text(), gone_at[0] - happened_at)

    def _wait_for_ranks(self) -> float:
        """Return when the last rank was gone, which is before torchrun is."""
        have_begun = False
        while True:
            are_running = any(is_running(int(pid)) for _, pid in self.notes("pid"))
            have_begun |= are_running
            if not are_running and (have_begun or self.process.poll() is not None):
                return time.time()
            time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Say whether a process is there, and not merely waits for its parent to look at its exit status."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []
