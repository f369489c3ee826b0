"""Objects whose handlers are subscribed twice on the bus of one loop, which refuses them when it is configured."""

from d9d_check.facts import Facts
from d9d_check.values import Instance, Site


def check_claims(facts: Facts) -> None:
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
        elif len(sites) > 1 and configurator in sites:  # what one run subscribes twice is reported there
            _report(facts, target, configurator, elsewhere[0])
    for each in facts.registrations:
        if not (each.bus.is_configured and each.tag is not None) or each.guards or each.target in many:
            continue
        num_configured = sum(entry is each.entry for entry, _ in facts.tasks)
        claims = [claim for claim in facts.claims if claim.entry is each.entry and claim.target == each.target]
        if claims and num_configured == 1:
            _report(facts, claims[0].target, each.site, claims[0].configurator)


def _report(facts: Facts, target: Instance, site: Site, other: Site) -> None:
    where = "subscribers=" if site == other else f"line {other.line}"
    where += "" if other.module == site.module else f" of {other.module}"
    facts.report(
        "d9d-twice",
        f'The handlers of one object of "{target.definition.name}" are subscribed here, and in {where} as well, which '
        "is refused: remove one of the two",
        site,
    )
