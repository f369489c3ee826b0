"""For each rule an example: a good catalogue, and in it the part that breaks the rule with what it has to be."""

from typing import Final, NamedTuple

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
    "bad-exemption": Example("Triggered at the door.", "Triggered at the door., allow: [foreign-id]"),
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
    "unused-exemption": Example("Triggered at the door.", "Triggered at the door., allow: [name-style]"),
    "wrong-kind": Example('since: "0.3"', "since: 0.3"),
    "yaml-alias": Example("doc: Context of a loan.", "doc: *text"),
    "yaml-anchor": Example("doc: Context of a loan.", "doc: &text Context of a loan."),
    "yaml-tag": Example("doc: Context of a loan.", "doc: !!str Context of a loan."),
}

# What the rules refuse that are no functions over the model: those about YAML, the shape, and exemptions.
OTHER_RULES: Final = {
    "bad-exemption": "An exemption names no rule, or one that nothing can be exempted from.",
    "bad-key": "A key is no text.",
    "bad-yaml": "The text is empty, is no YAML, holds a second document, or is nested too deeply.",
    "control-character": "A text holds a character that cannot be shown.",
    "duplicate-key": "A mapping has one key twice.",
    "empty-text": "A text is empty.",
    "missing-key": "An entry lacks a key that it must have.",
    "unknown-key": "An entry has a key that there is not.",
    "unknown-stability": 'A stability is neither "experimental" nor "stable".',
    "unknown-version": "The version of the shape is one that this compiler does not know.",
    "unused-exemption": "An exemption is from a rule that finds nothing in its entry.",
    "wrong-kind": "A value is of another kind than its key wants, such as a number where a text belongs.",
    "yaml-alias": "The text holds an alias: it would repeat something from elsewhere.",
    "yaml-anchor": "The text holds an anchor, which only an alias would need.",
    "yaml-tag": "The text holds a tag, which could build any object.",
}
