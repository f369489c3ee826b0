"""What earlier checks have found, kept by digests: summaries of files, what files import, findings of parts."""

import contextlib
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from d9d_check.files import read_file

FOLDER: Final = ".d9d_cache"
_MANY: Final = 4
"""How many times as many summaries as the last check has used may be kept."""


@functools.cache
def digest_of_checker() -> str:
    """Return a hash of this package's own sources: another version may find something else."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


class Store:
    """A folder that is read when it is asked, and written at the end.

    There is a file for each summary, since most checks need few of them. What files import and what was found is small,
    and in one file each. A folder that cannot be read or written costs time, and nothing else.

    Args:
        folder: The folder; `None` to keep nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder / digest_of_checker()[:16]
        self._outlines = self._load("outlines")
        self._findings = self._load("findings")
        self._used: dict[str, Any] = {}
        self._found: dict[str, Any] = {}

    def outline(self, digest: str) -> dict[str, Any] | None:
        """Return what a file imports, and whether it configures a loop, if it is known."""
        outline = self._outlines.get(digest)
        if not _is_outline(outline):
            return None
        self._used[digest] = outline
        return outline

    def summary(self, digest: str) -> dict[str, Any] | None:
        """Return the summary of a file, if it is known."""
        summary = self._load(f"summaries/{digest}")
        return summary if "body" in summary else None

    def findings(self, digest: str) -> list[Any] | None:
        """Return what was found in a part of a program, if it is known."""
        found = self._findings.get(digest)
        if not isinstance(found, list) or not all(map(_is_finding, found)):
            return None
        self._found[digest] = found
        return found

    def keep_summary(self, digest: str, summary: dict[str, Any], outline: dict[str, Any]) -> None:
        """Keep the summary of a file."""
        self._used[digest] = outline
        self._write(f"summaries/{digest}", summary)

    def keep_findings(self, digest: str, findings: list[Any]) -> None:
        """Keep what was found in a part of a program."""
        self._found[digest] = findings

    def close(self) -> None:
        """Write what is new, and forget what this check has not used."""
        if self._used.keys() != self._outlines.keys():
            self._write("outlines", self._used)
            self._remove_old()
        if self._found.keys() != self._findings.keys():
            self._write("findings", self._found)

    def _load(self, name: str) -> dict[str, Any]:
        if self._folder is None:
            return {}
        try:
            content = json.loads(read_file(self._folder / f"{name}.json"))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        if self._folder is None:
            return
        path = self._folder / f"{name}.json"
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            if not path.parent.exists():
                path.parent.mkdir(parents=True)
                (self._folder.parent / ".gitignore").write_text("*\n", encoding="utf-8")
            temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
            temporary.replace(path)
        except (OSError, ValueError, RecursionError):
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _remove_old(self) -> None:
        """Remove the summaries that this check has not used, once there are many, and those of other versions."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            old = [path for path in self._folder.glob("summaries/*.json") if path.stem not in self._used]
            for path in old if len(old) > _MANY * len(self._used) else []:
                path.unlink(missing_ok=True)


def _is_outline(outline: Any) -> bool:
    """Return whether something has the form of an outline: anybody may have written the files."""
    return (
        isinstance(outline, dict)
        and isinstance(outline.get("imports"), list)
        and all(_has_types(each, int, str, list) for each in outline["imports"])
        and isinstance(outline.get("configures"), bool)
        and isinstance(outline.get("is_empty"), bool)
    )


def _is_finding(found: Any) -> bool:
    return _has_types(found, str, int, int, int, int, str, str)


def _has_types(found: Any, *types: type) -> bool:
    return isinstance(found, list) and len(found) == len(types) and all(map(isinstance, found, types))
