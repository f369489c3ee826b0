"""Page."""

import sys
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Final, NamedTuple

from d9d_codegen.diagnostic import Diagnostic, DiagnosticError, Source, as_text
from d9d_codegen.lint import RULES, SUPPRESSIBLE, lint_text
from d9d_codegen.render.page import code

MENDED: Final = """\
version: 1
package: shop.events
modules:
  common:
    doc: Contexts of all loops.
    contexts:
      EventStepContext:
        doc: Context of a step.
        fields:
          step: {type: int, doc: The step's index.}
  sale:
    doc: Events of a sale.
    phases:
      opening: {doc: The shop opens.}
      serving: {doc: A customer is served., repeats: true, optional: true}
      closing: {doc: The shop closes., terminal: true}
    contexts:
      EventTillContext:
        doc: Context of a count.
        stability: stable
        fields:
          total: {type: decimal.Decimal, doc: What is in the till.}
          notes: {type: "list[str]", doc: What was found., default: "[]"}
          sum: {type: decimal.Decimal, doc: Its old name., deprecated: {since: "0.3", replaced_by: total}}
    events:
      EVENT_SALE_OPENED:
        id: sale.opened
        phase: opening
        context: EventTillContext
        doc: Triggered when the door opens.
        stability: stable
      EVENT_SALE_CUSTOMER_PRE: {id: sale.customer.pre, phase: serving, context: EventStepContext, doc: Somebody enters.}
      EVENT_SALE_CUSTOMER_POST: {id: sale.customer.post, phase: serving, context: EventStepContext, doc: And leaves.}
      EVENT_SALE_CLOSED: {id: sale.closed, phase: closing, context: EventTillContext, doc: Triggered at night.}
  loan:
    doc: Events of a loan.
    phases:
      lending: {doc: Something is lent.}
      returning: {doc: It comes back.}
    contexts:
      EventLoanContext: {doc: Context of a loan.}
    events:
      EVENT_LOAN_LENT: {id: loan.lent, phase: lending, context: EventLoanContext, doc: Triggered at the door.}
      EVENT_LOAN_RETURNED: {id: loan.returned, phase: returning, context: EventStepContext, doc: It is back.}
"""

NEIGHBOUR: Final = """\
version: 1
package: bank.events
modules:
  bank:
    doc: Events of a bank.
    phases:
      day: {doc: The bank is open.}
    events:
      EVENT_BANK_OPENED: {id: bank.opened, phase: day, context: EventBankContext, doc: Triggered in the morning.}
    contexts:
      EventBankContext: {doc: Context of a bank.}
"""


class Example(NamedTuple):
    """What breaks a rule.

    Attributes:
        mended: A part of the good catalogue.
        failing: What stands in its place in the bad one.
    """

    mended: str
    failing: str

    @property
    def catalogue(self) -> str:
        """The whole of the bad catalogue."""
        return MENDED.replace(self.mended, self.failing)


_PRE, _POST = (line for line in MENDED.splitlines(keepends=True) if "EVENT_SALE_CUSTOMER" in line)
_LENT, _RETURNED = (line for line in MENDED.splitlines(keepends=True) if "EVENT_LOAN" in line)
_LOAN_MODULE: Final = MENDED[MENDED.index("  loan:") :]
_LOAN: Final = "      EventLoanContext: {doc: Context of a loan.}\n"

