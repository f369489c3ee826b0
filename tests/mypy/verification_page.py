"""Writes the generated parts of `docs/verification.md`: the table of codes, and an example of each from the cases.

`python tests/mypy/verification_page.py` writes them; the text around them is written by hand.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from mypy.errorcodes import ErrorCode

from d9d.mypy import diagnostics

CASES = Path(__file__).parent / "cases"
PAGE = Path(__file__).parents[2] / "docs" / "verification.md"
CODES = {
    value.code: value for value in vars(diagnostics).values() if isinstance(value, ErrorCode) and "d9d" in value.code
}
SHOWN = [code for code in CODES if code != diagnostics.INDEX.code]
"""The codes with an example: all but the one that is about a file, and not about code."""
EXAMPLE = re.compile(r"^ *# docs: (?P<code>d9d-[a-z-]+)\n(?P<text>.*?)^ *# docs: end$", re.DOTALL | re.MULTILINE)
GENERATED = re.compile(r"(?P<head><!-- generated: (?P<name>[a-z0-9-]+) -->\n).*?(?P<foot><!-- end -->)", re.DOTALL)


def examples() -> dict[str, str]:
    """Return the example of each code, which one of the cases marks with `# docs: CODE` and `# docs: end`."""
    found: dict[str, str] = {}
    for path in sorted(CASES.glob("*.py")):
        for match in EXAMPLE.finditer(path.read_text(encoding="utf-8")):
            assert match["code"] not in found, f"{path.name} has a second example of {match['code']}"
            found[match["code"]] = textwrap.dedent(match["text"]).strip()
    return found


def page(text: str) -> str:
    """Return the page with its generated parts written again.

    Args:
        text: The current page.
    """
    parts = {"codes": "\n".join(_table())}
    parts |= {code: f"```python\n{example}\n```" for code, example in examples().items()}
    return GENERATED.sub(lambda match: f"{match['head']}{parts[match['name']]}\n{match['foot']}", text)


def _table() -> Iterator[str]:
    yield from ("| code | meaning | default | refines |", "|---|---|---|---|")
    for code, value in CODES.items():
        default = "on" if value.default_enabled else "off"
        broad = value.sub_code_of.code if value.sub_code_of else ""
        yield f"| [`{code}`](#{code}) | {value.description} | {default} | `{broad}` |"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
