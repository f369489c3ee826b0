"""The lifecycle as others get it: data in the index, a diagram and neighbours on the pages."""

import json
import re

from .workspace import SMALL, Workspace

DIAGRAM = """\
stateDiagram-v2
    state "opening" as phase1
    state phase1 {
        state "sale.opened" as EVENT_SALE_OPENED
        [*] --> EVENT_SALE_OPENED
        EVENT_SALE_OPENED --> [*]
    }
    state "serving" as phase2
    state phase2 {
        state "sale.customer.pre" as EVENT_SALE_CUSTOMER_PRE
        state "sale.customer.post" as EVENT_SALE_CUSTOMER_POST
        [*] --> EVENT_SALE_CUSTOMER_PRE
        EVENT_SALE_CUSTOMER_PRE --> EVENT_SALE_CUSTOMER_POST
        EVENT_SALE_CUSTOMER_POST --> [*]
    }
    state "closing" as phase3
    state phase3 {
        state "sale.closed" as EVENT_SALE_CLOSED
        [*] --> EVENT_SALE_CLOSED
        EVENT_SALE_CLOSED --> [*]
    }
    [*] --> phase1
    phase1 --> phase2
    phase1 --> phase3
    phase2 --> phase3
    phase2 --> phase2
    phase3 --> [*]
"""


def neighbours(page: str, constant: str) -> list[str]:
    """Return the two lines of an event's section about what can come before and after it."""
    section = page.partition(f"### `{constant}`")[2].partition("\n#")[0]
    return re.findall(r"^- (?:Before|After) it: .*$", re.sub(r"\]\([^)]*\)", "]", section), re.MULTILINE)


def test_the_index_holds_the_grammar_of_each_loop(small: Workspace) -> None:
    """A checker without the compiler reads in `index.json` what may follow what."""
    small.run("generate")
    modules = json.loads(small.read("shop/events/index.json"))["modules"]
    assert "lifecycle" not in modules["common"]
    assert modules["sale"]["lifecycle"] == {
        "first": ["sale.opened"],
        "followers": {
            "sale.opened": ["sale.customer.pre", "sale.closed"],
            "sale.customer.pre": ["sale.customer.post"],
            "sale.customer.post": ["sale.customer.pre", "sale.closed"],
            "sale.closed": [],
        },
        "last": ["sale.closed"],
        "may_be_empty": False,
        "anytime": {},
        "final": ["sale.closed"],
    }


def test_the_page_of_a_loop_draws_its_lifecycle(small: Workspace) -> None:
    """Each phase is a state that holds its events, and the edges between phases follow their flags."""
    small.run("generate")
    assert f"```mermaid\n{DIAGRAM}```\n" in small.read("docs/events/sale.md")
    assert "mermaid" not in small.read("docs/events/common.md")


def test_the_page_says_what_can_come_before_and_after_each_event(small: Workspace) -> None:
    """Neighbours are links to events, or the beginning and the end of the run."""
    small.run("generate")
    page = small.read("docs/events/sale.md")
    assert neighbours(page, "EVENT_SALE_OPENED") == [
        "- Before it: the beginning of the run",
        "- After it: [`EVENT_SALE_CUSTOMER_PRE`] or [`EVENT_SALE_CLOSED`]",
    ]
    assert neighbours(page, "EVENT_SALE_CLOSED") == [
        "- Before it: [`EVENT_SALE_OPENED`] or [`EVENT_SALE_CUSTOMER_POST`]",
        "- After it: the end of the run",
    ]


def test_events_at_any_time_stand_beside_anything(small: Workspace) -> None:
    """A `post` at any time comes after its `pre`; the phase is marked, and no edge leads to it."""
    small.write(
        SMALL.replace(
            "serving: {doc: A customer is served., repeats: true, optional: true}", "serving: {doc: X., anytime: true}"
        )
    )
    small.run("generate")
    page = small.read("docs/events/sale.md")
    assert '    state "serving, at any time" as phase2\n' in page
    assert "--> phase2" not in page
    assert neighbours(page, "EVENT_SALE_CUSTOMER_PRE") == ["- Before it: any event", "- After it: any event"]
    assert neighbours(page, "EVENT_SALE_CUSTOMER_POST") == [
        "- Before it: any event, after [`EVENT_SALE_CUSTOMER_PRE`]",
        "- After it: any event",
    ]
