"""How runs end: the outcome, the reason, and the last two events."""

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d9d.loop.component.shutdown import StopRequest
from d9d.loop.config import CheckpointingConfig, ReportingConfig
from d9d.loop.control import (
    ComputeLossContext,
    ComputeLossResult,
    InitializeModelStageContext,
    InitializeModelStageResult,
    ModelProvider,
    ProcessOutputsContext,
)
from d9d.loop.event import Event, EventBus
from d9d.loop.event.catalogue import inference, train
from d9d.loop.run import Trainer

from .toy_job import (
    StoppedError,
    ToyInferenceTask,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    steps_saved,
    training_config,
)

LOOPS = [pytest.param("train", id="train"), pytest.param("inference", id="inference")]
EVENTS: dict[str, dict[str, Event[Any]]] = {
    "train": {
        "post": train.EVENT_TRAIN_STEP_POST,
        "failed": train.EVENT_TRAIN_FAILED,
        "closed": train.EVENT_TRAIN_CLOSED,
        "finished": train.EVENT_TRAIN_FINISHED,
        "started": train.EVENT_TRAIN_CONFIG_STARTED,
    },
    "inference": {
        "post": inference.EVENT_INFERENCE_STEP_POST,
        "failed": inference.EVENT_INFERENCE_FAILED,
        "closed": inference.EVENT_INFERENCE_CLOSED,
        "finished": inference.EVENT_INFERENCE_FINISHED,
        "started": inference.EVENT_INFERENCE_CONFIG_STARTED,
    },
}
Act = Callable[[Any], object]


def run_loop(loop: str, listen: Callable[[EventBus], None], checkpointing: CheckpointingConfig | None = None) -> None:
    """Configure and run a loop."""
    if loop == "train":
        configure_training(training_config(checkpointing, total_steps=5), task=ToyTask(listen)).train()
    else:
        configure_inference(inference_config(checkpointing), task=ToyInferenceTask(listen)).infer()


class Ending:
    """Records the ends of a run, and acts in one of its steps."""

    def __init__(self, loop: str, act: Act = lambda ctx: None, *, step: int = 0) -> None:
        self.loop, self._act, self._step = loop, act, step
        self.failures: list[Any] = []
        self.ends: list[tuple[str, str]] = []
        self.num_finished = 0

    def listen(self, bus: EventBus) -> None:
        events = EVENTS[self.loop]
        bus.subscribe(events["post"], self._on_step)
        bus.subscribe(events["failed"], self.failures.append)
        bus.subscribe(events["closed"], lambda ctx: self.ends.append((ctx.outcome, ctx.reason)))
        bus.subscribe(events["finished"], self._on_finished)

    def run(self, checkpointing: CheckpointingConfig | None = None) -> None:
        run_loop(self.loop, self.listen, checkpointing)

    def _on_step(self, ctx: Any) -> None:
        if ctx.stepper.current_step == self._step:
            self._act(ctx)

    def _on_finished(self, ctx: object) -> None:
        assert not self.ends
        self.num_finished += 1


def fail(ctx: object) -> None:
    raise StoppedError("first line\nsecond line")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_complete_run_is_finished(loop: str) -> None:
    """The last event comes once, after the one of success."""
    ending = Ending(loop)
    ending.run()

    assert ending.ends == [("finished", "all steps are done")]
    assert ending.num_finished == 1
    assert ending.failures == []


