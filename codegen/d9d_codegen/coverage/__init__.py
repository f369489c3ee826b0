"""The command `coverage`: which declared events Python source triggers and handles, and in which order."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from d9d_codegen.catalogue import Catalogue
from d9d_codegen.coverage.flow import disorders
from d9d_codegen.coverage.order import Order, Site
from d9d_codegen.coverage.source import read_source
from d9d_codegen.coverage.trace import Sites, trace
from d9d_codegen.diagnostic import FORMATS, Diagnostic
from d9d_codegen.lint import lint_all


def _findings(catalogue: Catalogue, order: Order, sites: Sites) -> list[Diagnostic]:
    """Return every diagnostic: first those of the catalogue's events, in its order, then those of places in source."""
    in_source = [
        *_disorders(order, sites),
        *_unpaired(order, sites),
        *_repeated(sites),
        *_never_called(sites),
        *_crashes(sites),
    ]
    in_source.sort(key=lambda diagnostic: (diagnostic.path, diagnostic.span or (), diagnostic.rule))
    return [*_untriggered(catalogue, order, sites), *in_source]


def _untriggered(catalogue: Catalogue, order: Order, sites: Sites) -> Iterator[Diagnostic]:
    triggered = {site.event for site in sites.triggers}
    for path, event in order.events.items():
        if path in triggered or order.is_alias(path):
            continue
        handlers = [site for site in sites.handlers if site.event == path]
        yield Diagnostic(
            path=catalogue.source.path,
            rule="never-triggered",
            message=f'the given source never triggers {event.name} ("{event.id}")',
            remedy="trigger it, name the source that does, or remove it",
            span=event.name.span,
            line=catalogue.source.line(event.name.span.line),
            detail="\n".join(f"{handler}: {handler.function} handles it" for handler in handlers),
        )


def _disorders(order: Order, sites: Sites) -> Iterator[Diagnostic]:
    for site, (rule, _, before, message, remedy) in disorders(order, sites).items():
        detail = f"{before}: {before.name}, in {before.function}" if before else ""
        yield _diagnostic(rule, site, message, remedy, detail)


def _unpaired(order: Order, sites: Sites) -> Iterator[Diagnostic]:
    for pre, post in sites.unpaired:
        other = (order.other_side(pre.event) or "").rpartition(".")[2]
        instead = (
            f"use {other} with {pre.name}"
            if other
            else f"{pre.name} has no counterpart: use `trigger` instead of `bounded`"
        )
        message = f"{pre.name} and {post.name} do not begin and end the same block"
        yield _diagnostic("not-a-pair", post, message, instead)


def _repeated(sites: Sites) -> Iterator[Diagnostic]:
    places: dict[str, list[Site]] = {}
    for site in sorted(sites.triggers, key=lambda site: (site.source.path, site.span)):
        if site not in places.setdefault(site.event, []):
            places[site.event].append(site)
    for first, *others in places.values():
        for site in others:
            message = f"{site.name} is triggered in {len(others) + 1} places"
            remedy = "trigger it in one place, if all of them are the same moment"
            yield _diagnostic("triggered-twice", site, message, remedy, f"{first}: the first", severity="warning")


def _never_called(sites: Sites) -> Iterator[Diagnostic]:
    triggered = {site.event for site in sites.triggers}
    for site in sites.handlers:
        if site.event not in triggered:
            message = f"a handler subscribes to {site.name}, which the given source never triggers"
            remedy = "also name the source that triggers it, if there is any"
            yield _diagnostic("never-called", site, message, remedy, severity="warning")


def _crashes(sites: Sites) -> Iterator[Diagnostic]:
    for (path, span), reason in sites.crashes.items():
        yield Diagnostic(path, "not-followed", f"this could not be followed: {reason}", "please report it", span)


def _diagnostic(
    rule: str, site: Site, message: str, remedy: str, detail: str = "", *, severity: str = "error"
) -> Diagnostic:
    source = site.source
    return Diagnostic(source.path, rule, message, remedy, site.span, source.line(site.span.line), detail, severity)


def coverage(paths: Sequence[Path], catalogues: Sequence[Path], form: str) -> tuple[int, str]:
    """Check source against the events of catalogues.

    Args:
        paths: Files, and folders of files, of Python source.
        catalogues: The catalogues of a project.
        form: How to print the diagnostics: a key of `FORMATS`.

    Returns:
        The exit status, and the text to print.

    Raises:
        DiagnosticError: A catalogue is not valid, or some source cannot be read.
    """
    modules = read_source(paths)
    diagnostics: list[Diagnostic] = []
    summaries = ""
    for declared in lint_all(catalogues):
        order = Order(declared)
        with _deep_recursion():
            sites = trace(modules, order)
            diagnostics += _findings(declared, order, sites)
        summaries += _summary(order, sites)
    status = int(any(diagnostic.severity == "error" for diagnostic in diagnostics))
    diagnostics = [*dict.fromkeys(diagnostics)]  # several catalogues may report the same place
    return status, FORMATS[form](diagnostics) + (summaries if form == "text" else "")


@contextmanager
def _deep_recursion() -> Iterator[None]:
    """Raise the recursion limit for the most deeply nested source that Python parses."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20 * limit)  # the parser stops at three times the limit, and a level takes four calls
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _summary(order: Order, sites: Sites) -> str:
    """Return how many events are triggered and handled, in a sentence."""
    events = {path for path in order.events if not order.is_alias(path)}
    num_triggered = len(events & {site.event for site in sites.triggers})
    num_handled = len(events & {site.event for site in sites.handlers})
    return f"{num_triggered} of {len(events)} events are triggered, {num_handled} are handled\n"
