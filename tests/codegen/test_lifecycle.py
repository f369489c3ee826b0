"""The lifecycle of a module: which runs it allows, and what is said of others."""

import re

import pytest

from d9d_codegen.lifecycle import Lifecycle
from d9d_codegen.lint import lint_file

from .workspace import Workspace

HEAD = """\
version: 1
package: shop.events
modules:
  sale:
    doc: Events of a sale.
    contexts:
      EventDayContext: {doc: Context of a day.}
"""


def lifecycle(workspace: Workspace, phases: dict[str, str], events: dict[str, str]) -> Lifecycle:
    """Build the lifecycle of a module.

    Args:
        workspace: Where to write the catalogue.
        phases: The phases and their flags.
        events: The events, by the ends of their ids, and their phase and flags.
    """
    lines = [
        "    phases:",
        *(f"      {name}: {{doc: A phase.{flags}}}" for name, flags in phases.items()),
        "    events:",
    ]
    for end, rest in events.items():
        constant = "EVENT_SALE_" + end.upper().replace(".", "_")
        entry = f"id: sale.{end}, context: EventDayContext, doc: Something happens., phase: {rest}"
        lines.append(f"      {constant}: {{{entry}}}")
    path = workspace.write(HEAD + "\n".join(lines) + "\n")
    return Lifecycle.of(lint_file(path).modules[0])


@pytest.fixture
def shop(empty: Workspace) -> Lifecycle:
    """A day in a shop: it opens, serves customers, some of whom pay, and closes; the till is counted at any time."""
    return lifecycle(
        empty,
        {
            "opening": "",
            "serving": ", repeats: true, optional: true",
            "counting": ", anytime: true",
            "closing": ", terminal: true",
        },
        {
            "opened": "opening",
            "customer.pre": "serving",
            "greeted": "serving, repeats: true",
            "paid": "serving, optional: true",
            "customer.post": "serving",
            "count.pre": "counting",
            "count.post": "counting",
            "locked": "closing",
            "left": "closing",
        },
    )


def violation(grammar: Lifecycle, run: str, *, complete: bool = False) -> str | None:
    """Judge a run whose ids are given without their first segment."""
    return grammar.first_violation([f"sale.{end}" for end in run.split()], complete=complete)


def spelled(message: str) -> str:
    """Return a message in which `<end of an id>` stands for the constant and the id of an event."""
    return re.sub(
        r"<([a-z.]+)>", lambda end: f'EVENT_SALE_{end[1].upper().replace(".", "_")} ("sale.{end[1]}")', message
    )


SERVING_OR_CLOSING = "<customer.pre> or <locked>"
CUSTOMER = "customer.pre greeted paid customer.post"


@pytest.mark.parametrize(
    "run",
    [
        "opened locked left",
        f"opened {CUSTOMER} locked left",
        f"opened {CUSTOMER} {CUSTOMER} {CUSTOMER} locked left",
        "opened customer.pre greeted greeted greeted customer.post locked left",
        "count.pre opened count.post locked left",
        "opened customer.pre count.pre count.post greeted customer.post count.pre count.post locked left",
    ],
)
def test_complete_runs(shop: Lifecycle, run: str) -> None:
    """Phases repeat and are passed over, events repeat and are left out, others fall anywhere, as declared."""
    assert violation(shop, run, complete=True) is None


@pytest.mark.parametrize("num_events", range(8))
def test_a_run_may_be_killed_at_any_moment(shop: Lifecycle, num_events: int) -> None:
    """Every beginning of a legal run is legal, unless the run must be complete."""
    events = f"opened {CUSTOMER} locked left".split()
    run = " ".join(events[:num_events])
    assert violation(shop, run) is None
    assert (violation(shop, run, complete=True) is None) == (num_events == len(events))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("locked", "event 1 of the run: <locked> cannot come first: expected <opened>"),
        (
            "opened count.pre paid",
            "event 3 of the run: <paid> cannot follow <opened>: expected " + SERVING_OR_CLOSING,
        ),
        (
            "opened customer.pre paid",
            "event 3 of the run: <paid> cannot follow <customer.pre>: expected <greeted>",
        ),
        (
            "opened customer.pre greeted paid paid",
            "event 5 of the run: <paid> cannot follow <paid>: expected <customer.post>",
        ),
        ("opened locked left left", "event 4 of the run: <left> comes after <left>, which ends the run"),
        (
            "opened locked left count.pre",
            "event 4 of the run: <count.pre> comes after <left>, which ends the run",
        ),
        ("opened count.post", "event 2 of the run: <count.post> comes before <count.pre>"),
        ("opened lunch", 'event 2 of the run: "sale.lunch" is not an event of sale'),
    ],
)
def test_other_runs_are_refused_with_a_message(shop: Lifecycle, run: str, message: str) -> None:
    """The first event out of order is named, with what could have come instead."""
    assert violation(shop, run) == spelled(message)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("", "the run has no events: expected <opened>"),
        ("opened locked", "the run ends after <locked>: expected <left>"),
        ("opened locked count.pre", "the run ends after <count.pre>: expected <left>"),
    ],
)
def test_a_run_that_stops_too_early_is_refused_with_a_message(shop: Lifecycle, run: str, message: str) -> None:
    """A run that must be complete reports what is missing."""
    assert violation(shop, run, complete=True) == spelled(message)


def test_a_pair_that_repeats_does_so_with_all_that_is_between(empty: Workspace) -> None:
    """`repeats` and `optional` on both sides of a pair are meant for the moment as a whole."""
    grammar = lifecycle(
        empty,
        {"step": ""},
        {
            "batch.pre": "step, repeats: true, optional: true",
            "loss": "step",
            "batch.post": "step, repeats: true, optional: true",
            "done": "step",
        },
    )
    assert violation(grammar, "done", complete=True) is None
    assert violation(grammar, "batch.pre loss batch.post batch.pre loss batch.post done", complete=True) is None
    assert violation(grammar, "batch.pre batch.pre") == spelled(
        "event 2 of the run: <batch.pre> cannot follow <batch.pre>: expected <loss>"
    )


def test_one_of_two_terminal_phases_ends_a_run(empty: Workspace) -> None:
    """An optional terminal phase is one way in which a run can end; the next phase is another."""
    grammar = lifecycle(
        empty,
        {"step": "", "failure": ", terminal: true, optional: true", "success": ", terminal: true"},
        {"step": "step", "failed": "failure", "finished": "success"},
    )
    assert violation(grammar, "step failed", complete=True) is None
    assert violation(grammar, "step finished", complete=True) is None
    assert violation(grammar, "step failed finished") is not None


def test_a_terminal_phase_at_any_time_ends_a_run_at_any_time(empty: Workspace) -> None:
    """A run that can be aborted at any time is complete once it was."""
    grammar = lifecycle(
        empty,
        {"step": "", "abort": ", terminal: true, anytime: true"},
        {"first": "step", "second": "step", "aborted": "abort"},
    )
    assert violation(grammar, "first aborted", complete=True) is None
    assert violation(grammar, "first aborted second") is not None


def test_a_run_without_events_is_complete_where_all_is_optional(empty: Workspace) -> None:
    """A module whose phases are all optional allows a run in which nothing happens."""
    grammar = lifecycle(empty, {"step": ", optional: true"}, {"first": "step"})
    assert violation(grammar, "", complete=True) is None
