"""The command `coverage`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from d9d_codegen.coverage.order import Order
from d9d_codegen.coverage.python_file import python_files
from d9d_codegen.coverage.reader import Reader
from d9d_codegen.coverage.site import Sites
from d9d_codegen.coverage.verdict import verdict
from d9d_codegen.lint import examine_all
from d9d_codegen.problem import Problem
from d9d_codegen.report import FORMATS


def coverage(paths: Sequence[Path], catalogues: Sequence[Path], form: str) -> tuple[int, str]:
    """Hold source against the events of catalogues.

    Args:
        paths: Files, and folders with files, of Python source.
        catalogues: The catalogues of a project.
        form: How to print the problems: a key of `FORMATS`.

    Returns:
        The exit status, and what to print.

    Raises:
        RefusedError: A catalogue has problems, or some source cannot be read.
    """
    files = python_files(paths)
    problems: list[Problem] = []
    told = ""
    for declared in examine_all(catalogues):
        order, sites = Order(declared), Sites()
        with _deep_recursion():
            Reader(files, order, sites).read()
        problems += verdict(declared, order, sites)
        told += _summary(order, sites)
    status = int(any(problem.severity == "error" for problem in problems))
    problems = [*dict.fromkeys(problems)]  # a place in source may be told for each of several catalogues
    return status, FORMATS[form](problems) + (told if form == "text" else "")


@contextmanager
def _deep_recursion() -> Iterator[None]:
    """Let functions call each other as deeply as the most nested source that Python parses asks for."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20 * limit)  # the parser stops at three times the limit, and a level takes four calls
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _summary(order: Order, sites: Sites) -> str:
    """Return how many events are triggered and heard, in a sentence."""
    events = {path for path in order.events if not order.is_alias(path)}
    num_triggered = len(events & {site.event for site in sites.triggers})
    num_heard = len(events & {site.event for site in sites.handlers})
    return f"{num_triggered} of {len(events)} events are triggered, {num_heard} are heard\n"
