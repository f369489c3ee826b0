"""Handlers that are subscribed twice on one bus, which refuses them."""

from d9d_check.facts import Entry, Facts, Registration
from d9d_check.liveness import definition_of
from d9d_check.values import Bus, EventValue, Function, Instance, Method, Site


def check_twice(facts: Facts) -> None:
    """Report handlers, and objects with handlers, that are subscribed twice on one bus."""
    _check_handlers(facts)
    _check_objects(facts)


def _check_handlers(facts: Facts) -> None:
    """Report handlers that one run subscribes twice."""
    seen: dict[tuple[Entry, Bus, object, EventValue], Registration] = {}
    for each in facts.registrations:
        handler = each.handler
        is_one = isinstance(handler, Function) or (
            isinstance(handler, Method) and isinstance(handler.receiver, Instance) and handler.receiver.site is None
        )
        # A bus takes a handler as often as it is subscribed by hand; the loop refuses that when it is configured.
        is_refused = each.tag is not None or each.entry.kind == "register"
        if not is_one or each.guards or len(each.events) != 1 or not is_refused:
            continue
        (event,) = each.events
        function = definition_of(each)
        receiver = handler.receiver if isinstance(handler, Method) else None
        key = (each.entry, each.bus, (function, receiver), event)
        first = seen.setdefault(key, each)
        if first is not each and first.site != each.site and function is not None:
            later, other = (each, first) if each.depth <= first.depth else (first, each)
            facts.report(
                "d9d-twice",
                f'Handler "{function.name}" of {event} is subscribed twice on one bus, which is refused: '
                f"remove this call or the one in {other.site.seen_from(later.site)}",
                later.site,
            )


def _check_objects(facts: Facts) -> None:
    """Report objects that are subscribed twice: in `subscribers=`, by the task, or after `configure()`."""
    many = {instance for (instance, _), number in facts.num_made.items() if number > 1}
    found: dict[tuple[int, Site, Instance], list[Site]] = {}
    for claim in facts.claims:
        if claim.target not in many:  # objects that one place creates are not told apart
            found.setdefault((claim.number, claim.configurator, claim.target), []).append(claim.site)
    for (_, configurator, target), sites in found.items():
        elsewhere = [site for site in sites if site != configurator]
        if len(elsewhere) < len(sites) - 1:
            _report(facts, target, configurator, configurator)
        elif len(sites) > 1 and configurator in sites:  # what one run subscribes twice is reported above
            _report(facts, target, configurator, elsewhere[0])
    for each in facts.registrations:
        if not (each.bus.is_configured and each.tag is not None) or each.guards or each.target in many:
            continue
        num_configured = sum(entry is each.entry for entry, _ in facts.tasks)
        claims = [claim for claim in facts.claims if claim.entry is each.entry and claim.target == each.target]
        if claims and num_configured == 1:
            _report(facts, claims[0].target, each.site, claims[0].configurator)


def _report(facts: Facts, target: Instance, site: Site, other: Site) -> None:
    where = "subscribers=" if site == other else other.seen_from(site)
    facts.report(
        "d9d-twice",
        f'The handlers of one object of "{target.definition.name}" are subscribed here, and in {where} as well, which '
        "is refused: remove one of the two",
        site,
    )
