"""The stepper counts the steps of a loop."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d9d.core.stepper import Stepper


def test_a_stepper_starts_at_step_0() -> None:
    """Steps are counted from 0."""
    stepper = Stepper(3)

    assert (stepper.current_step, stepper.total_steps) == (0, 3)
    assert not stepper.is_last
    assert not stepper.is_finished


def test_a_stepper_advances_through_all_steps() -> None:
    """The last one has the index `total_steps - 1`."""
    stepper = Stepper(3)
    seen: list[tuple[int, bool]] = []
    while not stepper.is_finished:
        seen.append((stepper.current_step, stepper.is_last))
        stepper.advance()

    assert seen == [(0, False), (1, False), (2, True)]
    assert stepper.current_step == stepper.total_steps
    assert not stepper.is_last


def test_a_finished_stepper_cannot_advance() -> None:
    """There is no step after the last."""
    stepper = Stepper(2, current_step=2)

    with pytest.raises(RuntimeError, match="cannot advance: all 2 steps are complete"):
        stepper.advance()
    assert stepper.current_step == 2


@pytest.mark.parametrize("total_steps", [0, -1])
def test_a_loop_has_at_least_one_step(total_steps: int) -> None:
    """The error names the argument and its value."""
    with pytest.raises(ValueError, match=f"total_steps must be at least 1, but is {total_steps}"):
        Stepper(total_steps)


@pytest.mark.parametrize("current_step", [-1, 4])
def test_the_first_step_must_be_in_the_loop(current_step: int) -> None:
    """The error names the bounds."""
    with pytest.raises(ValueError, match=f"must be between 0 and total_steps=3, but is {current_step}"):
        Stepper(3, current_step)


def due(total_steps: int, period_steps: int | None) -> list[int]:
    """Return the steps in which something is due."""
    return [step for step in range(total_steps) if Stepper(total_steps, step).is_due(period_steps)]


@pytest.mark.parametrize(
    ("period_steps", "expected"),
    [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (3, [2, 4]), (5, [4]), (100, [4]), (None, [])],
)
def test_a_period_is_due_when_it_completes_and_in_the_last_step(period_steps: int | None, expected: list[int]) -> None:
    """In a loop of five steps; `None` means never."""
    assert due(5, period_steps) == expected


@given(st.integers(1, 60), st.integers(1, 70))
def test_the_time_between_two_due_steps_is_the_period(total_steps: int, period_steps: int) -> None:
    """Or less before the last step, which is always due."""
    steps = [-1, *due(total_steps, period_steps)]
    *periods, last = [later - earlier for earlier, later in itertools.pairwise(steps)]

    assert steps[-1] == total_steps - 1
    assert set(periods) <= {period_steps}
    assert 1 <= last <= period_steps


@pytest.mark.parametrize("period_steps", [0, -5])
def test_a_period_is_at_least_one_step(period_steps: int) -> None:
    """The error names `None`, which means never."""
    with pytest.raises(ValueError, match="period_steps must be at least 1, or None for never"):
        Stepper(3).is_due(period_steps)


@given(st.integers(1, 60), st.data())
def test_a_stepper_resumes_from_its_state(total_steps: int, data: st.DataObject) -> None:
    """At any step."""
    current_step = data.draw(st.integers(0, total_steps))
    stepper = Stepper(total_steps)

    stepper.load_state_dict(Stepper(total_steps, current_step).state_dict())

    assert stepper.current_step == current_step


def test_the_state_of_a_longer_loop_is_refused() -> None:
    """The stepper is unchanged."""
    stepper = Stepper(3)

    with pytest.raises(ValueError, match="current_step must be between 0 and total_steps=3, but is 9"):
        stepper.load_state_dict({"current_step": 9})
    assert stepper.current_step == 0


def test_the_number_of_steps_can_change() -> None:
    """But not to fewer than are complete."""
    stepper = Stepper(2, current_step=2)

    stepper.set_total_steps(3)

    assert (stepper.total_steps, stepper.is_last, stepper.is_finished) == (3, True, False)
    with pytest.raises(ValueError, match="between 0 and total_steps=1, but is 2"):
        stepper.set_total_steps(1)
