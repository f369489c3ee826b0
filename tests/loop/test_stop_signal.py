"""A single process that gets a stop signal, or that fails, with and without `launch`."""

import contextlib
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from declared import record, violation

from d9d.loop.component.failure import is_secondary_failure, print_from_rank
from d9d.loop.component.shutdown import SignalListener, StopRequest
from d9d.loop.config import CheckpointingConfig
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue import inference, train
from d9d.loop.run import launch

from .toy_job import (
    ToyInferenceTask,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    steps_saved,
    training_config,
)


def in_step(step: int, act: Callable[[], object], trace: list[str] | None = None) -> Callable[[EventBus], None]:
    """Make something happen in a step, and record all events of training."""

    def react(ctx: train.EventStepContext) -> None:
        if ctx.stepper.current_step == step:
            act()

    def listen(bus: EventBus) -> None:
        record(bus, train, [] if trace is None else trace)
        bus.subscribe(train.EVENT_TRAIN_FORWARD_BACKWARD_POST, react)

    return listen


def send(number: int) -> Callable[[], object]:
    """Return a function that sends a signal to this process."""
    return lambda: signal.raise_signal(number)


@pytest.mark.parametrize(
    ("number", "asynchronous"),
    [
        (signal.SIGTERM, False),
        (signal.SIGTERM, True),
        (signal.SIGUSR1, False),
        (signal.SIGINT, False),
        (signal.SIGHUP, False),
    ],
)
def test_a_signal_stops_training_one_step_later_with_a_checkpoint(
    number: int,
    asynchronous: bool,  # noqa: FBT001 -- a parameter of pytest
    tmp_path: Path,
) -> None:
    """All events of the step are triggered, but not the one of success; the exit status invites a retry."""
    trace: list[str] = []
    before = signal.getsignal(number)
    config = training_config(CheckpointingConfig(folder=tmp_path, asynchronous=asynchronous), total_steps=9)
    trainer = configure_training(config, task=ToyTask(in_step(4, send(number), trace)))

    with pytest.raises(StopRequest) as stop:
        trainer.train()

    assert stop.value.code == 75
    assert steps_saved(tmp_path) == [6]
    assert trace.count("train.step.post") == 6
    assert trace[-3:] == ["train.checkpoint.start", "train.checkpoint.saved", "train.closed"]
    assert violation("train", trace, complete=True) is None
    assert signal.getsignal(number) is before


def test_a_stopped_run_resumes(tmp_path: Path) -> None:
    """The same job, run again, trains the remaining steps."""
    config = training_config(CheckpointingConfig(folder=tmp_path), total_steps=5)
    with pytest.raises(StopRequest):
        configure_training(config, task=ToyTask(in_step(1, send(signal.SIGTERM)))).train()
    trace: list[str] = []

    configure_training(config, task=ToyTask(in_step(9, list, trace))).train()

    assert trace.count("train.step.post") == 2
    assert trace[-2:] == ["train.finished", "train.closed"]


def test_a_signal_in_the_last_step_changes_nothing(tmp_path: Path) -> None:
    """The run is complete, and triggers its last event."""
    trace: list[str] = []
    config = training_config(CheckpointingConfig(folder=tmp_path), total_steps=3)

    configure_training(config, task=ToyTask(in_step(2, send(signal.SIGTERM), trace))).train()

    assert trace[-2:] == ["train.finished", "train.closed"]


