"""`docs/verification.md` shows an example of each code from the cases."""

import re

import pytest
from verification_page import CASES, GENERATED, PAGE, SHOWN, examples, page

TEXTS = {path: path.read_text(encoding="utf-8") for path in CASES.glob("*.py")}
RIGHT = re.compile(r"^ *((async )?def |class )?_?right\w*( *[(:=])", re.IGNORECASE | re.MULTILINE)


def test_the_committed_page_is_made_from_the_cases() -> None:
    """The committed page is the output of `make generate`."""
    text = PAGE.read_text(encoding="utf-8")

    assert page(text) == text


def test_every_code_has_an_example_on_the_page() -> None:
    """The page has a wrong and a right example of each code about code, and no other examples."""
    shown = [match["name"] for match in GENERATED.finditer(PAGE.read_text(encoding="utf-8"))]

    assert shown == ["codes", "ways", "mistakes", *SHOWN]
    assert set(examples()) == set(SHOWN)
    for code, example in examples().items():
        assert f"# E[{code}]: " in example
        assert RIGHT.search(example)


@pytest.mark.parametrize("code", SHOWN)
def test_every_code_has_four_wrong_cases_and_four_right_ones(code: str) -> None:
    """One case shows that a check can report; four of each kind show when it does and when it does not."""
    texts = [text for text in TEXTS.values() if f"# E[{code}]: " in text]

    assert sum(text.count(f"# E[{code}]: ") for text in texts) >= 4
    assert sum(len(RIGHT.findall(text)) for text in texts) >= 4
