"""A process alone that is asked to stop, or that fails, and what `launch` does for it."""

import multiprocessing
import os
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

from d9d.loop.component.failure import is_secondary_failure
from d9d.loop.component.shutdown import StopRequest, StopSignal
from d9d.loop.config import CheckpointingConfig
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue import inference, train

from .toy_job import (
    ToyInferenceTask,
    ToyTask,
    configure_inference,
    configure_training,
    cpu_context,
    inference_config,
    steps_saved,
    training_config,
)


def in_step(step: int, act: Callable[[], object], trace: list[str] | None = None) -> Callable[[EventBus], None]:
    """Have something happen in a step, and note all events of training."""

    def react(ctx: train.EventStepContext) -> None:
        if ctx.stepper.current_step == step:
            act()

    def listen(bus: EventBus) -> None:
        record(bus, train, [] if trace is None else trace)
        bus.subscribe(train.EVENT_TRAIN_FORWARD_BACKWARD_POST, react)

    return listen


def ask(number: int) -> Callable[[], object]:
    """Return what sends this process a signal."""
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_training_after_its_step_with_a_checkpoint(
    number: int,
    asynchronous: bool,  # noqa: FBT001 -- a parameter of pytest
    tmp_path: Path,
) -> None:
    """All events of the step are triggered, and none that would claim success; the status invites to try again."""
    trace: list[str] = []
    before = signal.getsignal(number)
    config = training_config(CheckpointingConfig(folder=tmp_path, asynchronous=asynchronous), total_steps=9)
    trainer = configure_training(config, task=ToyTask(in_step(4, ask(number), trace)))

    with pytest.raises(StopRequest) as stop:
        trainer.train()

    assert stop.value.code == 75
    assert steps_saved(tmp_path) == [5]
    assert trace.count("train.step.post") == 5
    assert trace[-1] == "train.step.post"
    assert violation("train", trace, complete=False) is None
    assert signal.getsignal(number) is before


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    """The same job run again trains the steps that are left."""
    config = training_config(CheckpointingConfig(folder=tmp_path), total_steps=5)
    with pytest.raises(StopRequest):
        configure_training(config, task=ToyTask(in_step(1, ask(signal.SIGTERM)))).train()
    trace: list[str] = []

    configure_training(config, task=ToyTask(in_step(9, list, trace))).train()

    assert trace.count("train.step.post") == 3
    assert trace[-1] == "train.finished"


def test_a_signal_in_the_last_step_comes_too_late(tmp_path: Path) -> None:
    """The run is complete, and says so."""
    trace: list[str] = []
    config = training_config(CheckpointingConfig(folder=tmp_path), total_steps=3)

    configure_training(config, task=ToyTask(in_step(2, ask(signal.SIGTERM), trace))).train()

    assert trace[-1] == "train.finished"


def test_a_signal_stops_inference_and_no_output_is_lost(tmp_path: Path) -> None:
    """It goes on with the next sample."""

    def react(ctx: inference.EventStepContext) -> None:
        if ctx.stepper.current_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def listen(bus: EventBus) -> None:
        bus.subscribe(inference.EVENT_INFERENCE_STEP_PRE, react)

    config = inference_config(CheckpointingConfig(folder=tmp_path))
    with pytest.raises(StopRequest):
        configure_inference(config, task=ToyInferenceTask(listen)).infer()
    task = ToyInferenceTask()

    configure_inference(config, task=task).infer()

    assert task.indices == list(range(12))


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As by `nohup`, or by whoever has started the process."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    trace: list[str] = []
    try:
        configure_training(training_config(), task=ToyTask(in_step(1, ask(signal.SIGUSR1), trace))).train()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert trace[-1] == "train.finished"


def test_processes_that_are_forked_meanwhile_can_be_ended() -> None:
    """The signal that ends one of them asks nothing of the run."""
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
    assert trace[-1] == "train.finished"


def test_a_loop_in_another_thread_leaves_signals_alone() -> None:
    """Python lets only the main one handle them."""
    seen: list[object] = []
    trace: list[str] = []
    task = ToyTask(in_step(1, lambda: seen.append(signal.getsignal(signal.SIGTERM)), trace))
    thread = threading.Thread(target=configure_training(training_config(), task=task).train)
    thread.start()
    thread.join()

    assert seen == [signal.getsignal(signal.SIGTERM)]
    assert trace[-1] == "train.finished"


SCRIPT = """
import signal, time
from tests.loop.toy_job import ToyTask, configure_training, training_config
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST
from d9d.loop.run import launch

def act(ctx):
    if ctx.stepper.current_step == 1:
        print("in the step", flush=True)
        {act}

def main():
    task = ToyTask(lambda bus: bus.subscribe(EVENT_TRAIN_STEP_POST, act))
    configure_training(training_config(), task=task).train()

if __name__ == "__main__":
    launch(main)
"""


def start(act: str) -> "subprocess.Popen[str]":
    """Start a script that does something in its second step."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(act=act)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_an_exception_looks_as_python_shows_it() -> None:
    """On one process, which no launcher has started; the exit status is 1."""
    with start("raise LookupError('the true cause')") as process:
        _, errors = process.communicate()

    assert process.returncode == 1
    assert errors.startswith("Traceback (most recent call last):")
    assert "LookupError: the true cause\n" in errors


def test_a_stopped_script_has_a_status_of_its_own() -> None:
    """75, and nothing that looks like an error."""
    with start("signal.raise_signal(signal.SIGTERM)") as process:
        _, errors = process.communicate()

    assert process.returncode == 75
    assert "Traceback" not in errors
    assert "stopped after 2 of 3 steps on SIGTERM, with exit status 75: run the same command again to go on" in errors


def test_the_same_signal_again_ends_the_process_at_once() -> None:
    """Unless it comes within a second, when it is still the same request, which came by two ways."""
    with start("time.sleep(1000)") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        time.sleep(0.7)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM


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
def test_an_echo_is_told_from_a_cause(error: Exception, expected: bool) -> None:  # noqa: FBT001 -- a parameter of pytest
    """By what gloo says; errors of people's own code may sound alike."""
    assert is_secondary_failure(error) == expected


def test_what_came_first_decides_whether_an_error_is_an_echo() -> None:
    """A lost connection in `finally` is no excuse."""
    lost = RuntimeError("Application timeout caused pair closure")
    lost.__context__ = LookupError("the true cause")
    wrapped = RuntimeError("the save failed")
    wrapped.__cause__ = RuntimeError("Application timeout caused pair closure")

    interrupted = KeyboardInterrupt()
    interrupted.__context__ = wrapped

    assert not is_secondary_failure(lost)
    assert not is_secondary_failure(interrupted)
    assert is_secondary_failure(wrapped)


def test_a_signal_in_the_moment_in_which_a_loop_ends_is_heard() -> None:
    """The launcher ends a rank just when that one has lost another, which is why its loop ends."""
    listening = StopSignal(cpu_context())
    receiver, sender = socket.socketpair()
    with receiver, sender:
        sender.send(bytes([signal.SIGTERM, 0]))
        listening._hear(receiver)

    assert listening._received == signal.SIGTERM
