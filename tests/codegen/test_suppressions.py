"""`allow: [rule]`: an entry in which a rule finds nothing, and only where that is needed."""

import ast

import pytest

from d9d_codegen.lint import SUPPRESSIBLE

from .workspace import SMALL, Workspace

# For each rule a part of a good catalogue, and what breaks the rule if it stands behind that part.
BROKEN = {
    "empty-phase": ("opening: {doc: The shop opens.}\n", "      night: {doc: Nobody.ALLOW}\n"),
    "half-pair": (
        "    events:\n",
        "      EVENT_SALE_PRE: {id: sale.pre, phase: opening, context: EventDayContext, doc: First.ALLOW}\n",
    ),
    "less-stable": (
        "doc: Context of a whole day.\n",
        """\
        fields:
          last: {type: EventWeekContext | None, doc: Last., stability: stableALLOW}
      EventWeekContext: {doc: A week., stability: experimental}
""",
    ),
    "name-style": ("doc: The step's index.}\n", "          numSteps: {type: int, doc: Their number.ALLOW}\n"),
    "unused-context": ("doc: Context of a whole day.\n", "      EventNightContext: {doc: A night.ALLOW}\n"),
}


def broken(rule: str, allow: str = "") -> str:
    """Return a catalogue that breaks a rule, with what is said about that in the very entry."""
    part, more = BROKEN[rule]
    assert part in SMALL
    return SMALL.replace(part, part + more.replace("ALLOW", allow))


def test_these_rules_and_no_others_can_be_suppressed() -> None:
    """Each rule that can be suppressed is tested here."""
    assert set(BROKEN) == SUPPRESSIBLE


@pytest.mark.parametrize("rule", sorted(SUPPRESSIBLE))
def test_an_suppressed_entry_is_compiled(small: Workspace, rule: str) -> None:
    """What is refused is compiled when the entry allows it, into modules that Python reads."""
    [diagnostic] = small.refused(broken(rule))
    assert f"error[{rule}]" in diagnostic
    small.write(broken(rule, f", allow: [{rule}]"))
    assert small.run("generate") == (0, "wrote 7 of 7 files\n")
    for module in ("common", "sale"):
        ast.parse(small.read(f"shop/events/{module}.py"))


def of_module(catalogue: str) -> str:
    """Return a catalogue whose second module allows contexts that nothing uses."""
    doc = "    doc: Events of a sale.\n"
    return catalogue.replace(doc, f"{doc}    allow: [unused-context]\n")


def test_a_suppression_of_a_module_holds_for_all_in_it_and_for_nothing_else(small: Workspace) -> None:
    """It covers what is in the module, and nothing in another one."""
    allowing = of_module(broken("unused-context"))
    small.write(allowing)
    assert small.run("lint")[0] == 0
    doc = "        doc: Context of a step.\n"
    others = allowing.replace("      EventStepContext:\n", f"      EventHourContext:\n{doc}      EventStepContext:\n")
    assert small.refused(others) == ["catalogue.yaml:7:7: error[unused-context]: nothing uses context EventHourContext"]


def test_the_innermost_suppression_is_the_one_that_is_used(small: Workspace) -> None:
    """Of two that allow the same, the outer one is needless, and said to be."""
    [diagnostic] = small.refused(of_module(broken("unused-context", ", allow: [unused-context]")))
    place, _, message = diagnostic.partition(" ")
    assert place == "catalogue.yaml:13:13:"
    assert message == 'error[unused-suppression]: sale suppresses "unused-context", which reports nothing in it'


def test_nothing_lets_a_phase_be_called_by_a_text(small: Workspace) -> None:
    """Its name appears in diagrams and links, where a quote would end it."""
    text = "      opening: {doc: The shop opens.}\n"
    refused = small.refused(SMALL.replace(text, text + "      'now\" | x': {doc: It is., allow: [name-style]}\n"))
    assert any('error[bad-name]: the phase "now" | x" is not a valid name' in line for line in refused)
