"""Writes the generated parts of the pages about the mypy plugin and `d9d check`: tables, and an example of each code.

`python tests/mypy/verification_page.py` writes them; the text around them is written by hand.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from mypy.errorcodes import ErrorCode
from seeded_mistakes import MISTAKES, SECONDS, SeededMistake, Way

from d9d.mypy import diagnostics
from d9d_check.codes import CODES as CHECKER_CODES
from d9d_check.codes import UNCHECKED

CASES = Path(__file__).parent / "cases"
PROGRAMS = Path(__file__).parents[1] / "check" / "programs"
DOCS = Path(__file__).parents[2] / "docs"
PAGES = {name: DOCS / f"{name}.md" for name in ("verification", "check")}
CODES = {
    value.code: value for value in vars(diagnostics).values() if isinstance(value, ErrorCode) and "d9d" in value.code
}
SHOWN = {
    "verification": [code for code in CODES if code != diagnostics.INDEX.code],
    "check": [code for code in diagnostics.CODES if code != UNCHECKED],
}
"""By page, the codes with an example: all that are about code."""
EXAMPLE = re.compile(r"^ *# docs: (?P<code>d9d-[a-z-]+)\n(?P<text>.*?)^ *# docs: end$", re.DOTALL | re.MULTILINE)
GENERATED = re.compile(r"(?P<head><!-- generated: (?P<name>[a-z0-9-]+) -->\n).*?(?P<foot><!-- end -->)", re.DOTALL)


def examples() -> dict[str, str]:
    """Return the example of each code, which one of the programs marks with `# docs: CODE` and `# docs: end`."""
    found: dict[str, str] = {}
    for path in sorted([*CASES.glob("*.py"), *PROGRAMS.glob("*.py")]):
        for match in EXAMPLE.finditer(path.read_text(encoding="utf-8")):
            assert match["code"] not in found, f"{path.name} has a second example of {match['code']}"
            found[match["code"]] = textwrap.dedent(match["text"]).strip()
    return found


def page(text: str) -> str:
    """Return a page with its generated parts written again.

    Args:
        text: The current page.
    """
    parts = {"codes": "\n".join(_codes()), "ways": "\n".join(_ways()), "mistakes": "\n".join(_mistakes())}
    parts["codes-of-the-program"] = "\n".join(_codes_of_the_program())
    parts |= {code: f"```python\n{example}\n```" for code, example in examples().items()}
    return GENERATED.sub(lambda match: f"{match['head']}{parts[match['name']]}\n{match['foot']}", text)


def _codes() -> Iterator[str]:
    yield from ("| code | meaning | default | refines |", "|---|---|---|---|")
    for code, value in CODES.items():
        default = "on" if value.default_enabled else "off"
        broad = value.sub_code_of.code if value.sub_code_of else ""
        yield f"| [`{code}`](#{code}) | {value.description} | {default} | `{broad}` |"


def _codes_of_the_program() -> Iterator[str]:
    yield from ("| code | meaning |", "|---|---|")
    for code, meaning in CHECKER_CODES.items():
        name = f"[`{code}`](#{code})" if code in SHOWN["check"] else f"`{code}`"
        yield f"| {name} | {meaning} |"


def _ways() -> Iterator[str]:
    yield from (
        "| way | finds, of thirty | no other does | when | takes at most, for all thirty |",
        "|---|---|---|---|---|",
    )
    for way in Way:
        own = [mistake for mistake in MISTAKES if way in mistake.found_by]
        alone = sum(len(mistake.found_by) == 1 for mistake in own)
        moment = "as the program starts" if way is Way.START else "before anything runs"
        yield f"| {way.value} | {len(own)} | {alone} | {moment} | {SECONDS[way]} s |"
    yield f"| none of them | {sum(not mistake.found_by for mistake in MISTAKES)} | | | |"


def _mistakes() -> Iterator[str]:
    yield from (
        "| mistake | reported in | if nothing finds it | mypy | `d9d check` | `configure()` | found |",
        "|---|---|---|---|---|---|---|",
    )
    for mistake in MISTAKES:
        text = f"[{mistake.text.removesuffix('.')}](../tests/mypy/seeded/{mistake.program}.py)"
        cells = [" ".join(f"`{each}`" for each in sorted(mistake.found_by.get(way, ()))) or "–" for way in Way]
        start = f"| {text} | {_link(mistake.report)} | {mistake.outcome} |"
        yield f"{start} {' | '.join(cells)} | {_moment(mistake)} |"


def _moment(mistake: SeededMistake) -> str:
    if not mistake.found_by:
        return "**not found**"
    return "before the first step" if set(mistake.found_by) == {Way.START} else "before anything runs"


def _link(report: str | None) -> str:
    repository, _, number = (report or "").partition("#")
    return f"[{report}](https://github.com/{repository}/issues/{number})" if report else ""


if __name__ == "__main__":
    for path in PAGES.values():
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
