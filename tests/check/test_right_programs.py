"""The examples and the programs of the guide are right, and nothing is reported for them."""

import re
import shutil
from pathlib import Path

import pytest

from d9d_check.check import check

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"<!-- file: (\S+) -->\n```python\n(.*?)```", re.DOTALL)
PAGES = sorted((ROOT / "docs" / "guide").glob("*.md"))


@pytest.mark.parametrize("example", ["bytes_lm", "finetune", "handlers", "subscriber"])
def test_examples_are_right(example: str, tmp_path: Path) -> None:
    """All but the one that shows a mistake."""
    shutil.copytree(ROOT / "examples" / example, tmp_path / example, ignore=shutil.ignore_patterns("wrong"))

    found = check([tmp_path / example], use_cache=False).diagnostics

    assert [each for each in found if each.severity == "error"] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_programs_of_the_guide_are_right(page: Path, tmp_path: Path) -> None:
    """Each is checked as a program of its own."""
    for number, (name, text) in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / Path(name).name).write_text(text, encoding="utf-8")

        found = check([folder], use_cache=False).diagnostics

        assert [each for each in found if each.severity == "error"] == []


def test_the_mistake_of_the_examples_is_found(tmp_path: Path) -> None:
    """It is what the README shows."""
    shutil.copy(ROOT / "examples" / "bytes_lm" / "wrong" / "subscriber.py", tmp_path)

    assert [each.code for each in check([tmp_path], use_cache=False).diagnostics] == ["d9d-handler"]
