"""Links between pages, and files that pages name, lead somewhere."""

import re
from pathlib import Path

import pytest
from documents import ROOT, guide_pages

FOLDERS = ("docs", "examples")
PAGES = [*sorted(ROOT.glob("*.md")), *(page for name in FOLDERS for page in sorted((ROOT / name).rglob("*.md")))]
_LINK = re.compile(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^[ ]*```.*?^[ ]*```", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"`((?:d9d|codegen|tests|benchmarks|docs|examples)/[\w/.]+|\.ci/\w+\.py)`")


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page, and those that it has itself."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """To files, folders and headings of this repository."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(re.sub(r"`[^`\n]+`(?!\])", "", text)):  # but the text of a link may be code
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors_of(linked), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", guide_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Such as those that CONTRIBUTING names for each kind of change."""
    named = _PATH.findall(page.read_text(encoding="utf-8"))

    assert [name for name in named if not (ROOT / name).exists()] == []
    assert page.name != "CONTRIBUTING.md" or len(named) > 30
