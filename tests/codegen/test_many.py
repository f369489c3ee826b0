"""Thousands of errors are reported in seconds."""

import time

import pytest

from .workspace import Workspace

NUM = 1_500
MAX_SECONDS = 2.5
HEAD = """\
version: 1
package: shop.events
modules:
  sale:
    doc: Events of a sale.
"""
PHASES = "    phases:\n      open: {doc: The shop is open.}\n"
CONTEXTS = "    contexts:\n      EventDayContext: {doc: A day.}\n"


def lines(line: str) -> str:
    """Return a line for each number, which takes the place of `@`."""
    return "".join(f"      {line}\n".replace("@", str(number)) for number in range(NUM))


def events(event_id: str = "sale.e@", phase: str = "open", context: str = "EventDayContext") -> str:
    """Return a catalogue's events."""
    entry = lines(f"EVENT_@: {{id: {event_id}, phase: {phase}, context: {context}, doc: It is so.}}")
    return f"    events:\n{entry}"


CASES = {
    "contexts": HEAD
    + PHASES
    + "    contexts:\n"
    + lines("EventDay@Context: {doc: A day.}")
    + events(context="EvntDay@Context"),
    "suppressions": HEAD + "    contexts:\n" + lines("EventDay@Context: {doc: A day., allow: [unused-context]}"),
    "halves": HEAD + PHASES + CONTEXTS + events("sale.e@.pre"),
    "ids": HEAD + PHASES + CONTEXTS + events("sale.same"),
    "keys": HEAD + lines("EventDay@: {doc: A day.}").replace("      ", "    "),
    "modules": HEAD + lines("sale@: {doc: Nothing.}").replace("      ", "  "),
    "phases": HEAD + "    phases:\n" + lines("p@: {doc: A part.}") + CONTEXTS + events(phase="q@"),
    "replacements": HEAD
    + PHASES
    + CONTEXTS
    + events().replace("so.}", "so., deprecated: {since: '1', replaced_by: EVENT}}"),
    "types": HEAD
    + "    contexts:\n      EventDayContext:\n        doc: A day.\n        fields:\n"
    + lines("    f@: {type: argparse.Action@, doc: Nothing.}"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_catalogue_of_errors_is_judged_in_seconds(empty: Workspace, case: str) -> None:
    """Whatever is wrong thousands of times, the time stays within that of any bad input."""
    empty.write(CASES[case])
    start = time.process_time()
    _, output = empty.run("lint")
    assert time.process_time() - start < MAX_SECONDS
    assert output


def test_a_close_match_is_found_among_many_names(empty: Workspace) -> None:
    """A slip at the beginning, in the middle or at the end of a name still finds what was meant."""
    known = lines("EventDay@Context: {doc: A day.}")
    meant = ["vEentDay7Context", "EventDya1234Context", "EventDay1499Contextt"]
    told = []
    for slip in meant:
        first = f"      EVENT_SALE: {{id: sale.e, phase: open, context: {slip}, doc: It is so.}}\n"
        empty.write(HEAD + PHASES + "    contexts:\n" + known + "    events:\n" + first)
        _, output = empty.run("lint")
        told += [line.strip() for line in output.splitlines() if "did you mean" in line]
    assert told == [f'did you mean "EventDay{number}Context"?' for number in (7, 1234, 1499)]


def test_of_many_phases_the_first_are_named(empty: Workspace) -> None:
    """A message does not grow with the catalogue."""
    empty.write(HEAD + "    phases:\n" + lines("p@: {doc: A part.}") + CONTEXTS + events(phase="other"))
    _, output = empty.run("lint")
    assert "the phases of sale are p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, …\n" in output
