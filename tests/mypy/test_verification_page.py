"""The pages about the mypy plugin and `d9d check` show an example of each code from the cases and programs."""

import re

import pytest
from verification_page import CASES, GENERATED, PAGES, SHOWN, examples, page

TEXTS = {path: path.read_text(encoding="utf-8") for path in CASES.glob("*.py")}
RIGHT = re.compile(r"^ *((async )?def |class )?_?right\w*( *[(:=])", re.IGNORECASE | re.MULTILINE)
TABLES = {"verification": {"codes", "ways", "mistakes"}, "check": {"codes-of-the-program"}}


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_made_from_the_cases(name: str) -> None:
    """The committed page is the output of `make generate`."""
    text = PAGES[name].read_text(encoding="utf-8")

    assert page(text) == text


@pytest.mark.parametrize("name", PAGES)
def test_every_code_has_an_example_on_its_page(name: str) -> None:
    """The page has a wrong and a right example of each code about code, and no other examples."""
    shown = [match["name"] for match in GENERATED.finditer(PAGES[name].read_text(encoding="utf-8"))]

    assert set(shown) == {*TABLES[name], *SHOWN[name]}
    for code in SHOWN[name]:
        assert f"# E[{code}]: " in examples()[code]
        assert RIGHT.search(examples()[code])


def test_there_is_no_example_of_anything_else() -> None:
    """Each is on one of the pages."""
    assert set(examples()) == {code for codes in SHOWN.values() for code in codes}


@pytest.mark.parametrize("code", SHOWN["verification"])
def test_every_code_of_the_plugin_has_four_wrong_cases_and_four_right_ones(code: str) -> None:
    """One case shows that a check can report; four of each kind show when it does and when it does not."""
    texts = [text for text in TEXTS.values() if f"# E[{code}]: " in text]

    assert sum(text.count(f"# E[{code}]: ") for text in texts) >= 4
    assert sum(len(RIGHT.findall(text)) for text in texts) >= 4