EXAMPLES: Final[dict[str, Example]] = {
    "bad-context": Example("opening\n        context: EventTillContext", "opening\n        context: shop.Event Till"),
    "bad-default": Example('default: "[]"', "default: nothing"),
    "bad-suppression": Example("Triggered at the door.", "Triggered at the door., allow: [foreign-id]"),
    "bad-id": Example("id: sale.opened", "id: sale.Opened"),
    "bad-key": Example("notes:", "3:"),
    "bad-name": Example("notes:", "class:"),
    "bad-package": Example("package: shop.events", "package: shop-events"),
    "bad-type": Example('"list[str]"', '"list[str"'),
    "bad-yaml": Example("doc: Contexts of all loops.", "doc: Contexts: of all loops."),
    "control-character": Example("doc: Context of a count.", r'doc: "Context of a count.\a"'),
    "crossed-pair": Example(_PRE + _POST, _POST + _PRE),
    "duplicate-id": Example("id: sale.closed", "id: sale.opened"),
    "duplicate-key": Example("        doc: Context of a step.\n", "        doc: Context of a step.\n" * 2),
    "duplicate-name": Example("EVENT_LOAN_LENT", "EVENT_SALE_OPENED"),
    "empty-phase": Example(
        "      returning: {doc: It comes back.}\n",
        "      waiting: {doc: Nothing happens.}\n      returning: {doc: It comes back.}\n",
    ),
    "empty-text": Example("doc: Context of a step.", 'doc: ""'),
    "foreign-id": Example("id: loan.lent", "id: sale.lent"),
    "half-pair": Example("id: sale.closed", "id: sale.closed.pre"),
    "hidden-name": Example("notes:", "decimal:"),
    "import-cycle": Example("{type: int, doc: The step's", "{type: shop.events.sale.EventTillContext, doc: The step's"),
    "less-stable": Example("count.\n        stability: stable", "count.\n        stability: experimental"),
    "missing-key": Example("{type: int, doc: The step's index.}", "{type: int}"),
    "name-style": Example("notes:", "saleNotes:"),
    "not-a-context": Example(
        "returning, context: EventStepContext",
        "returning, context: d9d.loop.event.catalogue.train.EVENT_TRAIN_READY",
    ),
    "owned-namespace": Example(
        _LOAN_MODULE, _LOAN_MODULE.replace("  loan:", "  bank:").replace("id: loan", "id: bank")
    ),
    "owned-package": Example("package: shop.events", "package: bank.events"),
    "phase-order": Example(_LENT + _RETURNED, _RETURNED + _LENT),
    "reserved-name": Example("EventLoanContext", "Warning"),
    "uneven-pair": Example("EventStepContext, doc: And", "EventTillContext, doc: And"),
    "uneven-replacement": Example("sum: {type: decimal.Decimal", "sum: {type: int"),
    "unknown-context": Example("lending, context: EventLoanContext", "lending, context: EventLoneContext"),
    "unknown-key": Example("repeats: true", "repeat: true"),
    "unknown-module": Example("{type: int, doc: The step's", "{type: decimals.Decimal, doc: The step's"),
    "unknown-name": Example("{type: int, doc: The step's", "{type: itn, doc: The step's"),
    "unknown-phase": Example("phase: lending", "phase: lendings"),
    "unknown-replacement": Example("replaced_by: total", "replaced_by: totals"),
    "unknown-stability": Example("opens.\n        stability: stable", "opens.\n        stability: stabel"),
    "unknown-type": Example("{type: int, doc: The step's", "{type: decimal.Decimall, doc: The step's"),
    "unknown-version": Example("version: 1", "version: 2"),
    "unreachable-phase": Example("Something is lent.", "Something is lent., terminal: true"),
    "unused-context": Example(_LOAN, "      EventGiftContext: {doc: Context of a gift.}\n" + _LOAN),
    "unused-suppression": Example("Triggered at the door.", "Triggered at the door., allow: [name-style]"),
    "wrong-kind": Example('since: "0.3"', "since: 0.3"),
    "yaml-alias": Example("doc: Context of a loan.", "doc: *text"),
    "yaml-anchor": Example("doc: Context of a loan.", "doc: &text Context of a loan."),
    "yaml-tag": Example("doc: Context of a loan.", "doc: !!str Context of a loan."),
}

