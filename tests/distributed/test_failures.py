"""What people see when something happens to a job under torchrun, and how soon all of it is gone."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from declared import violation
from torchrun import Job, Outcome, children_of, is_running

from d9d.loop.component.checkpoint.storage import Checkpoint

SCRIPT = Path(__file__).with_name("failing_job.py")


def run(home: Path, num_ranks: int = 2, **plan: Any) -> Outcome:
    """Run a job to its end."""
    home.mkdir(exist_ok=True)
    return Job(SCRIPT, home, num_ranks, **plan).end()


def steps_saved(home: Path) -> list[int]:
    """List how many steps were complete in each checkpoint, oldest first."""
    return sorted(checkpoint.num_steps for checkpoint in Checkpoint.list_in(home / "checkpoints"))


@pytest.fixture(scope="module")
def two_seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Two seconds, or more on a machine so busy that torchrun alone takes over a second.

    The measure is how long it takes to end a job of which one rank was killed: nothing of ours runs in it.
    """
    outcome = run(tmp_path_factory.mktemp("killed"), event="be_killed")
    assert "Signal 9 (SIGKILL) received" in outcome.output
    return max(2.0, 2 * outcome.seconds)


def assert_cause_on_top(outcome: Outcome, rank: int = 1) -> None:
    """Compare where the cause and anything else is told."""
    assert outcome.status != 0
    first = outcome.output.index("Traceback (most recent call last):")
    told = outcome.output[first:].split("W1", 1)[0]
    assert "LookupError: the true cause\n" in told
    assert f"on rank {rank} of " in told
    assert "Connection closed" not in outcome.output
    root_cause = outcome.output.split("Root Cause (first observed failure):")[1]
    assert f"rank      : {rank} " in root_cause
    assert "LookupError: the true cause\n" in root_cause


def test_what_is_raised_on_one_rank_ends_the_job_even_where_it_would_wait_on_the_way_out(
    tmp_path: Path, two_seconds: float
) -> None:
    """While the other is in a collective operation of the step, this one would wait for it in `finally`."""
    outcome = run(tmp_path, event="fail", finally_="meet")

    assert_cause_on_top(outcome)
    assert outcome.seconds < two_seconds


@pytest.mark.slow
@pytest.mark.parametrize(("num_ranks", "rank"), [(2, 0), (2, 1), (4, 2)])
@pytest.mark.parametrize("finally_", ["", "meet", "tear_down"])
def test_what_is_raised_on_any_rank_ends_the_job(
    num_ranks: int, rank: int, finally_: str, tmp_path: Path, two_seconds: float
) -> None:
    """Whatever is done on the way out."""
    outcome = run(tmp_path, num_ranks, event="fail", rank=rank, finally_=finally_, num_workers=1)

    assert_cause_on_top(outcome, rank)
    assert outcome.seconds < two_seconds * num_ranks / 2


@pytest.mark.slow
def test_what_all_ranks_raise_alike_may_be_caught(tmp_path: Path) -> None:
    """Nobody waits for anybody then, and the job goes on."""
    outcome = run(tmp_path, event="fail", rank=None, catches=True)

    assert outcome.status == 0, outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.slow
def test_what_one_rank_catches_ends_the_job_all_the_same(tmp_path: Path, two_seconds: float) -> None:
    """The others are in the middle of a step, and would wait for it."""
    outcome = run(tmp_path, event="fail", catches=True)

    assert_cause_on_top(outcome)
    assert outcome.seconds < two_seconds


@pytest.mark.slow
def test_ctrl_c_ends_the_job(tmp_path: Path, two_seconds: float) -> None:
    """While one rank waits for the other."""
    job = Job(SCRIPT, tmp_path, 2, event="hang")
    job.wait_for(lambda: any(True for _ in job.notes("at")))
    asked_at = time.time()
    job.process.send_signal(signal.SIGINT)
    job.end()

    assert time.time() - asked_at < 2 * two_seconds  # torchrun itself included


@pytest.mark.slow
def test_a_rank_that_leaves_with_a_status_of_its_own_ends_the_job(tmp_path: Path, two_seconds: float) -> None:
    """`sys.exit` on one rank leaves no other waiting; torchrun tells the status."""
    outcome = run(tmp_path, event="leave")

    assert "[rank 1 of 2] left with exit status 3\n" in outcome.output
    assert "exitcode  : 3 " in outcome.output.split("Root Cause (first observed failure):")[1]
    assert outcome.seconds < two_seconds


@pytest.mark.parametrize(
    ("num_ranks", "rank"),
    [(2, 1), pytest.param(2, 0, marks=pytest.mark.slow), pytest.param(4, 2, marks=pytest.mark.slow)],
)
def test_a_rank_that_hangs_is_named(num_ranks: int, rank: int, tmp_path: Path) -> None:
    """When the others have waited for as long as a step may; with the line of code where it hangs."""
    outcome = run(tmp_path, num_ranks, event="hang", rank=rank, step_seconds=3.0)

    named = f"rank {rank} of {num_ranks} told nothing while this one gave up: look there, for what hangs or was killed"
    assert outcome.output.index(named) < outcome.output.index("Traceback (most recent call last):")
    assert named in outcome.output.split("Root Cause (first observed failure):")[1]
    hanging = outcome.output.split(f"[rank {rank} of {num_ranks}] others waited in vain while this rank was here:")[1]
    assert "time.sleep(1000)" in hanging.split("W1", 1)[0].split("====", 1)[0]
    # The timeout, five seconds for others to tell, and not the half minute that torchrun gives to processes that stay.
    assert outcome.seconds < 25


