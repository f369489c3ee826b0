"""What is to be said of the source in view: which events it triggers, where, and in which order."""

from collections.abc import Iterator

from d9d_codegen.coverage.order import Order
from d9d_codegen.coverage.site import Site, Sites
from d9d_codegen.model import Catalogue
from d9d_codegen.problem import Problem


def verdict(catalogue: Catalogue, order: Order, sites: Sites) -> list[Problem]:
    """Return every problem: first those of the catalogue's events, in its order, then those of places in source."""
    in_source = [*_disorders(sites), *_unpaired(order, sites), *_repeated(sites), *_unheard(sites)]
    in_source.sort(key=lambda problem: (problem.path, problem.span or (), problem.rule))
    return [*_untriggered(catalogue, order, sites), *in_source]


def _untriggered(catalogue: Catalogue, order: Order, sites: Sites) -> Iterator[Problem]:
    triggered = {site.event for site in sites.triggers}
    for path, event in order.events.items():
        if path in triggered or order.is_alias(path):
            continue
        handlers = [site for site in sites.handlers if site.event == path]
        yield Problem(
            path=catalogue.source.path,
            rule="never-triggered",
            message=f'no source in view triggers {event.name} ("{event.id}")',
            remedy="trigger it where it belongs, name the source that does, or take it out",
            span=event.name.span,
            line=catalogue.source.line(event.name.span.line),
            detail="\n".join(f"{handler}: {handler.function} waits for it" for handler in handlers),
        )


def _disorders(sites: Sites) -> Iterator[Problem]:
    for site, before in sites.disorders.items():
        message = f"{site.name} is triggered after {before.name}, and declared before it"
        if site.event == before.event:
            message = f"{site.name} is triggered again, and does not repeat"
        remedy = "trigger them in the order of the catalogue, or change the order there"
        yield _problem("out-of-order", site, message, remedy, f"{before}: {before.name}, in {before.function}")


def _unpaired(order: Order, sites: Sites) -> Iterator[Problem]:
    for pre, post in sites.unpaired:
        other = (order.other_side(pre.event) or "").rpartition(".")[2]
        instead = f"the other side of {pre.name} is {other}" if other else f"{pre.name} is no side of a pair"
        message = f"{pre.name} and {post.name} are not the two sides of one moment"
        yield _problem("not-a-pair", post, message, instead)


def _repeated(sites: Sites) -> Iterator[Problem]:
    places: dict[str, list[Site]] = {}
    for site in sites.triggers:
        if site not in places.setdefault(site.event, []):
            places[site.event].append(site)
    for first, *others in places.values():
        for site in others:
            message = f"{site.name} is triggered in {len(others) + 1} places"
            remedy = "trigger it in one place, if all of them mean the same moment"
            yield _problem("triggered-twice", site, message, remedy, f"{first}: the first", severity="warning")


def _unheard(sites: Sites) -> Iterator[Problem]:
    triggered = {site.event for site in sites.triggers}
    for site in sites.handlers:
        if site.event not in triggered:
            message = f"a handler waits for {site.name}, which no source in view triggers"
            remedy = "name the source that triggers it as well, if there is any"
            yield _problem("waits-in-vain", site, message, remedy, severity="warning")


def _problem(rule: str, site: Site, message: str, remedy: str, detail: str = "", *, severity: str = "error") -> Problem:
    source = site.file.source
    return Problem(source.path, rule, message, remedy, site.span, source.line(site.span.line), detail, severity)
