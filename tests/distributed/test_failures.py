"""What users see when a job under torchrun fails, hangs or is stopped, and how soon all of its processes are gone."""

import itertools
import os
import re
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
SLOW = pytest.mark.slow


def run(home: Path, num_ranks: int = 2, **plan: Any) -> Outcome:
    """Run a job to its end."""
    home.mkdir(exist_ok=True)
    return Job(SCRIPT, home, num_ranks, **plan).end()


def steps_saved(home: Path) -> list[int]:
    """Return how many steps were complete in each checkpoint, oldest first."""
    return sorted(checkpoint.num_steps for checkpoint in Checkpoint.list_in(home / "checkpoints"))


@pytest.fixture(scope="module")
def two_seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Two seconds, or more on a machine that is so busy that torchrun alone takes over half a second.

    The measure is how long torchrun takes to end a job of which one rank was killed, in which no code of d9d runs.
    """
    outcome = run(tmp_path_factory.mktemp("killed"), event="be_killed")
    assert "Signal 9 (SIGKILL) received" in outcome.output
    return max(2.0, 4 * outcome.seconds)


def before_log_of_torchrun(output: str) -> str:
    """Return the lines before the first log line of torchrun."""
    return re.split(r"^[WE]\d{4} ", output, maxsplit=1, flags=re.MULTILINE)[0]


def assert_cause_on_top(outcome: Outcome, rank: int = 1) -> None:
    """Check that the cause comes first, and once more at the end."""
    assert outcome.status != 0
    first = outcome.output.index("Traceback (most recent call last):")
    reported = before_log_of_torchrun(outcome.output[first:])
    assert "LookupError: the true cause\n" in reported
    assert f"on rank {rank} of " in reported
    assert "Connection closed" not in outcome.output
    root_cause = outcome.output.split("Root Cause (first observed failure):")[1]
    assert f"rank      : {rank} " in root_cause
    assert "LookupError: the true cause\n" in root_cause


def test_an_error_on_one_rank_ends_the_job_even_if_finally_waits_for_other_ranks(
    tmp_path: Path, two_seconds: float
) -> None:
    """This rank waits in `finally` for the other one, which is in a collective operation of the step."""
    outcome = run(tmp_path, event="fail", finally_="meet")

    assert_cause_on_top(outcome)
    assert outcome.seconds < two_seconds


@pytest.mark.slow
@pytest.mark.parametrize(("num_ranks", "rank"), [(2, 0), (2, 1), (4, 2)])
@pytest.mark.parametrize("finally_", ["", "meet", "tear_down"])
def test_an_error_on_any_rank_ends_the_job(
    num_ranks: int, rank: int, finally_: str, tmp_path: Path, two_seconds: float
) -> None:
    """It does not matter what `finally` does."""
    outcome = run(tmp_path, num_ranks, event="fail", rank=rank, finally_=finally_, num_workers=1)

    assert_cause_on_top(outcome, rank)
    assert outcome.seconds < two_seconds * num_ranks / 2


def test_the_handlers_of_a_failure_have_time_to_close(tmp_path: Path) -> None:
    """The job ends when they are done, and the last event is triggered after them; the cause is reported as ever."""
    job = Job(SCRIPT, tmp_path, 2, event="fail", closes="rest")
    outcome = job.end()

    assert_cause_on_top(outcome)
    assert [note for rank, note in job.notes("closed") if rank == 1] == ["rest"]
    failed = [note for rank, note in job.notes("failed") if rank == 1]
    assert failed == ["train.forward_backward.pre LookupError('the true cause')"]
    assert job.events(1)[-2:] == ["train.failed", "train.closed"]
    assert outcome.seconds < 3 + 10  # not the half minute that torchrun gives to its processes


ENDS = {"train.failed", "train.closed"}


def ends(job: Job, rank: int) -> list[str]:
    """Return which of the last two events a rank triggered."""
    return [event for event in job.events(rank) if event in ENDS]


@pytest.mark.parametrize(
    ("event", "on_rank_0", "on_rank_1"),
    [
        # The launcher ends rank 0 as soon as rank 1 is gone, so it may not get that far.
        ("fail", [[], ["train.failed", "train.closed"]], ["train.failed", "train.closed"]),
        pytest.param("leave", [[], ["train.failed", "train.closed"]], ["train.failed", "train.closed"], marks=SLOW),
        pytest.param("be_killed", [["train.failed", "train.closed"]], [], marks=SLOW),
        pytest.param("hang", [["train.failed", "train.closed"]], [], marks=SLOW),
        pytest.param("be_terminated", [["train.closed"]], ["train.closed"], marks=SLOW),
        pytest.param("", [["train.closed"]], ["train.closed"], marks=SLOW),
    ],
)
def test_the_last_events_come_on_the_ranks_that_the_guide_names(
    event: str, on_rank_0: list[list[str]], on_rank_1: list[str], tmp_path: Path
) -> None:
    """On each rank whose main thread gets control back."""
    job = Job(SCRIPT, tmp_path, 2, event=event, step_seconds=5.0 if event == "hang" else 60.0)
    job.end()

    assert ends(job, 1) == on_rank_1
    assert ends(job, 0) in on_rank_0


@pytest.mark.slow
def test_a_handler_of_a_failure_that_fails_does_not_hide_the_cause(tmp_path: Path, two_seconds: float) -> None:
    """Its own error is a note of the first one, and the last event is triggered all the same."""
    job = Job(SCRIPT, tmp_path, 2, event="fail", closes="fail_too")
    outcome = job.end()

    assert_cause_on_top(outcome)
    assert "OSError: the tracker is gone" in outcome.output
    assert job.events(1)[-1] == "train.closed"
    assert outcome.seconds < two_seconds


@pytest.mark.slow
def test_a_handler_of_a_failure_that_hangs_is_left_behind(tmp_path: Path, two_seconds: float) -> None:
    """The job ends after `closing_seconds`."""
    outcome = run(tmp_path, event="fail", closes="hang", closing_seconds=3.0)

    assert_cause_on_top(outcome)
    assert 3 < outcome.seconds < 3 + two_seconds


@pytest.mark.slow
def test_an_error_that_all_ranks_raise_can_be_caught(tmp_path: Path) -> None:
    """No rank waits for another, and the job continues."""
    outcome = run(tmp_path, event="fail", rank=None, catches=True)

    assert outcome.status == 0, outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.slow
def test_an_error_that_one_rank_catches_still_ends_the_job(tmp_path: Path, two_seconds: float) -> None:
    """The others are in the middle of a step, and would wait for this rank."""
    outcome = run(tmp_path, event="fail", catches=True)

    assert_cause_on_top(outcome)
    assert outcome.seconds < two_seconds


@pytest.mark.slow
def test_ctrl_c_ends_a_job_that_cannot_complete_its_step(tmp_path: Path, two_seconds: float) -> None:
    """One rank waits for the other, which hangs. torchrun gives them half a minute to do as they were asked."""
    job = Job(SCRIPT, tmp_path, 2, event="hang")
    job.wait_for(lambda: any(True for _ in job.notes("at")))
    asked_at = time.time()
    job.process.send_signal(signal.SIGINT)
    job.end()

    assert time.time() - asked_at < 30 + 2 * two_seconds  # torchrun itself included


def test_a_second_ctrl_c_ends_a_job_at_once(tmp_path: Path, two_seconds: float) -> None:
    """A terminal sends it to the launcher alone, which sends SIGTERM to the ranks, and would wait for half a minute."""
    job = Job(SCRIPT, tmp_path, 2, event="hang")
    job.wait_for(lambda: any(True for _ in job.notes("at")))
    ranks = [int(pid) for _, pid in job.notes("pid")]
    os.killpg(job.process.pid, signal.SIGINT)
    time.sleep(2)
    assert all(map(is_running, ranks))
    asked_at = time.time()
    os.killpg(job.process.pid, signal.SIGINT)
    job.end()

    assert time.time() - asked_at < 2 * two_seconds  # torchrun itself included
    assert not any(map(is_running, ranks))
    assert steps_saved(tmp_path) == [2]


@pytest.mark.slow
def test_sys_exit_on_one_rank_ends_the_job(tmp_path: Path, two_seconds: float) -> None:
    """No other rank is left waiting; torchrun reports the exit status."""
    outcome = run(tmp_path, event="leave")

    assert "[rank 1 of 2] left with exit status 3\n" in outcome.output
    assert "exitcode  : 3 " in outcome.output.split("Root Cause (first observed failure):")[1]
    assert outcome.seconds < two_seconds


@pytest.mark.parametrize(
    ("num_ranks", "rank"),
    [(2, 1), pytest.param(2, 0, marks=pytest.mark.slow), pytest.param(4, 2, marks=pytest.mark.slow)],
)
def test_a_rank_that_hangs_is_named(num_ranks: int, rank: int, tmp_path: Path) -> None:
    """The others name it when they have waited for `step_seconds`, and it prints the line of code where it hangs."""
    outcome = run(tmp_path, num_ranks, event="hang", rank=rank, step_seconds=5.0)

    named = (
        f"this rank gave up waiting for rank {rank} of {num_ranks}, which did not respond: look there for code that "
    )
    assert outcome.output.index(named) < outcome.output.index("Traceback (most recent call last):")
    assert named in outcome.output.split("Root Cause (first observed failure):")[1]
    hanging = outcome.output.split(
        f"[rank {rank} of {num_ranks}] other ranks gave up waiting for this one while it was here:"
    )[1]
    assert "time.sleep(1000)" in before_log_of_torchrun(hanging).split("====", 1)[0]
    # The timeout and five seconds for others to report, but not the half minute that torchrun gives to its processes.
    assert outcome.seconds < 35


def test_a_rank_that_hangs_is_named_while_the_others_wait_for_a_device(tmp_path: Path) -> None:
    """Their main threads do not get to the point where ranks agree; the watchdog of NCCL would name no rank."""
    outcome = run(tmp_path, event="hang", step=4, step_seconds=5.0, waits_on_device=True)  # no save follows

    named = "this rank gave up waiting for rank 1 of 2, which did not respond: look there for code that "
    assert named in outcome.output
    assert "meanwhile the main thread of this rank was here:\n" in outcome.output
    assert outcome.seconds < 35


def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path: Path) -> None:
    """Each rank has its events in order, there is a checkpoint of the step, and the exit status is 75."""
    job = Job(SCRIPT, tmp_path, 2, event="be_terminated", step=4, num_steps=12)
    stopped = job.end()
    last = steps_saved(tmp_path)[-1]

    assert last in (6, 7)
    assert f"stopped after {last} of 12 steps on SIGTERM, with exit status 75" in stopped.output
    assert "exitcode  : 75 " in stopped.output.split("Root Cause (first observed failure):")[1]
    for rank in (0, 1):
        events = job.events(rank)
        assert violation("train", events, complete=True) is None
        assert events.count("train.step.post") == last
        assert events[-1] == "train.closed"


@pytest.mark.slow
def test_a_job_that_was_stopped_resumes(tmp_path: Path) -> None:
    """All ranks train the remaining steps."""
    stopped = run(tmp_path, event="be_terminated", step=4, num_steps=12)
    assert "with exit status 75" in stopped.output

    job = Job(SCRIPT, tmp_path, 2, num_steps=12)
    resumed = job.end()

    assert resumed.status == 0
    assert job.events(0).count("train.step.post") == 12
    assert steps_saved(tmp_path)[-1] == 12


@pytest.mark.slow
@pytest.mark.parametrize("infers", [False, True])
def test_the_launcher_forwards_a_stop_signal(infers: bool, tmp_path: Path) -> None:  # noqa: FBT001 -- a parameter of pytest
    """SIGTERM to torchrun stops all ranks after the same step, in training and in inference."""
    job = Job(SCRIPT, tmp_path, 2, num_steps=10_000, infers=infers, num_workers=1, event="do_nothing", step=3)
    job.wait_for(lambda: any(True for _ in job.notes("at")))
    job.process.send_signal(signal.SIGTERM)
    outcome = job.end()

    name = "inference" if infers else "train"
    counts = {job.events(rank).count(f"{name}.step.post") for rank in (0, 1)}
    assert counts == {steps_saved(tmp_path)[-1]}
    assert "on SIGTERM, with exit status 75" in outcome.output
    assert violation(name, job.events(0), complete=False) is None


@pytest.mark.slow
def test_the_signal_of_slurm_stops_inference(tmp_path: Path) -> None:
    """Ranks and their workers get SIGUSR1; the workers continue to read for the remaining steps, and the run saves."""
    job = Job(SCRIPT, tmp_path, 2, num_steps=10_000, infers=True, num_workers=2, event="do_nothing", step=3)
    job.wait_for(lambda: any(True for _ in job.notes("at")))
    pids = [int(pid) for _, pid in job.notes("pid")]
    for pid in [*itertools.chain.from_iterable(map(children_of, pids)), *pids]:
        os.kill(pid, signal.SIGUSR1)
    outcome = job.end()

    assert "on SIGUSR1, with exit status 75" in outcome.output
    assert job.events(0)[-2:] == ["inference.checkpoint.saved", "inference.closed"]


@pytest.mark.slow
def test_a_job_that_fails_six_times_is_restarted_and_finishes(tmp_path: Path) -> None:
    """Each restart resumes from the newest checkpoint."""
    job = Job(SCRIPT, tmp_path, 2, "--max-restarts", "6", event="fail", num_attempts=6, step=2, num_steps=10)
    outcome = job.end()

    assert outcome.status == 0
    assert len([*job.notes("at")]) == 6
    assert outcome.output.count("LookupError: the true cause") >= 6
    assert steps_saved(tmp_path)[-1] == 10
    assert job.events(0).count("train.finished") == 1


def test_nothing_outlives_a_killed_launcher(tmp_path: Path) -> None:
    """Ranks in the middle of a step end by themselves, and so do the processes that read data."""
    job = Job(SCRIPT, tmp_path, 2, event="hang", num_workers=1)
    job.wait_for(lambda: any(True for _ in job.notes("at")))
    ranks = [int(pid) for _, pid in job.notes("pid")]
    started = [*ranks, *itertools.chain.from_iterable(map(children_of, ranks))]
    assert len(started) == 4
    job.process.kill()
    job.end()

    job.wait_for(lambda: not any(map(is_running, started)))


def test_a_rank_whose_launcher_was_killed_before_it_started_ends() -> None:
    """Its parent is then a process that never ends; the launcher's store does not answer."""
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
