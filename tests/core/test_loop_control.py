"""What handlers ask of a loop, as a control records it."""

import pytest

from d9d.core.loop_control import LoopControl


def test_a_control_made_by_hand_records_what_was_asked() -> None:
    """A unit test of a handler needs no loop."""
    control = LoopControl()

    control.stop("the loss diverged")
    control.save()
    control.evaluate("validation")

    assert control.stop_reason == "the loss diverged"
    assert control.is_save_requested
    assert control.requested_evaluations == {"validation"}


def test_nothing_is_asked_at_first_and_after_clear() -> None:
    """The loop clears a control when it has read it."""
    control = LoopControl()
    control.stop("enough")
    control.save()
    control.evaluate()
    control.clear()
    fresh = LoopControl()

    for each in (control, fresh):
        assert (each.stop_reason, each.is_save_requested, each.requested_evaluations) == (None, False, frozenset())


def test_the_first_reason_to_stop_counts() -> None:
    """Later ones are often consequences of it."""
    control = LoopControl()
    control.stop("first")
    control.stop("second")

    assert control.stop_reason == "first"


@pytest.mark.parametrize(("reason", "error"), [("", ValueError), (" ", ValueError), (None, TypeError)])
def test_a_stop_needs_a_reason(reason: str, error: type[Exception]) -> None:
    """It is written into the log and the checkpoint."""
    with pytest.raises(error, match=r"control\.stop needs a reason in words, but found"):
        LoopControl().stop(reason)


def test_without_names_all_evaluations_are_asked_for() -> None:
    """Those that the loop has; a control made by hand cannot know them."""
    control, by_hand = LoopControl(["validation", "test"]), LoopControl()
    control.evaluate()
    by_hand.evaluate()

    assert control.requested_evaluations == {"validation", "test"}
    assert by_hand.requested_evaluations == {"*"}


def test_an_unknown_evaluation_is_refused_by_name() -> None:
    """The error lists those that there are."""
    with pytest.raises(ValueError, match="no evaluation named 'valdation': this loop has 'validation', 'test'"):
        LoopControl(["validation", "test"]).evaluate("valdation")


def test_a_loop_without_evaluations_refuses_all() -> None:
    """Inference has none, and training has those that its configurator is given."""
    with pytest.raises(ValueError, match=r"without evaluations: only training has them, if TrainingConfigurator"):
        LoopControl([]).evaluate()
