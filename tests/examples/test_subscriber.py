"""The example project with its own catalogue."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from d9d.core.loop_control import LoopControl
from d9d.core.stepper import Stepper
from d9d.loop.event import EventBus
from d9d.loop.event.catalogue.train import (
    EVENT_TRAIN_READY,
    EVENT_TRAIN_STEP_POST,
    EventStepContext,
    EventTrainReadyContext,
)
from throughput import SlowdownAlarm, ThroughputMeter
from throughput.events.throughput import EVENT_THROUGHPUT_MEASURED, EventThroughputContext

PROJECT = Path(__file__).parents[2] / "examples" / "subscriber"


def run_steps(bus: EventBus, num_steps: int) -> None:
    stepper = Stepper(num_steps)
    bus.trigger(EVENT_TRAIN_READY, EventTrainReadyContext(modules=[], stepper=stepper, resumed_from=None))
    while not stepper.is_finished:
        bus.trigger(EVENT_TRAIN_STEP_POST, EventStepContext(stepper=stepper, control=LoopControl()))
        stepper.advance()


def test_the_meter_triggers_its_own_event_after_each_period() -> None:
    """The meter measures steps per second over each period by the given clock."""
    times = iter([0.0, 2.0, 3.0, 5.0])
    measured: list[float] = []
    bus = EventBus()
    ThroughputMeter(bus, period_steps=4, clock=lambda: next(times))
    bus.subscribe(EVENT_THROUGHPUT_MEASURED, lambda ctx: measured.append(ctx.steps_per_second))

    run_steps(bus, 10)

    assert measured == [2.0, 4.0, 1.0]


def test_the_alarm_warns_about_a_slowdown(caplog: pytest.LogCaptureFixture) -> None:
    """The alarm logs a warning when the speed falls below half of the best."""
    bus = EventBus()
    SlowdownAlarm(bus)
    with caplog.at_level(logging.WARNING):
        for speed in (10.0, 6.0, 4.0):
            context = EventThroughputContext(stepper=Stepper(9), steps_per_second=speed)
            bus.trigger(EVENT_THROUGHPUT_MEASURED, context)

    assert [record.message for record in caplog.records] == ["step 0: 4.00 steps/s, 10.00 at best"]


def test_mypy_names_the_projects_own_event_when_its_handler_is_wrong(tmp_path: Path) -> None:
    """The plugin finds the events of a user's catalogue without configuration."""
    project = tmp_path / "subscriber"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns(".mypy_cache"))
    alarm = project / "src" / "throughput" / "alarm.py"
    source = alarm.read_text()
    alarm.write_text(source.replace("ctx: EventThroughputContext", "ctx: EventBus"))

    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", str(alarm)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 1, checked.stderr
    [line] = [line for line in checked.stdout.splitlines() if "[d9d-handler]" in line]
    assert "EVENT_THROUGHPUT_MEASURED" in line
    assert "throughput.measured" in line
    assert "EventThroughputContext" in line