def test_a_signal_stops_inference_and_no_output_is_lost(tmp_path: Path) -> None:
    """The run resumes with the next sample."""

    def react(ctx: inference.EventStepContext) -> None:
        if ctx.stepper.current_step == 0:
            signal.raise_signal(signal.SIGTERM)

    def listen(bus: EventBus) -> None:
        bus.subscribe(inference.EVENT_INFERENCE_STEP_PRE, react)

    config = inference_config(CheckpointingConfig(folder=tmp_path))
    with pytest.raises(StopRequest):
        configure_inference(config, task=ToyInferenceTask(listen)).infer()
    task = ToyInferenceTask()

    configure_inference(config, task=task).infer()

    assert task.indices == list(range(12))


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """`nohup` or the parent process may have set it to be ignored."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    trace: list[str] = []
    try:
        configure_training(training_config(), task=ToyTask(in_step(1, send(signal.SIGUSR1), trace))).train()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert trace[-2:] == ["train.finished", "train.closed"]


def test_a_process_that_is_forked_in_a_step_can_be_ended() -> None:
    """The signal that ends it does not stop the run."""
    trace: list[str] = []
    statuses: list[int | None] = []

    def start_and_end() -> None:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
        child.start()
        child.terminate()
        child.join()
        statuses.append(child.exitcode)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        configure_training(training_config(), task=ToyTask(in_step(1, start_and_end, trace))).train()

    assert statuses == [-signal.SIGTERM]
    assert trace[-2:] == ["train.finished", "train.closed"]


def test_a_loop_in_another_thread_leaves_signals_alone() -> None:
    """In Python, only the main thread can handle them."""
    seen: list[object] = []
    trace: list[str] = []
    task = ToyTask(in_step(1, lambda: seen.append(signal.getsignal(signal.SIGTERM)), trace))
    thread = threading.Thread(target=configure_training(training_config(), task=task).train)
    thread.start()
    thread.join()

    assert seen == [signal.getsignal(signal.SIGTERM)]
    assert trace[-2:] == ["train.finished", "train.closed"]


SCRIPT = """
import signal, time
from tests.loop.toy_job import ToyTask, configure_training, training_config
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST
from d9d.loop.run import launch

def act(ctx):
    if ctx.stepper.current_step == 0:
        print("in the step", flush=True)
        {act}

def main():
    task = ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_STEP_POST, act))
    configure_training(training_config(), task=task).train()

if __name__ == "__main__":
    launch(main)
"""


def start(act: str) -> "subprocess.Popen[str]":
    """Start a script that runs `act` in its second step."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(act=act)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_without_torchrun_an_exception_is_raised_as_it_is() -> None:
    """Python prints it as it does in any script."""
    error = LookupError("the true cause")

    def fail() -> None:
        raise error

    with pytest.raises(LookupError) as raised:
        launch(configure_training(training_config(), task=ToyTask(in_step(1, fail))).train)

    assert raised.value is error


def test_a_script_that_stops_on_a_signal_has_its_own_exit_status() -> None:
    """It is 75, and there is no traceback."""
    with start("signal.raise_signal(signal.SIGTERM)") as process:
        _, errors = process.communicate()

    assert process.returncode == 75
    assert "Traceback" not in errors
    assert (
        "stopped after 2 of 3 steps on SIGTERM, with exit status 75: nothing was saved, since the run has no " in errors
    )


def test_a_run_that_was_saved_says_that_it_can_resume(
    every_step: CheckpointingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """By the same command."""
    config = training_config(every_step, total_steps=5)
    with pytest.raises(StopRequest):
        configure_training(config, task=ToyTask(in_step(1, send(signal.SIGTERM)))).train()

    assert "on SIGTERM, with exit status 75: run the same command again to resume" in caplog.text


def test_the_same_signal_again_ends_the_process_at_once() -> None:
    """The status is the one that the signal itself would have given it."""
    with start("time.sleep(1000)") as process:
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)

    assert process.returncode == 128 + signal.SIGTERM


def test_ctrl_c_again_stops_at_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The first one says so. The second one raises KeyboardInterrupt where the run is, without a checkpoint."""

    def interrupt_twice() -> None:
        send(signal.SIGINT)()
        while not caplog.messages:  # a thread says it
            time.sleep(0.01)
        send(signal.SIGINT)()
        time.sleep(10)
        pytest.fail("the second Ctrl-C did nothing")

    trace: list[str] = []
    config = training_config(CheckpointingConfig(folder=tmp_path), total_steps=9)
    with pytest.raises(KeyboardInterrupt):
        configure_training(config, task=ToyTask(in_step(1, interrupt_twice, trace))).train()

    assert "Ctrl-C: the run stops after the next step, with a checkpoint if it has any. Press it again" in caplog.text
    assert steps_saved(tmp_path) == []
    assert trace[-2:] == ["train.failed", "train.closed"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_are_received_in_a_process_with_thousands_of_open_files(caplog: pytest.LogCaptureFixture) -> None:
    """Each rank of a large job has a connection to each other one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as exits:
        exits.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
        for _ in range(1100):
            exits.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        with SignalListener(has_peers=False):
            signal.raise_signal(signal.SIGINT)
            deadline = time.monotonic() + 10
            while not caplog.messages and time.monotonic() < deadline:  # a thread says it
                time.sleep(0.01)

    assert "Ctrl-C: the run stops after the next step" in caplog.text