def test_a_signal_to_one_rank_stops_all_after_one_step_and_the_job_goes_on_from_there(tmp_path: Path) -> None:
    """Each has its events in order, there is a checkpoint of the step, and the exit status is 75."""
    job = Job(SCRIPT, tmp_path, 2, event="be_terminated", step=4, num_steps=12)
    stopped = job.end()
    last = steps_saved(tmp_path)[-1]

    assert last in (5, 6)
    assert f"stopped after {last} of 12 steps on SIGTERM, with exit status 75" in stopped.output
    assert "exitcode  : 75 " in stopped.output.split("Root Cause (first observed failure):")[1]
    for rank in (0, 1):
        events = job.events(rank)
        assert violation("train", events, complete=False) is None
        assert events.count("train.step.post") == last
        assert events[-1] == "train.step.post"

    went_on = run(tmp_path, num_steps=12)

    assert went_on.status == 0
    assert job.events(0).count("train.step.post") == 12
    assert steps_saved(tmp_path)[-1] == 12


@pytest.mark.slow
@pytest.mark.parametrize("infers", [False, True])
def test_the_launcher_passes_a_request_on(infers: bool, tmp_path: Path) -> None:  # noqa: FBT001 -- a parameter of pytest
    """SIGTERM to torchrun stops all ranks after the same step; inference likewise."""
    job = Job(SCRIPT, tmp_path, 2, num_steps=10_000, infers=infers, num_workers=1, event="go_on", step=3)
    job.wait_for(lambda: any(True for _ in job.notes("at")))
    job.process.send_signal(signal.SIGTERM)
    outcome = job.end()

    name = "inference" if infers else "train"
    counts = {job.events(rank).count(f"{name}.step.post") for rank in (0, 1)}
    assert counts == {steps_saved(tmp_path)[-1]}
    assert "on SIGTERM, with exit status 75" in outcome.output
    assert violation(name, job.events(0), complete=False) is None


@pytest.mark.slow
def test_slurm_s_signal_stops_inference(tmp_path: Path) -> None:
    """SIGUSR1 to a rank and to its workers; these go on reading for the steps that are left."""
    job = Job(SCRIPT, tmp_path, 2, num_steps=10_000, infers=True, num_workers=2, event="go_on", step=3)
    job.wait_for(lambda: any(True for _ in job.notes("at")))
    pids = [int(pid) for _, pid in job.notes("pid")]
    for pid in [*itertools.chain.from_iterable(map(children_of, pids)), *pids]:
        os.kill(pid, signal.SIGUSR1)
    outcome = job.end()

    assert "on SIGUSR1, with exit status 75" in outcome.output
    assert job.events(0)[-1] == "inference.step.post"


@pytest.mark.slow
def test_a_job_that_fails_again_and_again_is_restarted_and_comes_to_its_end(tmp_path: Path) -> None:
    """Six of six restarts go on from the newest checkpoint."""
    job = Job(SCRIPT, tmp_path, 2, "--max-restarts", "6", event="fail", num_lives=6, step=2, num_steps=10)
    outcome = job.end()

    assert outcome.status == 0
    assert len([*job.notes("at")]) == 6
    assert outcome.output.count("LookupError: the true cause") >= 6
    assert steps_saved(tmp_path)[-1] == 10
    assert job.events(0).count("train.finished") == 1


def test_nothing_outlives_a_killed_launcher(tmp_path: Path) -> None:
    """Ranks in the middle of a step end themselves within a second, and so do the processes that read data."""
    job = Job(SCRIPT, tmp_path, 2, event="hang", num_workers=1)
    job.wait_for(lambda: any(True for _ in job.notes("at")))
    ranks = [int(pid) for _, pid in job.notes("pid")]
    started = [*ranks, *itertools.chain.from_iterable(map(children_of, ranks))]
    assert len(started) == 4
    job.process.kill()
    job.end()

    job.wait_for(lambda: not any(map(is_running, started)))


def test_a_rank_whose_launcher_was_killed_before_it_could_look_ends() -> None:
    """What is its parent then would never end; the launcher's store says so."""
    with socket.create_server(("localhost", 0)) as closed:
        port = closed.getsockname()[1]
    script = "from d9d.loop.run import launch; launch(lambda: print('running'))"
    launched = {
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }

    rank = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **launched}, capture_output=True, text=True, check=False
    )

    assert rank.returncode == 1
    assert rank.stdout == ""
    assert rank.stderr == "the launcher is gone: its store does not answer; start the job again\n"
