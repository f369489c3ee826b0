"""The page docs/catalogue/rules.md: what each rule refuses, with an example, its diagnostic and the fix.

`python -m d9d_codegen.rules.page` prints it.
"""

import sys
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Final, NamedTuple

from d9d_codegen.diagnostic import Diagnostic, DiagnosticError, Source, as_text
from d9d_codegen.lint import RULES, SUPPRESSIBLE, lint_text
from d9d_codegen.render.markdown import code

VALID: Final = """\
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

SIBLING: Final = """\
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
    """An edit of the valid catalogue that breaks a rule.

    Attributes:
        valid: A part of the valid catalogue.
        invalid: What replaces it.
    """

    valid: str
    invalid: str

    @property
    def catalogue(self) -> str:
        """The whole invalid catalogue."""
        return VALID.replace(self.valid, self.invalid)


_PRE, _POST = (line for line in VALID.splitlines(keepends=True) if "EVENT_SALE_CUSTOMER" in line)
_LENT, _RETURNED = (line for line in VALID.splitlines(keepends=True) if "EVENT_LOAN" in line)
_LOAN_MODULE: Final = VALID[VALID.index("  loan:") :]
_LOAN: Final = "      EventLoanContext: {doc: Context of a loan.}\n"

EXAMPLES: Final[dict[str, Example]] = {
    "bad-bracket": Example("doc: It is back.", "doc: It is back., ends: EVENT_LOAN_LENT"),
    "bad-context": Example("opening\n        context: EventTillContext", "opening\n        context: shop.Event Till"),
    "bad-default": Example('default: "[]"', "default: nothing"),
    "bad-suppression": Example("Triggered at the door.", "Triggered at the door., allow: [foreign-id]"),
    "bad-id": Example("id: sale.opened", "id: sale.Opened"),
    "bad-key": Example("notes:", "3:"),
    "bad-name": Example("notes:", "class:"),
    "bad-package": Example("package: shop.events", "package: shop-events"),
    "bad-type": Example('"list[str]"', '"list[str"'),
    "bad-yaml": Example("doc: Contexts of all loops.", "doc: Contexts: of all loops."),
    "conflicting-flags": Example("Something is lent.", "Something is lent., around: returning, anytime: true"),
    "control-character": Example("doc: Context of a count.", r'doc: "Context of a count.\a"'),
    "crossed-pair": Example(_PRE + _POST, _POST + _PRE),
    "device-type": Example("{type: int, doc: The step's index.", "{type: int, doc: The step's index., device: true"),
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
    "shadowed-name": Example("notes:", "decimal:"),
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
    "mismatched-pair": Example("EventStepContext, doc: And", "EventTillContext, doc: And"),
    "incompatible-replacement": Example("sum: {type: decimal.Decimal", "sum: {type: int"),
    "unknown-context": Example("lending, context: EventLoanContext", "lending, context: EventLoneContext"),
    "unknown-event": Example("doc: It is back.", "doc: It is back., after: EVENT_LOAN_LEND"),
    "unknown-key": Example("repeats: true", "repeat: true"),
    "unknown-module": Example("{type: int, doc: The step's", "{type: decimals.Decimal, doc: The step's"),
    "unknown-name": Example("{type: int, doc: The step's", "{type: itn, doc: The step's"),
    "unknown-phase": Example("phase: lending", "phase: lendings"),
    "unknown-replacement": Example("replaced_by: total", "replaced_by: totals"),
    "unknown-stability": Example("opens.\n        stability: stable", "opens.\n        stability: stabel"),
    "unknown-type": Example("{type: int, doc: The step's", "{type: decimal.Decimall, doc: The step's"),
    "unknown-version": Example("version: 1", "version: 2"),
    "unreachable-event": Example("Triggered at the door.", "Triggered at the door., after: EVENT_LOAN_RETURNED"),
    "unreachable-phase": Example("Something is lent.", "Something is lent., terminal: true"),
    "unusable-type": Example("{type: int, doc: The step's", "{type: 'typing.ClassVar[int]', doc: The step's"),
    "unused-context": Example(_LOAN, "      EventGiftContext: {doc: Context of a gift.}\n" + _LOAN),
    "unused-suppression": Example("Triggered at the door.", "Triggered at the door., allow: [name-style]"),
    "wrong-kind": Example('since: "0.3"', "since: 0.3"),
    "yaml-alias": Example("doc: Context of a loan.", "doc: *text"),
    "yaml-anchor": Example("doc: Context of a loan.", "doc: &text Context of a loan."),
    "yaml-tag": Example("doc: Context of a loan.", "doc: !!str Context of a loan."),
}

