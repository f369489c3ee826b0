"""A job of several ranks that is killed by SIGKILL and run again ends like an undisturbed one, bit for bit."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest
import torch
from killed_job import NUM_STEPS, NUM_TO_KEEP, PERIOD_STEPS, STEP_SECONDS
from torchrun import Job, Outcome, children_of

from d9d.loop.component.checkpoint.state_dict import split_state
from d9d.loop.component.checkpoint.storage import Checkpoint

SCRIPT = Path(__file__).with_name("killed_job.py")

Victim: TypeAlias = Literal["rank", "ranks", "launcher"]


class Run:
    """One training run, over all the jobs that it takes, each started by the same command.

    Attributes:
        num_kills: How often it was killed.
        num_kills_in_saves: How many of these fell inside a save: the folder that it writes to was there before the
            signals, and still there after them.
        num_saves_lost: How many saves were never complete.
        start_seconds: How long a job takes from its start to its first step.
        losses: All losses that ranks have noted, with their steps; those of steps that were repeated must agree.
    """

    def __init__(self, home: Path, num_ranks: int, *options: str, asynchronous: bool = False) -> None:
        self.home = home
        self.folder = home / "checkpoints"
        self.num_kills = self.num_kills_in_saves = self.num_saves_lost = 0
        self.start_seconds = 0.0
        self.losses: set[tuple[int, str]] = set()
        self._num_ranks = num_ranks
        self._options = options
        self._asynchronous = asynchronous
        self._leftovers: set[str] = set()

    def start(self) -> Job:
        """Start a job that continues the run."""
        return Job(SCRIPT, self.home, self._num_ranks, *self._options, asynchronous=self._asynchronous)

    def finish(self) -> None:
        """Continue the run to its end."""
        newest = self.num_steps_saved
        began, job = time.monotonic(), self.start()
        num_steps_begun = self._num_steps_begun(job)
        job.wait_for(lambda: self._num_steps_begun(job) > num_steps_begun or job.process.poll() is not None)
        self.start_seconds = time.monotonic() - began
        outcome = self.end(job)
        assert outcome.status == 0, outcome.output
        assert self._resumed_from(outcome) == newest

    def resume_and_kill(self, victim: Victim, moments: random.Random, *, in_save: bool) -> None:
        """Continue the run, and kill it; arguments as for `kill`."""
        newest = self.num_steps_saved
        job = self.start()
        self.kill(job, victim, moments, in_save=in_save)
        outcome = self.end(job)
        assert outcome.status != 0, outcome.output
        assert self._resumed_from(outcome) == newest

    def kill(self, job: Job, victim: Victim, moments: random.Random, *, in_save: bool) -> None:
        """Kill processes of a job that has just been started, in the first half of the rest of the run.

        Args:
            job: The job.
            victim: Which of its processes: one rank, all of them, or the launcher.
            moments: Says when.
            in_save: Whether to wait from that moment on for a save.
        """
        num_steps = moments.uniform(0, (NUM_STEPS - self.num_steps_saved) / 2)
        last = self._num_steps_begun(job) + int(num_steps)
        job.wait_for(lambda: self._num_steps_begun(job) > last)
        if in_save:
            while not self._saves() and job.process.poll() is None:
                time.sleep(0.0005)
            time.sleep(moments.uniform(0.0, 0.01))
        else:
            time.sleep(num_steps % 1 * 2 * STEP_SECONDS)
        saves = self._saves()
        for pid in self._pids(job, victim, moments):
            os.kill(pid, signal.SIGKILL)
        self.num_kills += 1
        self.num_kills_in_saves += bool(saves & self._saves())

    def start_and_kill(self, victim: Victim, moments: random.Random) -> None:
        """Start a job, and kill processes of it in its first step at the latest; arguments as for `kill`."""
        newest = self.num_steps_saved
        began, job = time.monotonic(), self.start()
        num_steps_begun, seconds = self._num_steps_begun(job), moments.uniform(0, self.start_seconds)
        while time.monotonic() - began < seconds and self._num_steps_begun(job) == num_steps_begun:
            time.sleep(0.01)
        for pid in self._started(job, victim, moments):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.num_kills += 1
        outcome = self.end(job)
        assert outcome.status != 0, outcome.output
        assert self._resumed_from(outcome) in (0, newest)

    def end(self, job: Job) -> Outcome:
        """Wait until all processes of a job are gone, and verify that every checkpoint is complete."""
        outcome = job.end()
        job.wait_for(lambda: not job.processes())
        assert [found.problem() for found in Checkpoint.list_in(self.folder) if found.problem() is not None] == []
        lost = self._saves()
        self.num_saves_lost += bool(lost)
        self._leftovers |= lost
        self.losses = set(job.notes("loss"))
        return outcome

    @property
    def num_steps_saved(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        return max((checkpoint.num_steps for checkpoint in Checkpoint.list_in(self.folder)), default=0)

    def state(self) -> tuple[dict[str, torch.Tensor], Any]:
        """Return all state at the end: weights, optimizer, schedule, task, and each generator of each rank."""
        return split_state(Checkpoint(self.folder / f"step-{NUM_STEPS}").read())

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights that the job itself had at its end."""
        weights: dict[str, torch.Tensor] = torch.load(self.home / "weights")
        return weights

    def _resumed_from(self, outcome: Outcome) -> int:
        """Return the step of the checkpoint that a job has logged to resume from; 0 if none."""
        loaded = [line.split("resumed from ")[1] for line in outcome.output.splitlines() if "resumed from " in line]
        assert len(loaded) <= 1
        return Checkpoint(Path(loaded[0])).num_steps if loaded else 0

    def _num_steps_begun(self, job: Job) -> int:
        return sum(rank == 0 for rank, _ in job.notes("step"))

    def _saves(self) -> set[str]:
        """Return the staging directories that exist, without those that earlier saves left."""
        with contextlib.suppress(FileNotFoundError):
            names = {path.name for path in self.folder.iterdir() if path.name.startswith(".staging-step-")}
            return names - self._leftovers
        return set()

    def _started(self, job: Job, victim: Victim, moments: random.Random) -> list[int]:
        """Return the ranks of a job that may not have started yet, or its launcher if it has none."""
        ranks = children_of(job.process.pid)
        if victim == "launcher" or not ranks:
            return [job.process.pid]
        return ranks if victim == "ranks" else [moments.choice(ranks)]

    def _pids(self, job: Job, victim: Victim, moments: random.Random) -> list[int]:
        if victim == "launcher":
            return [job.process.pid]
        newest = [int(pid) for pid in dict(job.notes("pid")).values()]
        return newest if victim == "ranks" else [moments.choice(newest)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Run]:
    """Return a run that is never killed, on a number of ranks."""
    runs: dict[int, Run] = {}

    def run_on(num_ranks: int) -> Run:
        if num_ranks not in runs:
            run = Run(tmp_path_factory.mktemp("undisturbed"), num_ranks)
            run.finish()
            runs[num_ranks] = run
        return runs[num_ranks]

    return run_on


