"""A run that is killed by SIGKILL and run again ends like an undisturbed one, bit for bit, in all of its state."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from declared import declared_ids, declared_run, violation

from d9d.loop.component.checkpoint.state_dict import split_state
from d9d.loop.component.checkpoint.storage import Checkpoint

from .endurance import EVALUATION_STEPS, IN_EVALUATION, NUM_STEPS, PERIOD_STEPS
from .toy_job import same_tensors, steps_saved

KILLED = -signal.SIGKILL
STEP_EVENTS = [
    event_id
    for event_id in declared_ids("train")
    # Only a caller between two steps makes a run sleep and wake.
    if event_id.endswith((".pre", ".post")) and event_id.split(".")[1] not in {"sleep", "wake"}
]


def is_running(pid: int) -> bool:
    """Return whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Processes:
    """Starts training processes from a process that has imported torch already."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("endurance.py")
        self._server = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def start(self, **arguments: Any) -> int:
        """Start a process, and return its id."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(arguments) + "\n")
        return self._read()

    def wait(self) -> int:
        """Wait for the process that was started last, and return its exit status."""
        return self._read()

    def close(self) -> None:
        """End the process that starts the others."""
        with self._server as server:
            assert server.stdin is not None
            server.stdin.close()
            server.wait()

    def _read(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


class Run:
    """A training run over all of its processes."""

    def __init__(self, processes: Processes, home: Path) -> None:
        self._processes = processes
        self.folder = home / "checkpoints"
        self._home = home
        self.num_processes = 0
        self.num_kills_in_saves = 0
        self._leftovers: set[tuple[str, int]] = set()

    def resume(self, *, kill_after: tuple[int, float] | None = None, **arguments: Any) -> int:
        """Run on, in a new process, and return its exit status.

        Args:
            kill_after: Kills the process from outside, so many events after its start and so many seconds after those.
            **arguments: More arguments of the process.
        """
        self.num_processes += 1
        trace = self._home / f"trace-{self.num_processes}"
        pid = self._processes.start(folder=str(self.folder), trace=str(trace), **arguments)
        if kill_after is not None:
            num_events, seconds = kill_after
            while is_running(pid) and not (trace.exists() and trace.read_text().count("\n") >= num_events):
                time.sleep(0.001)
            time.sleep(seconds)
            with contextlib.suppress(ProcessLookupError):  # it may have ended on its own
                os.kill(pid, signal.SIGKILL)
        status = self._processes.wait()
        leftovers = {(path.name, path.stat().st_ctime_ns) for path in self.folder.glob(".staging-*")}
        self.num_kills_in_saves += bool(leftovers - self._leftovers)
        self._leftovers = leftovers
        self._verify(trace, status)
        return status

    def _verify(self, trace: Path, status: int) -> None:
        """Verify that a process, killed or not, left everything in order."""
        ids = trace.read_text().split() if trace.exists() else []
        assert status in (0, KILLED)
        assert violation("train", ids, complete=status == 0) is None
        assert [checkpoint.problem() for checkpoint in Checkpoint.list_in(self.folder)] == [None] * len(
            steps_saved(self.folder)
        )

    def state(self) -> dict[str, Any]:
        """Read all state of the finished run."""
        return Checkpoint(self.folder / f"step-{NUM_STEPS}").read()


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """The process that starts the others."""
    processes = Processes()
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def undisturbed(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that is never killed."""
    run = Run(processes, tmp_path_factory.mktemp("undisturbed"))
    assert run.resume() == 0
    return run


@pytest.fixture
def run(processes: Processes, tmp_path: Path) -> Run:
    """A run that has not started."""
    return Run(processes, tmp_path)


def assert_same_end(run: Run, undisturbed: Run) -> None:
    """Compare all state: weights, optimizer, scheduler, task, step, and each random number generator."""
    tensors, metadata = split_state(run.state())
    expected_tensors, expected_metadata = split_state(undisturbed.state())
    assert metadata == expected_metadata
    assert same_tensors(tensors, expected_tensors)
    assert not list(run.folder.glob(".staging-*"))
    assert steps_saved(run.folder) == [NUM_STEPS - PERIOD_STEPS, NUM_STEPS]


def test_the_run_uses_every_random_number_generator(undisturbed: Run) -> None:
    """The run draws from torch, Python and NumPy, so equal results show that all of them are restored."""
    early = Checkpoint(undisturbed.folder / f"step-{NUM_STEPS - PERIOD_STEPS}").read()
    late = undisturbed.state()

    assert not same_tensors(early["model"], late["model"])
    before, after = (state["random"]["rank-0"] for state in (early, late))
    assert not torch.equal(before["torch"], after["torch"])
    assert not torch.equal(before["python"]["internal"], after["python"]["internal"])
    assert before["numpy"]["rest"] != after["numpy"]["rest"]


def test_a_run_killed_in_handlers_ends_like_an_undisturbed_one(run: Run, undisturbed: Run) -> None:
    """A run that is killed several times, at different events, ends with identical results."""
    kills = [
        ("train.step.pre", 0),
        ("train.forward_backward.post", 4),
        ("train.optimizer_step.pre", 17),
        ("train.optimizer_step.post", 18),
        ("train.step.post", NUM_STEPS - 1),
    ]

    statuses = [run.resume(kill_at=kill) for kill in kills]

    assert statuses == [KILLED] * len(kills)
    assert run.resume() == 0
    assert_same_end(run, undisturbed)


@pytest.mark.parametrize(
    ("stride", "asynchronous"),
    [
        (4, False),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(1, True, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_operations_of_saves_ends_like_an_undisturbed_one(
    run: Run, undisturbed: Run, *, stride: int, asynchronous: bool
) -> None:
    """Killed before changes to the files of checkpoints; with stride 1, before each change that a save makes."""
    num_kills = 0
    while run.resume(kill_in_nth_operation=1 + num_kills * stride, asynchronous=asynchronous) == KILLED:
        num_kills += 1

    assert run.num_kills_in_saves > 15 / stride
    assert_same_end(run, undisturbed)


@pytest.mark.parametrize("asynchronous", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_like_an_undisturbed_one(
    run: Run, undisturbed: Run, *, asynchronous: bool
) -> None:
    """A run that another process kills ends with identical results, with synchronous and background saves."""
    delays = random.Random(0)  # noqa: S311 -- not for secrets
    statuses = [
        run.resume(kill_after=(delays.randrange(80), delays.uniform(0.0, 0.03)), asynchronous=asynchronous)
        for _ in range(5)
    ]

    assert KILLED in statuses
    assert run.resume(asynchronous=asynchronous) == 0
    assert_same_end(run, undisturbed)


@pytest.mark.parametrize("step", [0, 6 * EVALUATION_STEPS, NUM_STEPS])
def test_a_run_killed_in_an_evaluation_ends_like_an_undisturbed_one(run: Run, undisturbed: Run, step: int) -> None:
    """At the start, after a step that is not saved yet, and at the end; the results are in the state too."""
    assert run.resume(kill_at=(IN_EVALUATION, step)) == KILLED
    assert run.resume() == 0
    assert_same_end(run, undisturbed)


def test_a_finished_run_that_is_run_again_trains_no_step(run: Run, undisturbed: Run, tmp_path: Path) -> None:
    """A new process finds the run complete, and writes nothing."""
    assert run.resume() == 0
    files = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}

    assert run.resume() == 0
    trace = (tmp_path / "trace-2").read_text().split()
    assert [event_id for event_id in trace if event_id != "train.checkpoint.loaded"] == declared_run(
        "train", num_steps=0
    )
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == files
    assert_same_end(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(NUM_STEPS))
def test_a_run_killed_at_any_step_ends_like_an_undisturbed_one(run: Run, undisturbed: Run, step: int) -> None:
    """A run that is killed at some event of a step ends with identical results."""
    event_id = STEP_EVENTS[step % len(STEP_EVENTS)]

    assert run.resume(kill_at=(event_id, step)) == KILLED
    assert run.resume() == 0
    assert_same_end(run, undisturbed)


@pytest.mark.slow
def test_a_run_killed_at_every_step_in_turn_ends_like_an_undisturbed_one(run: Run, undisturbed: Run) -> None:
    """A run that is killed once in each of its sixty steps ends with identical results."""
    statuses = [run.resume(kill_at=("train.optimizer_step.post", step)) for step in range(NUM_STEPS)]

    assert statuses == [KILLED] * NUM_STEPS
    assert run.resume() == 0
    assert_same_end(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_runs_killed_at_many_random_moments_end_like_an_undisturbed_one(run: Run, undisturbed: Run, seed: int) -> None:
    """A run that another process kills eight times, or until it finishes, ends with identical results."""
    delays = random.Random(seed)  # noqa: S311 -- not for secrets
    for _ in range(8):
        run.resume(kill_after=(delays.randrange(8), delays.uniform(0.0, 0.1)))

    assert run.resume() == 0
    assert_same_end(run, undisturbed)
