"""Whole runs trigger all events in the order that the catalogue declares."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from declared import declared_ids, declared_run, events_of, record, violation, without_optional

from d9d.loop.component.evaluation import Evaluation
from d9d.loop.config import CheckpointingConfig
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue import inference, train

from .toy_job import (
    Listen,
    StoppedError,
    ToyDataset,
    ToyInferenceTask,
    ToyTask,
    configure_inference,
    configure_training,
    inference_config,
    steps_saved,
    training_config,
)

LOOPS = [pytest.param(train, id="train"), pytest.param(inference, id="inference")]
NUM_STEPS = 3


def name_of(loop: ModuleType) -> str:
    return loop.__name__.rpartition(".")[2]


def run(loop: ModuleType, checkpointing: CheckpointingConfig | None, listen: Listen) -> None:
    """Run a loop over three steps of two micro-batches."""
    if loop is train:
        configure_training(training_config(checkpointing), task=ToyTask(listen)).train()
    else:
        configure_inference(inference_config(checkpointing), task=ToyInferenceTask(listen)).infer()


def stop_in(event_id: str, *, at: int = 1) -> Callable[[EventBus, ModuleType, list[str]], None]:
    """Make a listener that raises the `at`-th time that an event is triggered."""

    def listen(bus: EventBus, loop: ModuleType, trace: list[str]) -> None:
        def stop(ctx: object) -> None:
            if trace.count(event_id) == at:
                raise StoppedError

        bus.subscribe(next(event for event in events_of(loop) if event.id == event_id), stop)

    return listen


def traced(loop: ModuleType, checkpointing: CheckpointingConfig | None) -> list[str]:
    """Return the trace of an uninterrupted run."""
    trace: list[str] = []
    run(loop, checkpointing, lambda bus: record(bus, loop, trace))
    return trace


def traced_until(
    loop: ModuleType, checkpointing: CheckpointingConfig | None, event_id: str, *, at: int = 1
) -> list[str]:
    """Return the trace of a run that a handler stops the `at`-th time that its event is triggered."""
    trace: list[str] = []

    def listen(bus: EventBus) -> None:
        record(bus, loop, trace)
        stop_in(event_id, at=at)(bus, loop, trace)

    with pytest.raises(StoppedError):
        run(loop, checkpointing, listen)
    return trace


@pytest.mark.parametrize("loop", LOOPS)
def test_the_generated_module_has_each_declared_event(loop: ModuleType) -> None:
    """The events that these tests record are all events that the catalogue declares."""
    assert {event.id for event in events_of(loop)} == set(declared_ids(name_of(loop)))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_triggers_each_event_in_the_declared_order(loop: ModuleType, every_step: CheckpointingConfig) -> None:
    """A run of three steps with a checkpoint after each triggers the events in the order of the catalogue."""
    trace = traced(loop, every_step)

    found = violation(name_of(loop), trace, complete=True)
    assert found is None, found  # in full: it names the event that is out of order
    assert without_optional(name_of(loop), trace) == declared_run(name_of(loop), num_steps=NUM_STEPS)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_that_saves_adds_the_events_of_checkpoints(loop: ModuleType, every_step: CheckpointingConfig) -> None:
    """A run that saves after each step triggers the events of one that does not, and two more after each step."""
    name, trace = name_of(loop), traced(loop, every_step)
    saving = {f"{name}.checkpoint.start", f"{name}.checkpoint.saved"}

    assert [event_id for event_id in trace if event_id not in saving] == traced(loop, None)
    assert [event_id for event_id in trace if event_id in saving] == [
        f"{name}.checkpoint.start",
        f"{name}.checkpoint.saved",
    ] * NUM_STEPS


@pytest.mark.parametrize("loop", LOOPS)
def test_a_resumed_run_triggers_only_the_remaining_steps(loop: ModuleType, every_step: CheckpointingConfig) -> None:
    """A run that failed after its second step loads its checkpoint and runs only the third step."""
    name = name_of(loop)

    stopped = traced_until(loop, every_step, f"{name}.step.pre", at=3)
    resumed = traced(loop, every_step)

    assert stopped[-2:] == [f"{name}.failed", f"{name}.closed"]
    assert violation(name, stopped, complete=True) is None
    assert without_optional(name, resumed) == declared_run(name, num_steps=1)
    assert f"{name}.checkpoint.loaded" in resumed
    assert violation(name, resumed, complete=True) is None


@pytest.mark.parametrize("loop", LOOPS)
def test_a_finished_run_that_is_run_again_triggers_no_step(loop: ModuleType, every_step: CheckpointingConfig) -> None:
    """It triggers only the events of configuration, the loaded checkpoint, READY, FINISHED and CLOSED."""
    name = name_of(loop)
    traced(loop, every_step)

    again = traced(loop, every_step)

    assert violation(name, again, complete=True) is None
    assert [event_id for event_id in again if event_id != f"{name}.checkpoint.loaded"] == declared_run(
        name, num_steps=0
    )


@pytest.mark.parametrize(
    ("loop", "event_id"),
    [(loop, event_id) for loop in (train, inference) for event_id in declared_run(name_of(loop), num_steps=1)],
)
def test_only_failed_and_closed_follow_an_event_whose_handler_raises(
    loop: ModuleType, event_id: str, tmp_path: Path
) -> None:
    """After a handler raises, neither the matching POST event nor FINISHED is triggered."""
    folder, name = tmp_path / "checkpoints", name_of(loop)

    trace = traced_until(loop, CheckpointingConfig(folder=folder, period_steps=1), event_id)

    assert violation(name, trace, complete=True) is None
    ending = [] if event_id.endswith(".closed") else [f"{name}.failed", f"{name}.closed"]
    assert trace[trace.index(event_id) + 1 :] == ending
    is_late = event_id.endswith((".finished", ".closed"))
    assert steps_saved(folder) == ([1, 2, 3] if is_late else [])


def test_what_the_caller_does_keeps_the_declared_order(tmp_path: Path) -> None:
    """Evaluations, saves and sleep between two steps have their events; before and after the run they have none."""
    trace: list[str] = []
    trainer = configure_training(
        training_config(CheckpointingConfig(folder=tmp_path, period_steps=None)),
        task=ToyTask(lambda bus: record(bus, train, trace)),
        evaluations={"own": Evaluation(dataset_provider=ToyDataset(), at_end=False)},
    )
    called = [f"train.{each}" for each in ("evaluation.start", "evaluation.finished", "report.ready")]
    called += [f"train.{moment}.{side}" for moment in ("sleep", "wake") for side in ("pre", "post")]
    saved = ["train.checkpoint.start", "train.checkpoint.saved"]

    def call() -> None:
        trainer.evaluate()
        trainer.sleep()
        trainer.wake()

    call()
    with pytest.raises(RuntimeError, match="save was called before the run, and its state is not loaded yet"):
        trainer.save()
    for ctx in trainer.steps():
        if ctx.stepper.current_step == 2:
            call()
            trainer.save()
    call()
    trainer.save()  # does nothing, since the last step is saved

    found = violation("train", trace, complete=True)
    assert found is None, found
    extra = [event_id for event_id in trace if event_id in (*called, *saved)]
    assert extra == [*called, *saved, *saved]


def test_a_run_that_its_caller_has_left_cannot_be_saved(tmp_path: Path) -> None:
    """Another job may use the folder already."""
    trainer = configure_training(training_config(CheckpointingConfig(folder=tmp_path)))
    for _ in trainer.steps():
        break

    with pytest.raises(RuntimeError, match=r"save was called after the run, which has released its folder, .* steps"):
        trainer.save()
    assert steps_saved(tmp_path) == []