def test_ctrl_c_a_third_time_ends_a_process_that_does_not_get_to_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its main thread may be in an operation that never returns to Python."""
    now, statuses = [100.0], list[int]()
    monkeypatch.setattr("d9d.loop.component.shutdown.time.monotonic", lambda: now[0])
    monkeypatch.setattr("d9d.loop.component.shutdown.leave", statuses.append)
    listener = SignalListener(has_peers=False)
    left = []
    for _ in range(3):
        listener._receive(signal.SIGINT)
        left.append([*statuses])
        now[0] += 5.0

    assert left == [[], [], [128 + signal.SIGINT]]


@pytest.mark.parametrize(("seconds", "ends"), [(0.9, False), (1.0, True)])
def test_the_same_signal_within_a_second_is_the_same_request(
    seconds: float,
    ends: bool,  # noqa: FBT001 -- a parameter of pytest
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has come by two ways, from the scheduler and from the launcher."""
    now, statuses = [100.0], list[int]()
    monkeypatch.setattr("d9d.loop.component.shutdown.time.monotonic", lambda: now[0])
    monkeypatch.setattr("d9d.loop.component.shutdown.leave", statuses.append)
    listener = SignalListener(has_peers=False)
    listener._receive(signal.SIGTERM)
    now[0] += seconds
    listener._receive(signal.SIGTERM)

    assert statuses == ([128 + signal.SIGTERM] if ends else [])


@pytest.mark.parametrize("has_launcher", [True, False])
def test_sigterm_after_ctrl_c_is_a_second_ctrl_c_under_a_launcher(
    has_launcher: bool,  # noqa: FBT001 -- a parameter of pytest
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes from torchrun; in a script without a launcher it is another request to stop."""
    now, statuses = [100.0], list[int]()
    monkeypatch.setattr("d9d.loop.component.shutdown.time.monotonic", lambda: now[0])
    monkeypatch.setattr("d9d.loop.component.shutdown.leave", statuses.append)
    listener = SignalListener(has_peers=has_launcher)
    listener._receive(signal.SIGINT)
    now[0] += 1.0
    listener._receive(signal.SIGTERM)

    assert statuses == ([128 + signal.SIGTERM] if has_launcher else [])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"), True),
        (RuntimeError("[third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 2000ms"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (RuntimeError("Connection closed by peer"), False),
        (TimeoutError("timed out"), False),
        (LookupError("the true cause"), False),
    ],
)
def test_a_secondary_failure_is_recognized_by_its_message(error: Exception, expected: bool) -> None:  # noqa: FBT001 -- a parameter of pytest
    """These are messages of gloo; errors of user code may be similar."""
    assert is_secondary_failure(error) == expected


def test_the_earliest_error_decides_whether_a_failure_is_secondary() -> None:
    """A connection that is lost in `finally` does not hide the cause."""
    lost = RuntimeError("Application timeout caused pair closure")
    lost.__context__ = LookupError("the true cause")
    wrapped = RuntimeError("the save failed")
    wrapped.__cause__ = RuntimeError("Application timeout caused pair closure")

    interrupted = KeyboardInterrupt()
    interrupted.__context__ = wrapped

    assert not is_secondary_failure(lost)
    assert not is_secondary_failure(interrupted)
    assert is_secondary_failure(wrapped)


def test_a_signal_at_the_moment_at_which_a_loop_ends_is_received() -> None:
    """The launcher may end a rank just when its loop fails because it has lost another rank."""
    listener = SignalListener(has_peers=False)
    receiver, sender = socket.socketpair()
    with receiver, sender:
        sender.send(bytes([signal.SIGTERM, 0]))
        listener._run(receiver)

    assert listener.received == signal.SIGTERM


def test_a_failure_is_printed_after_the_lines_of_the_script(capfd: pytest.CaptureFixture[str]) -> None:
    """One process has no rank to name."""
    print_from_rank(None, "the true cause\n")

    assert capfd.readouterr().err == "the true cause\n"


@pytest.mark.parametrize("stream", [None, "closed"])
def test_printing_a_failure_to_a_lost_stream_raises_nothing(
    stream: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python has no stream where the process was started with `2>&-`."""
    with (tmp_path / "closed").open("w") as closed:
        pass
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None if stream is None else closed)

    print_from_rank(None, "the true cause\n")
