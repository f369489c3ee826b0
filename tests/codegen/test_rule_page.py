"""The page of rules shows for each rule an example that breaks it and nothing else, and is made from the rules."""

from pathlib import Path

import pytest

from d9d_codegen.lint import RULES
from d9d_codegen.rules.page import EXAMPLES, OTHER_RULES, VALID, diagnostics_of, rule_page

PAGE = Path(__file__).parents[2] / "docs" / "catalogue" / "rules.md"


def test_every_rule_has_an_example() -> None:
    """No rule goes without a sentence and an example, and no example is of a rule that there is not."""
    assert set(EXAMPLES) == {*RULES, *OTHER_RULES}
    assert all(find.__doc__ for find in RULES.values())


def test_the_mended_catalogue_has_no_diagnostic() -> None:
    """What all examples are edits of is a good catalogue."""
    assert diagnostics_of(VALID) == []


@pytest.mark.parametrize("rule", sorted(EXAMPLES))
def test_an_example_breaks_its_rule_and_no_other(rule: str) -> None:
    """Each failing example is refused by its very rule."""
    assert {diagnostic.rule for diagnostic in diagnostics_of(EXAMPLES[rule].catalogue)} == {rule}


def test_the_committed_page_is_made_from_the_rules() -> None:
    """`make generate` writes the page, and what is committed is what it writes."""
    assert PAGE.read_text(encoding="utf-8") == rule_page()