# What the rules refuse that are no functions over the model: those about YAML, the shape, and suppressions.
OTHER_RULES: Final = {
    "bad-suppression": "An suppression names no rule, or one that nothing can be exempted from.",
    "bad-key": "A key is no text.",
    "bad-yaml": "The text is empty, is no YAML, holds a second document, or is nested too deeply.",
    "control-character": "A text holds a character that cannot be shown.",
    "duplicate-key": "A mapping has one key twice.",
    "empty-text": "A text is empty.",
    "missing-key": "An entry lacks a key that it must have.",
    "unknown-key": "An entry has a key that there is not.",
    "unknown-stability": 'A stability is neither "experimental" nor "stable".',
    "unknown-version": "The version of the shape is one that this compiler does not know.",
    "unused-suppression": "An suppression is from a rule that finds nothing in its entry.",
    "wrong-kind": "A value is of another kind than its key wants, such as a number where a text belongs.",
    "yaml-alias": "The text holds an alias: it would repeat something from elsewhere.",
    "yaml-anchor": "The text holds an anchor, which only an alias would need.",
    "yaml-tag": "The text holds a tag, which could build any object.",
}


_HEAD = """\
<!-- Generated by `python -m d9d_codegen.rules.page`; edit the rules and their examples, not this file. -->

# The rules of a catalogue

`d9d-catalogue lint`, `check` and `generate` hold a catalogue against all of them, and tell every diagnostic in one run.
Each example below is an edit of the catalogue at the end of this page, which has no diagnostic.

A rule marked *can be allowed* finds nothing in an entry that says `allow: [rule]`, nor in what that entry holds:
modules, phases, contexts, fields and events can say it. An unused suppression is itself an error.
From no other rule can anything be exempted: what is generated rests on them.
"""


def rule_page() -> str:
    """Return the text of the page."""
    refuses = {rule: _first_sentence(find.__doc__) for rule, find in RULES.items()} | OTHER_RULES
    lines = [_HEAD, "| Rule | Refuses | |", "|---|---|---|"]
    lines += [
        f"| [{code(rule)}](#{rule}) | {refuses[rule]} | {'can be allowed' * (rule in SUPPRESSIBLE)} |"
        for rule in sorted(refuses)
    ]
    for rule in sorted(refuses):
        lines += ["", f"## {code(rule)}", "", refuses[rule], *_shown(EXAMPLES[rule])]
    lines += ["", "## The catalogue of the examples", "", *_fenced("yaml", MENDED)]
    lines += ["", "Its project names another catalogue before it, `bank.yaml`:", "", *_fenced("yaml", NEIGHBOUR)]
    return "\n".join(lines) + "\n"


def problems_of(catalogue: str) -> list[Diagnostic]:
    """Return the diagnostics of a text, as if it were that of a file `catalogue.yaml`."""
    try:
        neighbour = lint_text(Source(Path("bank.yaml"), NEIGHBOUR))
        lint_text(Source(Path("catalogue.yaml"), catalogue), [neighbour])
    except DiagnosticError as refused:
        return refused.diagnostics
    return []


def _first_sentence(docstring: str | None) -> str:
    return (docstring or "").partition("\n")[0]


def _shown(example: Example) -> Iterator[str]:
    failing, mended = _differing(example.catalogue, MENDED)
    yield from ["", *_fenced("yaml", failing)]
    yield from ["", *_fenced("text", as_text(problems_of(example.catalogue)))]
    yield from ["", "Mended:", "", *_fenced("yaml", mended)]


def _differing(one: str, other: str) -> tuple[str, str]:
    """Return the lines of two texts in which they differ; the line before, where one of them has no such lines."""
    lines, others = one.splitlines(), other.splitlines()
    changes = [change for change in SequenceMatcher(None, lines, others).get_opcodes() if change[0] != "equal"]
    shown: tuple[list[str], list[str]] = ([], [])
    for what, start, end, other_start, other_end in changes:
        before = what != "replace"
        shown[0].extend(lines[start - before : end])
        shown[1].extend(others[other_start - before : other_end])
    return "\n".join(shown[0]), "\n".join(shown[1])


def _fenced(language: str, text: str) -> list[str]:
    return [f"```{language}", text.rstrip("\n"), "```"]


if __name__ == "__main__":
    sys.stdout.write(rule_page())
