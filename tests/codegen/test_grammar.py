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


AROUND = """\
version: 1
package: shop.events
modules:
  sale:
    doc: Events of a sale.
    phases:
      opening: {doc: The shop opens.}
      serving: {doc: A customer is served., repeats: true, optional: true}
      counting: {doc: The till is counted., around: serving, any_order: true, repeats: true}
      alarm: {doc: It rings., aborts: true}
      closing: {doc: The shop closes., terminal: true}
    contexts:
      EventTillContext:
        doc: Context of a count.
        fields:
          total: {type: torch.Tensor, doc: What is in the till., device: true}
          notes: {type: str, doc: What was found.}
    events:
      EVENT_SALE_OPENED: {id: sale.opened, phase: opening, context: EventTillContext, doc: x}
      EVENT_SALE_SERVED: {id: sale.served, phase: serving, context: EventTillContext, doc: x}
      EVENT_SALE_COUNT: {id: sale.count, phase: counting, context: EventTillContext, doc: x}
      EVENT_SALE_SEEN: {id: sale.seen, phase: counting, context: EventTillContext, doc: x, optional: true}
      EVENT_SALE_COUNTED:
        id: sale.counted
        phase: counting
        context: EventTillContext
        doc: x
        ends: EVENT_SALE_COUNT
        repeats: true
        optional: true
      EVENT_SALE_NOTED:
        id: sale.noted
        phase: counting
        context: EventTillContext
        doc: x
        after: EVENT_SALE_COUNTED
        optional: true
      EVENT_SALE_RANG: {id: sale.rang, phase: alarm, context: EventTillContext, doc: x}
      EVENT_SALE_CLOSED: {id: sale.closed, phase: closing, context: EventTillContext, doc: x}
"""


def test_the_index_holds_the_keys_of_order_and_where_values_live(empty: Workspace) -> None:
    """Phases, events and contexts have their keys; followers hold what may follow any event."""
    empty.write(AROUND)
    assert empty.run("generate")[0] == 0
    index = json.loads(empty.read("shop/events/index.json"))
    counting, alarm = index["modules"]["sale"]["phases"][2:4]
    assert (counting["around"], counting["any_order"], alarm["aborts"]) == ("serving", True, True)
    assert index["events"]["shop.events.sale.EVENT_SALE_COUNTED"]["ends"] == "shop.events.sale.EVENT_SALE_COUNT"
    assert index["events"]["shop.events.sale.EVENT_SALE_NOTED"]["after"] == "shop.events.sale.EVENT_SALE_COUNTED"
    assert index["contexts"]["shop.events.sale.EventTillContext"]["device_fields"] == ["total"]
    found = index["modules"]["sale"]["lifecycle"]
    assert found["first"] == ["sale.opened", "sale.rang"]
    assert found["followers"]["sale.opened"] == ["sale.served", "sale.count", "sale.rang", "sale.closed"]
    assert found["followers"]["sale.count"] == ["sale.seen", "sale.counted", "sale.rang"]
    assert found["followers"]["sale.rang"] == ["sale.closed"]
    assert found["after"] == {"sale.noted": "sale.counted"}
    assert found["last"] == found["final"] == ["sale.closed"]


def test_the_page_says_what_happens_only_sometimes(empty: Workspace) -> None:
    """Each event says how often it occurs in what, and the table of phases where they may stand."""
    empty.write(AROUND)
    empty.write('[tool.d9d]\ndocs = "docs/events"\n', "pyproject.toml")
    empty.run("generate")
    page = re.sub(r"\]\([^)]*\)", "]", empty.read("docs/events/sale.md"))
    assert "| [`counting`] | any number of times before, between and after runs of serving |" in page
    assert "| [`alarm`] | at most once, after any event, then only a terminal phase |" in page
    assert re.findall(r"^- Occurs: (.*)$", page, re.MULTILINE) == [
        "once",
        "once in each run of the phase [`serving`]",
        "any number of times in each run of the phase [`counting`]",
        "at most once between [`EVENT_SALE_COUNT`] and [`EVENT_SALE_COUNTED`]",
        "any number of times in each run of the phase [`counting`]",
        "at most once in each run of the phase [`counting`]",
        "once in each run of the phase [`alarm`]",
        "once",
    ]
    assert "It occurs any number of times before, between and after runs of serving.\n" in page
    assert "- Closes: [`EVENT_SALE_COUNT`]" in page
    assert "| `total` | `torch.Tensor`, on the device | What is in the till. |" in page
    assert neighbours(page, "EVENT_SALE_OPENED") == [
        "- Before it: the beginning of the run",
        "- After it: [`EVENT_SALE_SERVED`], the phase [`counting`] or [`EVENT_SALE_CLOSED`]",
    ]
    assert neighbours(page, "EVENT_SALE_NOTED") == [
        "- Before it: [`EVENT_SALE_SERVED`] or the phase [`counting`]",
        "- After it: [`EVENT_SALE_SERVED`], the phase [`counting`] or [`EVENT_SALE_CLOSED`]",
    ]
    assert "- Only after: [`EVENT_SALE_COUNTED`]" in page
    assert neighbours(page, "EVENT_SALE_RANG") == [
        "- Before it: any event, or the beginning of the run",
        "- After it: [`EVENT_SALE_CLOSED`]",
    ]


def test_the_diagram_shows_the_way_of_a_run_and_labels_the_rest(empty: Workspace) -> None:
    """Phases around others and phases that abort have a label in place of edges to everything."""
    empty.write(AROUND)
    empty.write('[tool.d9d]\ndocs = "docs/events"\n', "pyproject.toml")
    empty.run("generate")
    page = empty.read("docs/events/sale.md")
    assert 'state "counting, around serving, in any order" as phase3\n' in page
    assert 'state "alarm, after any event" as phase4\n' in page
    edges = {line.strip() for line in page.partition("```mermaid")[2].partition("```")[0].splitlines() if "-->" in line}
    assert {edge for edge in edges if "phase" in edge} == {
        "[*] --> phase1",
        "phase1 --> phase2",
        "phase1 --> phase5",
        "phase2 --> phase2",
        "phase2 --> phase3",
        "phase2 --> phase5",
        "phase3 --> phase2",
        "phase4 --> phase5",
        "phase5 --> [*]",
    }
    assert "EVENT_SALE_COUNT --> EVENT_SALE_SEEN" in edges
    assert "EVENT_SALE_NOTED --> [*]" in edges
    assert not any(
        edge.startswith("EVENT_SALE_COUNTED --> EVENT") for edge in edges - {"EVENT_SALE_COUNTED --> EVENT_SALE_COUNT"}
    )


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