# The rules that are not functions over the model: those about YAML, the schema, and suppressions.
OTHER_RULES: Final = {
    "bad-suppression": "A suppression names no rule, or one that cannot be suppressed.",
    "bad-key": "A key is not text.",
    "bad-yaml": "The text is empty, is not YAML, has a second document, or is nested too deeply.",
    "control-character": "A text contains a character that cannot be shown.",
    "duplicate-key": "A mapping has the same key twice.",
    "empty-text": "A text is empty.",
    "missing-key": "An entry lacks a required key.",
    "unknown-key": "An entry has a key that does not exist.",
    "unknown-stability": 'A stability is neither "experimental" nor "stable".',
    "unknown-version": "The version of the format is one that this compiler does not know.",
    "unused-suppression": "A suppression names a rule that reports nothing in its entry.",
    "wrong-kind": "A value has the wrong kind for its key, such as a number where text is expected.",
    "yaml-alias": "The text contains an alias, which would repeat something from elsewhere.",
    "yaml-anchor": "The text contains an anchor, which only an alias would need.",
    "yaml-tag": "The text contains a tag, which could build any object.",
}


_HEAD = """\
<!-- Generated by `python -m d9d_codegen.rules.page`; edit the rules and their examples, not this file. -->

# The rules of a catalogue

`d9d-catalogue lint`, `check` and `generate` check a catalogue against all of them and report every error in one run.
Each example below is an edit of the catalogue at the end of this page, which is valid.

A rule marked *can be suppressed* reports nothing in a module, phase, context, field or event that says `allow: [rule]`,
or in anything inside it. An unused suppression is itself an error. The other rules cannot be suppressed, since the
generated code depends on them.
"""


def rule_page() -> str:
    """Return the text of the page."""
    refuses = {rule: _first_sentence(find.__doc__) for rule, find in RULES.items()} | OTHER_RULES
    lines = [_HEAD, "| Rule | Refuses | |", "|---|---|---|"]
    lines += [
        f"| [{code(rule)}](#{rule}) | {refuses[rule]} | {'can be suppressed' * (rule in SUPPRESSIBLE)} |"
        for rule in sorted(refuses)
    ]
    for rule in sorted(refuses):
        lines += ["", f"## {code(rule)}", "", refuses[rule], *_shown(EXAMPLES[rule])]
    lines += ["", "## The catalogue of the examples", "", *_fenced("yaml", VALID)]
    lines += ["", "Its project also names this catalogue, `bank.yaml`, before it:", "", *_fenced("yaml", SIBLING)]
    return "\n".join(lines) + "\n"


def diagnostics_of(catalogue: str) -> list[Diagnostic]:
    """Return the diagnostics of a text, as if it were a file `catalogue.yaml`."""
    try:
        sibling = lint_text(Source(Path("bank.yaml"), SIBLING))
        lint_text(Source(Path("catalogue.yaml"), catalogue), [sibling])
    except DiagnosticError as error:
        return error.diagnostics
    return []


def _first_sentence(docstring: str | None) -> str:
    return (docstring or "").partition("\n")[0]


def _shown(example: Example) -> Iterator[str]:
    invalid, valid = _differing(example.catalogue, VALID)
    yield from ["", *_fenced("yaml", invalid)]
    yield from ["", *_fenced("text", as_text(diagnostics_of(example.catalogue)))]
    yield from ["", "Fixed:", "", *_fenced("yaml", valid)]


def _differing(one: str, other: str) -> tuple[str, str]:
    """Return the lines in which two texts differ, with the line before where one of them has no such lines."""
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
