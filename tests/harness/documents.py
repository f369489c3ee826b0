"""The pages of documentation, and the blocks of code in them."""

import dataclasses
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A fence, what it says of its language, its text, and a comment on the line above it that no reader sees.
_BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?P<mark>[^\n]*?) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class CodeBlock:
    """A block of code in a page.

    Attributes:
        path: The page.
        line: The number of the line of the page on which its code begins.
        language: What its fence says, such as `python`.
        mark: The comment above it, which readers do not see; empty where there is none.
        code: Its text.
    """

    path: Path
    line: int
    language: str
    mark: str
    code: str

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def guide_pages() -> list[Path]:
    """Return the pages that a user reads first: the README, and those of the guide."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]


def code_blocks(page: Path, language: str | None = None) -> Iterator[CodeBlock]:
    """Yield the blocks of code in a page.

    Args:
        page: A Markdown file.
        language: The language of the blocks to return; by default all.
    """
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        if language in (None, match["language"]):
            line = text.count("\n", 0, match.start("code")) + 1
            code = textwrap.dedent(match["code"])
            yield CodeBlock(page, line, match["language"], match["mark"] or "", code)
