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
    """A run that can be closed at any time is complete once it was, and not before."""
    grammar = lifecycle(
        empty,
        {"step": "", "end": ", terminal: true, anytime: true"},
        {"first": "step", "second": "step", "closing": "end", "closed": "end"},
    )
    assert violation(grammar, "first closing closed", complete=True) is None
    assert violation(grammar, "first second closing closed", complete=True) is None
    assert violation(grammar, "first closing closed second") is not None
    assert violation(grammar, "first closing second") is not None
    assert violation(grammar, "first second", complete=True) == spelled(
        "the run ends after <second>: expected <closing>"
    )


def test_every_complete_run_ends_in_a_terminal_phase(empty: Workspace) -> None:
    """Of several terminal phases that are optional, one ends the run."""
    grammar = lifecycle(
        empty, {"step": "", "end": ", terminal: true, optional: true"}, {"first": "step", "closed": "end"}
    )
    assert violation(grammar, "first closed", complete=True) is None
    assert violation(grammar, "first", complete=True) == spelled("the run ends after <first>: expected <closed>")


BOUNDARY = {
    "checked": "boundary, optional: true, repeats: true",
    "visit.start": "boundary",
    "visit.end": "boundary, optional: true, repeats: true, ends: EVENT_SALE_VISIT_START",
    "saved": "boundary, optional: true, repeats: true",
}


def test_an_event_ends_another_one_of_another_context(empty: Workspace) -> None:
    """The two are a bracket that repeats as a whole, with everything between them, and is closed before all else."""
    grammar = lifecycle(
        empty,
        {"step": ""},
        {
            "begun": "step",
            "visit.start": "step",
            "asked": "step, optional: true",
            "visit.end": "step, optional: true, repeats: true, ends: EVENT_SALE_VISIT_START",
            "done": "step",
        },
    )
    assert violation(grammar, "begun done", complete=True) is None
    assert violation(grammar, "begun visit.start visit.end visit.start asked visit.end done", complete=True) is None
    assert violation(grammar, "begun visit.start visit.start") == spelled(
        "event 3 of the run: <visit.start> cannot follow <visit.start>: expected <asked> or <visit.end>"
    )
    assert violation(grammar, "begun visit.end") == spelled(
        "event 2 of the run: <visit.end> cannot follow <begun>: expected <visit.start> or <done>"
    )
    assert violation(grammar, "begun visit.start done") is not None


@pytest.fixture
def visited(empty: Workspace) -> Lifecycle:
    """Steps with a boundary around them that keeps no order, a nap between them, an accident at any moment, an end."""
    return lifecycle(
        empty,
        {
            "ready": "",
            "step": ", repeats: true, optional: true",
            "boundary": ", around: step, any_order: true",
            "nap": ", around: step, repeats: true",
            "finished": ", optional: true",
            "failed": ", aborts: true",
            "closed": ", terminal: true",
        },
        {
            "ready": "ready",
            "step.pre": "step",
            "step.post": "step",
            **BOUNDARY,
            "kept": "boundary, optional: true, repeats: true, after: EVENT_SALE_SAVED",
            "nap.pre": "nap",
            "nap.post": "nap",
            "finished": "finished",
            "failed": "failed",
            "closed": "closed",
        },
    )


@pytest.mark.parametrize(
    "run",
    [
        "ready closed",
        "ready finished closed",
        "ready visit.start visit.end step.pre step.post closed",
        "ready step.pre step.post visit.start visit.end visit.start visit.end step.pre step.post finished closed",
        "ready checked visit.start visit.end checked saved step.pre step.post kept kept finished closed",
        "ready nap.pre nap.post saved kept nap.pre nap.post nap.pre nap.post step.pre step.post closed",
        "ready step.pre failed closed",
        "ready visit.start failed closed",
        "ready step.pre step.post finished failed closed",
        "failed closed",
    ],
)
def test_phases_around_a_phase_stand_before_between_and_after_its_runs(visited: Lifecycle, run: str) -> None:
    """They stand or not, in any relation to each other; what aborts may follow any event."""
    assert violation(visited, run, complete=True) is None


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            "ready visit.start step.pre",
            "event 3 of the run: <step.pre> cannot follow <visit.start>: expected <visit.end>",
        ),
        (
            "ready step.pre checked",
            "event 3 of the run: <checked> cannot follow <step.pre>: expected <step.post>",
        ),
        ("ready kept", "event 2 of the run: <kept> comes before <saved>"),
        ("ready checked nap.pre nap.post checked", None),
        (
            "ready finished checked",
            "event 3 of the run: <checked> cannot follow <finished>: expected <closed>",
        ),
        ("ready failed finished", "event 3 of the run: <finished> cannot follow <failed>: expected <closed>"),
        ("ready failed failed", "event 3 of the run: <failed> cannot follow <failed>: expected <closed>"),
        ("ready closed failed", "event 3 of the run: <failed> comes after <closed>, which ends the run"),
    ],
)
def test_other_places_are_refused_with_a_message(visited: Lifecycle, run: str, message: str | None) -> None:
    """An event of a phase around another one falls into no run of that one, and into none of another phase."""
    found = violation(visited, run)
    assert found is not None
    if message:
        assert found == spelled(message)


