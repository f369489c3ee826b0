"""Jobs started by torchrun, for tests of their output and of how soon their processes exit."""

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

# The environment variable that identifies all processes of a job, whatever their parent.
_MARK = "D9D_TEST_JOB"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        status: The exit status of torchrun.
        output: The output of all its processes, in order.
        seconds: The time from the planned failure or signal to the exit of the last rank.
    """

    status: int
    output: str
    seconds: float


class Job:
    """A torchrun job whose ranks write notes into files in `home`, as those of `failing_job.py` do."""

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
            start_new_session=True,  # so that a test can signal its process group, as a terminal does
        )

    def notes(self, kind: str) -> Iterator[tuple[int, str]]:
        """Yield the notes of one kind, each with its rank."""
        for path in sorted(self.home.glob("rank-*")):
            for line in path.read_text().splitlines():
                if line.startswith(f"{kind} "):
                    yield int(path.name.removeprefix("rank-")), line.removeprefix(f"{kind} ")

    def events(self, rank: int) -> list[str]:
        """Return the ids of the events that a rank triggered."""
        return [event for noted, event in self.notes("event") if noted == rank]

    def processes(self) -> list[int]:
        """Return the ids of all running processes of the job: launcher, ranks, and their children."""
        mark, found = f"{_MARK}={self.home}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it may exit at any time, or belong to another user
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; fail after 120 seconds."""
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, (self.home / "output").read_text()
            time.sleep(0.02)

    def end(self) -> Outcome:
        """Wait until all ranks and torchrun have exited."""
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
        """Wait until the last rank has exited, which is before torchrun does; return the time."""
        have_begun = False
        while True:
            are_running = any(is_running(int(pid)) for _, pid in self.notes("pid"))
            have_begun |= are_running
            if not are_running and (have_begun or self.process.poll() is not None):
                return time.time()
            time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children_of(pid: int) -> list[int]:
    """Return the ids of the child processes of a process."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []
