"""When the state is saved: every few steps or minutes, at the end, and on demand."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from d9d.loop.config import CheckpointingConfig
from d9d.loop.event import Event
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_OPTIMIZER_STEP_POST,
    EVENT_TRAIN_STEP_POST,
    EVENT_TRAIN_STEP_PRE,
    EventStepContext,
)

from .toy_job import configure_training, same_tensors, steps_saved, training_config, weights_of


@pytest.mark.parametrize(
    ("periods", "expected"),
    [
        ({"period_steps": 2}, [2, 4, 5]),
        ({"period_steps": None}, [5]),
        ({"period_steps": None, "period_minutes": 1e-9}, [2, 4, 5]),
        ({"period_steps": 2, "period_minutes": 1e9}, [2, 4, 5]),
        ({"period_steps": None, "period_minutes": 1e9}, [5]),
    ],
)
def test_saves_are_due_by_steps_and_by_minutes(periods: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    """Whichever comes first, and always at the last step. Ranks agree on minutes one step later."""
    config = CheckpointingConfig(folder=tmp_path, num_to_keep=1000, **periods)
    configure_training(training_config(config, total_steps=5)).train()

    assert steps_saved(tmp_path) == expected


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("event", [EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_OPTIMIZER_STEP_POST, EVENT_TRAIN_STEP_POST])
def test_a_save_that_a_handler_asks_for_has_the_state_of_its_step(
    event: Event[EventStepContext], tmp_path: Path, *, asynchronous: bool
) -> None:
    """Wherever in a step it is asked for, it follows after the next one, with the weights and the number of that."""
    undisturbed = configure_training(training_config(total_steps=5))
    undisturbed.train()
    config = CheckpointingConfig(folder=tmp_path, period_steps=None, num_to_keep=9, asynchronous=asynchronous)
    trainer = configure_training(training_config(config, total_steps=5))

    def save(ctx: EventStepContext) -> None:
        if ctx.stepper.current_step == 1:
            for _ in range(2):
                trainer.save()
            ctx.control.save()

    trainer.event_bus.subscribe(event, save)
    trainer.train()
    assert steps_saved(tmp_path) == [3, 5]

    shutil.rmtree(tmp_path / "step-5")
    resumed = configure_training(training_config(config, total_steps=5))
    resumed.train()
    assert same_tensors(weights_of(resumed.modules[0]), weights_of(undisturbed.modules[0]))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_between_two_steps_the_state_is_saved_at_once(tmp_path: Path, *, asynchronous: bool) -> None:
    """Once per step, and the run resumes from it."""
    config = CheckpointingConfig(folder=tmp_path, asynchronous=asynchronous)
    trainer = configure_training(training_config(config, total_steps=5))

    for ctx in trainer.steps():
        if ctx.stepper.current_step == 3:
            for _ in range(2):
                trainer.save()
            break
    assert steps_saved(tmp_path) == [3]

    steps: list[int] = []
    again = configure_training(training_config(config, total_steps=5))
    again.event_bus.subscribe(EVENT_TRAIN_STEP_POST, lambda ctx: steps.append(ctx.stepper.current_step))
    again.train()
    assert steps == [3, 4]


def test_the_state_that_a_run_resumed_from_is_not_saved_again(tmp_path: Path) -> None:
    """A run stopped before its first step replaces no checkpoint."""
    config = CheckpointingConfig(folder=tmp_path)
    configure_training(training_config(config)).train()
    changed = (tmp_path / "step-3").stat().st_mtime_ns
    trainer = configure_training(training_config(config))
    trainer._loop.checkpointer.resume()
    trainer.save()

    assert (tmp_path / "step-3").stat().st_mtime_ns == changed


def test_saving_without_checkpointing_does_nothing(tmp_path: Path) -> None:
    """And raises nothing."""
    trainer = configure_training(training_config())
    trainer.save()
    trainer._loop.checkpointer.wait()

    assert list(tmp_path.iterdir()) == []
