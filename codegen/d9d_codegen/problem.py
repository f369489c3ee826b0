"""What is wrong with a catalogue, or with what was generated from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from d9d_codegen.source import Source, Span, Text


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: The file in question, as the user would name it.
        rule: The name of the rule that found it.
        message: What was found.
        remedy: What to do about it.
        span: Where in the file, if it is about a place in it.
        line: The line of the file at `span`.
        detail: More to read below the message, such as a diff.
        severity: "error", or "warning" or "notice" where nothing is refused.
    """

    path: Path
    rule: str
    message: str
    remedy: str
    span: Span | None = None
    line: str = ""
    detail: str = ""
    severity: str = "error"


class RefusedError(Exception):
    """What was asked for cannot be done.

    Attributes:
        problems: Why, in the order in which to tell it.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(*(problem.message for problem in self.problems))


class Finding(NamedTuple):
    """What a rule found.

    Attributes:
        at: The very key or value that is wrong.
        message: What is wrong with it.
        remedy: What to do about it.
    """

    at: Text | Span
    message: str
    remedy: str


class Problems:
    """Collects the problems of one catalogue."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._found: list[Problem] = []

    def add(self, rule: str, at: Span | Text, message: str, remedy: str) -> None:
        """Note a problem.

        Args:
            rule: The name of the rule that found it.
            at: The very key or value that is wrong.
            message: What was found.
            remedy: What to do about it.
        """
        span = at.span if isinstance(at, Text) else at
        self._found.append(Problem(self._source.path, rule, message, remedy, span, self._source.line(span.line)))

    def __bool__(self) -> bool:
        """Return whether there is any problem."""
        return bool(self._found)

    def in_file_order(self) -> list[Problem]:
        """Return all problems in the order of their places."""
        return sorted(self._found, key=lambda problem: (problem.span or (), problem.rule, problem.message))
