"""The documentation pages and their code blocks."""

import dataclasses
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A fenced code block with its language, and an optional HTML comment, which is not rendered, on the line above.
_BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?P<mark>[^\n]*?) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class CodeBlock:
    """A code block of a page.

    Attributes:
        path: The page.
        line: The line number in the page at which the code starts.
        language: The language of the fence, such as `python`.
        mark: The HTML comment above the block; empty if there is none.
        code: The code.
    """

    path: Path
    line: int
    language: str
    mark: str
    code: str

    @property
    def place(self) -> str:
        """The location of the block as `PATH:LINE`, for messages."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def guide_pages() -> list[Path]:
    """Return the README, CONTRIBUTING and the pages of the guide."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]


def code_blocks(page: Path, language: str | None = None) -> Iterator[CodeBlock]:
    """Yield the code blocks of a page.

    Args:
        page: A Markdown file.
        language: Only blocks of this language; by default all.
    """
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        if language in (None, match["language"]):
            line = text.count("\n", 0, match.start("code")) + 1
            code = textwrap.dedent(match["code"])
            yield CodeBlock(page, line, match["language"], match["mark"] or "", code)
