"""The stepper knows which step runs, of how many, and what is due in it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d9d.core.stepper import Stepper


def test_a_stepper_begins_at_the_first_step() -> None:
    """Steps are counted from 0."""
    stepper = Stepper(3)

    assert (stepper.current_step, stepper.total_steps) == (0, 3)
    assert not stepper.is_last
    assert not stepper.is_finished


def test_a_stepper_goes_through_all_steps() -> None:
    """The last one has the index before their number; then none is left."""
    stepper = Stepper(3)
    seen: list[tuple[int, bool]] = []
    while not stepper.is_finished:
        seen.append((stepper.current_step, stepper.is_last))
        stepper.advance()

    assert seen == [(0, False), (1, False), (2, True)]
    assert stepper.current_step == stepper.total_steps
    assert not stepper.is_last


def test_a_finished_stepper_does_not_advance() -> None:
    """There is no step after the last."""
    stepper = Stepper(2, current_step=2)

    with pytest.raises(RuntimeError, match="all 2 steps are complete, and none is left to advance to"):
        stepper.advance()
    assert stepper.current_step == 2


@pytest.mark.parametrize("total_steps", [0, -1])
def test_a_loop_has_at_least_one_step(total_steps: int) -> None:
    """The error names the argument and its value."""
    with pytest.raises(ValueError, match=f"total_steps must be at least 1, and is {total_steps}"):
        Stepper(total_steps)


@pytest.mark.parametrize("current_step", [-1, 4])
def test_the_first_step_lies_in_the_loop(current_step: int) -> None:
    """The error names the bounds."""
    with pytest.raises(ValueError, match=f"must lie between 0 and total_steps=3, and is {current_step}"):
        Stepper(3, current_step)


def due(total_steps: int, period_steps: int | None) -> list[int]:
    """Return the steps in which something is due."""
    return [step for step in range(total_steps) if Stepper(total_steps, step).is_due(period_steps)]


@pytest.mark.parametrize(
    ("period_steps", "expected"),
    [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (3, [2, 4]), (5, [4]), (100, [4]), (None, [])],
)
def test_what_is_periodic_is_due_as_each_period_completes_and_at_the_end(
    period_steps: int | None, expected: list[int]
) -> None:
    """Of five steps; `None` is never."""
    assert due(5, period_steps) == expected


@given(st.integers(1, 60), st.integers(1, 70))
def test_no_period_is_longer_than_it_says(total_steps: int, period_steps: int) -> None:
    """From one time that it is due to the next, and the last step always is."""
    steps = [-1, *due(total_steps, period_steps)]
    *periods, last = [later - earlier for earlier, later in itertools.pairwise(steps)]

    assert steps[-1] == total_steps - 1
    assert set(periods) <= {period_steps}
    assert 1 <= last <= period_steps


@pytest.mark.parametrize("period_steps", [0, -5])
def test_a_period_is_at_least_one_step(period_steps: int) -> None:
    """The error says how to say never."""
    with pytest.raises(ValueError, match="period_steps must be at least 1, or None for never"):
        Stepper(3).is_due(period_steps)


@given(st.integers(1, 60), st.data())
def test_a_stepper_goes_on_from_its_state(total_steps: int, data: st.DataObject) -> None:
    """Wherever it was."""
    current_step = data.draw(st.integers(0, total_steps))
    stepper = Stepper(total_steps)

    stepper.load_state_dict(Stepper(total_steps, current_step).state_dict())

    assert stepper.current_step == current_step


def test_state_from_outside_of_the_loop_is_refused() -> None:
    """A longer run's state does not fit a shorter one."""
    stepper = Stepper(3)

    with pytest.raises(ValueError, match="current_step must lie between 0 and total_steps=3, and is 9"):
        stepper.load_state_dict({"current_step": 9})
    assert stepper.current_step == 0