def assert_same_end(run: Run, expected: Run) -> None:
    """Compare everything, bit for bit: the losses of all steps, the weights, and the rest of the state."""
    assert run.losses == expected.losses
    assert len(expected.losses) == NUM_STEPS * len({rank for rank, _ in expected.losses})
    (tensors, metadata), (expected_tensors, expected_metadata) = run.state(), expected.state()
    assert metadata == expected_metadata
    for found, wanted in ((run.weights(), expected.weights()), (tensors, expected_tensors)):
        assert found.keys() == wanted.keys()
        assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    assert sorted(path.name for path in run.folder.iterdir()) == [
        f"step-{NUM_STEPS - PERIOD_STEPS * number}" for number in reversed(range(NUM_TO_KEEP))
    ]


def test_a_job_killed_inside_a_save_ends_like_an_undisturbed_one(
    tmp_path: Path, undisturbed: Callable[[int], Run]
) -> None:
    """Both ranks are killed during a background save; slow tests kill one rank, and the launcher."""
    moments = random.Random(1)  # noqa: S311 -- not for secrets
    run = Run(tmp_path, 2, asynchronous=True)
    for _ in range(5):
        if not run.num_kills_in_saves:  # on a busy machine a save may end before the signals are sent
            run.resume_and_kill("ranks", moments, in_save=True)
    run.finish()

    assert run.num_kills_in_saves == 1
    assert_same_end(run, undisturbed(2))


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_job_killed_several_times_ends_like_an_undisturbed_one(
    seed: int, num_ranks: int, tmp_path: Path, undisturbed: Callable[[int], Run]
) -> None:
    """A job that is killed up to five times, every second time inside a save, ends with identical results."""
    moments = random.Random(seed)  # noqa: S311 -- not for secrets
    run = Run(tmp_path, num_ranks, asynchronous=seed % 2 == 1)
    victims: list[Victim] = ["ranks", "rank", "launcher"]
    for number in range(5):
        # Ranks outlive a killed launcher by up to a second, in which they may complete the run.
        if run.num_steps_saved < NUM_STEPS:
            run.resume_and_kill(victims[(seed + number) % 3], moments, in_save=number % 2 == 0)
    run.finish()

    print(  # noqa: T201 -- for people who count
        f"{num_ranks} ranks, seed {seed}: {run.num_kills} kills, {run.num_kills_in_saves} inside saves, "
        f"{run.num_saves_lost} saves lost"
    )
    assert run.num_kills >= 3
    assert run.num_kills_in_saves >= 1
    assert_same_end(run, undisturbed(num_ranks))


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_job_killed_while_it_starts_ends_like_an_undisturbed_one(
    num_ranks: int, tmp_path: Path, undisturbed: Callable[[int], Run]
) -> None:
    """A job is killed ten times: before its ranks exist, while they connect, and while they load the checkpoint."""
    moments = random.Random(num_ranks + 1)  # noqa: S311 -- not for secrets
    run = Run(tmp_path, num_ranks)
    run.start_seconds = undisturbed(num_ranks).start_seconds
    run.resume_and_kill("ranks", moments, in_save=False)
    assert run.num_steps_saved > 0
    victims: list[Victim] = ["ranks", "rank", "launcher"]
    for number in range(10):
        run.start_and_kill(victims[number % 3], moments)
    run.finish()

    assert_same_end(run, undisturbed(num_ranks))


@pytest.mark.slow
def test_a_job_restarted_by_its_launcher_ends_like_an_undisturbed_one(
    tmp_path: Path, undisturbed: Callable[[int], Run]
) -> None:
    """One rank is killed twice, and `--max-restarts` does the rest."""
    moments = random.Random(0)  # noqa: S311 -- not for secrets
    run = Run(tmp_path, 2, "--max-restarts", "2")
    job = run.start()
    run.kill(job, "rank", moments, in_save=True)
    job.wait_for(lambda: len([*job.notes("pid")]) == 4)
    run.kill(job, "rank", moments, in_save=False)
    outcome = run.end(job)

    assert outcome.status == 0, outcome.output
    assert len([*job.notes("pid")]) == 6
    assert "resumed from " in outcome.output
    assert_same_end(run, undisturbed(2))