@pytest.mark.parametrize("run", ["ready", "ready step.pre step.post", "ready finished", "ready failed"])
def test_a_run_with_phases_around_others_is_complete_only_when_closed(visited: Lifecycle, run: str) -> None:
    """Neither a finished run nor a failed one is complete without its last event."""
    found = violation(visited, run, complete=True)
    assert found is not None
    assert "EVENT_SALE_CLOSED" in found


def test_a_phase_around_another_keeps_the_order_of_its_events(empty: Workspace) -> None:
    """Without `any_order`, and without `repeats`, it stands at most once in each place, in its order."""
    grammar = lifecycle(
        empty,
        {"step": ", repeats: true", "around": ", around: step"},
        {"step": "step", "report": "around, optional: true", "saved": "around, optional: true"},
    )
    assert violation(grammar, "report saved step report step saved", complete=True) is None
    assert violation(grammar, "step saved report") == spelled(
        "event 3 of the run: <report> cannot follow <saved>: expected <step>"
    )


def test_events_in_any_order_come_as_often_as_their_flags_say(empty: Workspace) -> None:
    """The order is free; what must come comes, and what does not repeat does not."""
    grammar = lifecycle(
        empty,
        {"open": ", any_order: true", "shut": ""},
        {"lamp": "open", "door": "open, repeats: true", "cat": "open, optional: true", "shut": "shut"},
    )
    for run in ("lamp door shut", "door cat door lamp door shut", "cat door lamp shut"):
        assert violation(grammar, run, complete=True) is None
    assert violation(grammar, "lamp cat shut") == spelled(
        "event 3 of the run: <shut> cannot follow <cat>: expected <door>"
    )
    assert violation(grammar, "lamp door lamp") is not None


def test_a_side_at_any_time_closes_what_was_opened(empty: Workspace) -> None:
    """Of a pair at any time, each `post` needs a `pre` of its own, and each `pre` waits for its `post`."""
    grammar = lifecycle(
        empty, {"step": "", "nap": ", anytime: true"}, {"first": "step", "nap.pre": "nap", "nap.post": "nap"}
    )
    assert violation(grammar, "nap.pre first nap.post nap.pre nap.post", complete=True) is None
    assert violation(grammar, "nap.pre nap.post nap.post") == spelled(
        "event 3 of the run: <nap.post> comes before <nap.pre>"
    )
    assert violation(grammar, "nap.pre nap.pre") == spelled(
        "event 2 of the run: <nap.pre> comes again before <nap.post>"
    )


def test_a_run_without_events_is_complete_where_all_is_optional(empty: Workspace) -> None:
    """A module whose phases are all optional allows a run in which nothing happens."""
    grammar = lifecycle(empty, {"step": ", optional: true"}, {"first": "step"})
    assert violation(grammar, "", complete=True) is None


def test_an_event_at_any_time_may_come_only_after_another_one(empty: Workspace) -> None:
    """`after` holds for events that may fall anywhere, too."""
    grammar = lifecycle(
        empty,
        {"step": "", "count": ", anytime: true"},
        {"first": "step", "second": "step", "counted": "count, after: EVENT_SALE_FIRST"},
    )
    assert violation(grammar, "first counted second counted", complete=True) is None
    assert violation(grammar, "counted first") == spelled("event 1 of the run: <counted> comes before <first>")