@pytest.mark.parametrize("loop", LOOPS)
def test_a_failed_run_says_why_and_where(loop: str) -> None:
    """With the error, the last event before it, and the first line of the error as the reason."""
    ending = Ending(loop, fail)
    with pytest.raises(StoppedError) as raised:
        ending.run()

    (failure,) = ending.failures
    assert failure.error is raised.value
    assert failure.last_event == f"{loop}.step.post"
    assert ending.ends == [("failed", "first line")]
    assert ending.num_finished == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_the_last_event_before_a_failure_is_named_even_if_nobody_heard_it(loop: str) -> None:
    """A handler of the failure alone learns how far the run came."""
    failures: list[Any] = []

    class Task(ToyTask, ToyInferenceTask):
        def compute_loss(self, ctx: ComputeLossContext) -> ComputeLossResult:
            raise StoppedError

        def process_outputs(self, ctx: ProcessOutputsContext) -> None:
            raise StoppedError

    task = Task(lambda bus: bus.subscribe(EVENTS[loop]["failed"], failures.append))
    run = (
        configure_training(training_config(), task=task).train
        if loop == "train"
        else configure_inference(inference_config(), task=task).infer
    )
    with pytest.raises(StoppedError):
        run()

    before = {"train": "train.forward_backward.pre", "inference": "inference.forward.pre"}
    assert [failure.last_event for failure in failures] == [before[loop]]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_signal_stops_a_run(loop: str, tmp_path: Path) -> None:
    """That is no failure, and no success."""
    ending = Ending(loop, lambda ctx: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(StopRequest):
        ending.run(CheckpointingConfig(folder=tmp_path))

    assert ending.ends == [("stopped", "SIGTERM")]
    assert ending.failures == []
    assert ending.num_finished == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_a_handler_stops_a_run_successfully(loop: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One step after the one in which it asked, with a checkpoint; the reason is in the log."""
    ending = Ending(loop, lambda ctx: ctx.control.stop("good enough"))
    with caplog.at_level("INFO"):
        ending.run(CheckpointingConfig(folder=tmp_path))

    assert ending.ends == [("finished", "good enough")]
    assert ending.num_finished == 1
    assert steps_saved(tmp_path) == [2]
    total = 5 if loop == "train" else 3
    assert f"a handler stopped the run after 2 of {total} steps: good enough" in caplog.text


@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_that_a_handler_stopped_is_over_when_it_is_run_again(
    loop: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, takes no step, and succeeds."""
    Ending(loop, lambda ctx: ctx.control.stop("good enough")).run(CheckpointingConfig(folder=tmp_path))
    again = Ending(loop, fail, step=2)
    again.run(CheckpointingConfig(folder=tmp_path))

    assert again.ends == [("finished", "good enough")]
    assert again.num_finished == 1
    total = 5 if loop == "train" else 3
    assert f"a handler stopped this run after 2 of {total} steps: good enough. There is nothing left" in caplog.text
    assert steps_saved(tmp_path) == [2]


def test_a_stop_counts_more_than_a_signal(tmp_path: Path) -> None:
    """The run has succeeded, so it must not be queued again."""

    def act(ctx: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        ctx.control.stop("good enough")

    ending = Ending("train", act)
    ending.run(CheckpointingConfig(folder=tmp_path))

    assert ending.ends == [("finished", "good enough")]


def test_a_request_to_stop_in_the_last_step_changes_nothing() -> None:
    """All steps are done anyway."""
    ending = Ending("train", lambda ctx: ctx.control.stop("too late"), step=4)
    ending.run()

    assert ending.ends == [("finished", "all steps are done")]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_failure_of_the_configuration_is_a_failure_of_the_run(loop: str) -> None:
    """Its handlers were registered before."""
    ending = Ending(loop)

    class FailingProvider(ModelProvider):
        def initialize_model_stage(self, ctx: InitializeModelStageContext) -> InitializeModelStageResult:
            raise StoppedError("no model")

    def configure() -> None:
        if loop == "train":
            configure_training(training_config(), task=ToyTask(ending.listen), model_provider=FailingProvider())
        else:
            config, task = inference_config(), ToyInferenceTask(ending.listen)
            configure_inference(config, task=task, model_provider=FailingProvider())

    with pytest.raises(StoppedError):
        configure()

    (failure,) = ending.failures
    assert failure.last_event == f"{loop}.configuration.data_loader"
    assert ending.ends == [("failed", "no model")]


def test_a_run_that_is_configured_and_never_trained_does_not_end() -> None:
    """There is nothing to close."""
    ending = Ending("train")
    configure_training(training_config(), task=ToyTask(ending.listen))

    assert ending.ends == []


@pytest.mark.parametrize("name", ["failed", "closed"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_handler_that_fails_at_the_end_does_not_hide_the_error(loop: str, name: str) -> None:
    """Its own error is a note, and the other of the two events is triggered all the same."""
    ending = Ending(loop, fail)

    def fail_too(ctx: object) -> None:
        raise OSError("the tracker is gone")

    def listen(bus: EventBus) -> None:
        ending.listen(bus)
        bus.subscribe(EVENTS[loop][name], fail_too)

    with pytest.raises(StoppedError) as raised:
        run_loop(loop, listen)

    (note,) = [note for note in raised.value.__notes__ if note.startswith("then a handler failed")]
    assert "OSError: the tracker is gone" in note
    assert f"while event '{loop}.{name}' was handled by" in note
    assert len(ending.failures) == len(ending.ends) == 1


def test_a_handler_that_fails_at_the_end_of_a_stopped_run_does_not_change_its_status(tmp_path: Path) -> None:
    """The job is still to be queued again."""

    def listen(bus: EventBus) -> None:
        bus.subscribe(train.EVENT_TRAIN_STEP_POST, lambda ctx: signal.raise_signal(signal.SIGTERM))
        bus.subscribe(train.EVENT_TRAIN_CLOSED, fail)

    with pytest.raises(StopRequest) as raised:
        configure_training(training_config(CheckpointingConfig(folder=tmp_path)), task=ToyTask(listen)).train()

    assert raised.value.code == 75


def test_a_handler_that_fails_at_the_end_of_a_successful_run_is_an_error() -> None:
    """There is no other error that it could hide."""
    with pytest.raises(StoppedError):
        configure_training(
            training_config(), task=ToyTask(lambda bus: bus.subscribe(train.EVENT_TRAIN_CLOSED, fail))
        ).train()


def test_steps_are_yielded_one_by_one(tmp_path: Path) -> None:
    """The caller sees the state between two steps, and the run ends like any other."""
    ending = Ending("train")
    trainer = configure_training(training_config(total_steps=3), task=ToyTask(ending.listen))

    assert [(ctx.stepper.current_step, trainer.stepper.current_step) for ctx in trainer.steps()] == [
        (1, 1),
        (2, 2),
        (3, 3),
    ]
    assert ending.ends == [("finished", "all steps are done")]


def test_leaving_the_steps_early_stops_the_run(tmp_path: Path) -> None:
    """All exits run, and nothing is saved."""
    before = signal.getsignal(signal.SIGTERM)
    ending = Ending("train")
    config = training_config(CheckpointingConfig(folder=tmp_path, period_steps=None), total_steps=5)
    trainer = configure_training(config, task=ToyTask(ending.listen))

    for ctx in trainer.steps():
        if ctx.stepper.current_step == 2:
            break

    assert ending.ends == [("stopped", "left by its caller")]
    assert (ending.num_finished, ending.failures) == (0, [])
    assert steps_saved(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "drive",
    [
        pytest.param(lambda trainer: list(itertools.islice(trainer.steps(), 3)), id="counted"),
        pytest.param(lambda trainer: next(ctx for ctx in trainer.steps() if ctx.stepper.is_finished), id="left"),
    ],
)
def test_leaving_the_steps_after_the_last_one_is_not_early(drive: Callable[[Trainer], object]) -> None:
    """The run is finished, because all steps are done; it makes no difference that the caller counted them."""
    ending = Ending("train")
    drive(configure_training(training_config(total_steps=3), task=ToyTask(ending.listen)))

    assert ending.ends == [("finished", "all steps are done")]
    assert (ending.num_finished, ending.failures) == (1, [])


def test_a_run_that_a_handler_stopped_is_finished_wherever_its_steps_are_left(tmp_path: Path) -> None:
    """The caller may leave when the run is over, without asking for one more step."""
    ending = Ending("train", lambda ctx: ctx.control.stop("good enough"))
    config = training_config(CheckpointingConfig(folder=tmp_path), total_steps=5)
    list(itertools.islice(configure_training(config, task=ToyTask(ending.listen)).steps(), 2))

    assert ending.ends == [("finished", "good enough")]
    assert ending.num_finished == 1


def test_an_error_of_the_caller_between_two_steps_stops_the_run(tmp_path: Path) -> None:
    """It belongs to the caller, so the run itself has not failed."""
    ending = Ending("train")
    trainer = configure_training(training_config(total_steps=5), task=ToyTask(ending.listen))

    def drive() -> None:
        for ctx in trainer.steps():
            fail(ctx)

    with pytest.raises(StoppedError):
        drive()

    assert ending.ends == [("stopped", "left by its caller")]
    assert ending.failures == []


@pytest.mark.parametrize("loop", LOOPS)
def test_a_save_asked_for_in_a_step_follows_after_the_next_one(loop: str, tmp_path: Path) -> None:
    """In both loops."""
    config = CheckpointingConfig(folder=tmp_path, period_steps=None, num_to_keep=9)
    Ending(loop, lambda ctx: ctx.control.save()).run(config)

    assert steps_saved(tmp_path) == [2, 5 if loop == "train" else 3]


def test_leaving_the_steps_announces_a_save_that_was_under_way(tmp_path: Path) -> None:
    """It is on disk before the last event."""
    config = training_config(CheckpointingConfig(folder=tmp_path, period_steps=2, asynchronous=True), total_steps=5)
    trainer = configure_training(config)
    trace: list[str] = []
    trainer.event_bus.subscribe(train.EVENT_TRAIN_CHECKPOINT_SAVED, lambda ctx: trace.append(f"saved {ctx.step}"))
    trainer.event_bus.subscribe(train.EVENT_TRAIN_CLOSED, lambda ctx: trace.append("closed"))

    for ctx in trainer.steps():
        if ctx.stepper.current_step == 2:
            break

    assert trace == ["saved 2", "closed"]


def test_leaving_the_steps_reports_the_last_of_them() -> None:
    """Its numbers were on their way; a tracker gets them before the last event."""
    reporting = ReportingConfig(progress_bar=False, period_steps=1, json_lines=None)
    trainer = configure_training(training_config(total_steps=5, reporting=reporting))
    trace: list[str] = []
    trainer.event_bus.subscribe(train.EVENT_TRAIN_REPORT_READY, lambda ctx: trace.append(f"report {ctx.report.step}"))
    trainer.event_bus.subscribe(train.EVENT_TRAIN_CLOSED, lambda ctx: trace.append("closed"))

    for ctx in trainer.steps():
        if ctx.stepper.current_step == 2:
            break

    assert trace == ["report 1", "report 2", "closed"]
