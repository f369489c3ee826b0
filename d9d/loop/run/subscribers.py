"""Subscribers: the objects that listen to a run, how they are registered, and the check that no handler is dead."""

import collections
import dataclasses
import functools
import importlib.metadata
import importlib.util
import inspect
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from d9d.core.protocol import Stateful
from d9d.core.settings import ConfigurationError
from d9d.loop.component.checkpoint.job_state import has_state
from d9d.loop.component.ranks import Ranks
from d9d.loop.control import RegisterTaskEventsContext
from d9d.loop.event import Event, EventBus, subscribe_annotated
from d9d.loop.event.bus import Claim, Subscription
from d9d.loop.event.handler import describe_handler, place_of
from d9d.loop.event.subscription import TaggedHandler, tagged_handlers, tags_of

logger = logging.getLogger(__name__)

SubscriberSource: TypeAlias = Sequence[object] | Mapping[str, object]
"""What a configurator takes as `subscribers`."""

_Identity: TypeAlias = tuple[int, int]

_CATALOGUE: Final = "d9d.loop.event.catalogue"
_GROUP: Final = "d9d.catalogues"
"""The entry points in which installed projects name their catalogues."""


@dataclasses.dataclass(frozen=True)
class Subscriber:
    """One of the objects that a configurator was given as `subscribers`.

    Attributes:
        name: The key of a mapping, or the name of the object's class.
        target: The object.
    """

    name: str
    target: object


def named_subscribers(source: SubscriberSource) -> list[Subscriber]:
    """Return the objects that a configurator was given as `subscribers`, in their order.

    Args:
        source: The objects.

    Raises:
        ConfigurationError: If it is neither a list nor a mapping, an object is a class or appears twice, or two objects
            of a list have one class and state.
    """
    if isinstance(source, str) or not isinstance(source, Sequence | Mapping):
        raise ConfigurationError(
            f"subscribers= takes a list or a mapping of objects, but found {source!r}: write subscribers=[...]"
        )
    if isinstance(source, Mapping):
        found = [Subscriber(name, target) for name, target in source.items()]
    else:
        found = [Subscriber(type(target).__qualname__, target) for target in source]
    for number, subscriber in enumerate(found):
        if isinstance(subscriber.target, type):
            raise ConfigurationError(
                f"subscribers= takes objects, but found the class {subscriber.target.__qualname__}: pass "
                f"{subscriber.target.__qualname__}(...)"
            )
        for other in found[:number]:
            if other.target is subscriber.target:
                raise ConfigurationError(f"subscribers= has {subscriber.target!r} twice: remove one of the two")
            if other.name == subscriber.name and has_state(other.target) and has_state(subscriber.target):
                raise ConfigurationError(
                    f"subscribers= has two objects of class {subscriber.name} with state, and checkpoints would swap "
                    "their states if the list is reordered: name them in a mapping, subscribers={'name': ...}"
                )
    return found


def states_of(subscribers: Iterable[Subscriber]) -> dict[str, Stateful]:
    """Return the subscribers that have state, by the names under which checkpoints keep it."""
    return {f"subscriber {each.name}": each.target for each in subscribers if has_state(each.target)}


class Registrations:
    """What has been subscribed on the bus of a run, and what should have been.

    Args:
        event_bus: The bus. Only handlers of the loop itself are subscribed yet.
        owners: The objects whose decorated handlers must be subscribed, by the names that messages use.
    """

    def __init__(self, event_bus: EventBus, owners: Mapping[str, object]) -> None:
        self._event_bus = event_bus
        self._owners = owners
        self._own = {*event_bus.subscriptions}
        self._problems: list[str] = []
        # A handler with `once` may be unsubscribed again before the check. The values keep what is identified alive.
        self._noted: dict[tuple[str, _Identity], object] | None = {}
        event_bus.add_guard(self._note)
        # Raised at once, this would end one rank while the others wait for it in `verify`.
        event_bus.collect_repeated_claims(self._refuse_repeated_claim)

    def _refuse_repeated_claim(self, first: Claim, repeated: Claim) -> None:
        self._problems.append(
            f"{_place_of_claim(repeated)} subscribes the handlers of {_class_of(repeated.target)}, which "
            f"{_place_of_claim(first)} has subscribed already, so they would be called twice: remove one of the two"
        )

    def _note(self, event: Event[Any], handler: Callable[[Any], None]) -> None:
        if self._noted is not None:
            function = handler.func if isinstance(handler, functools.partial) else handler
            self._noted[event.id, _identity(function)] = handler

    def register(self, subscribers: Iterable[Subscriber], ctx: RegisterTaskEventsContext) -> None:
        """Subscribe the handlers of subscribers: by their own `register_events`, or all that have `@subscribe`."""
        for subscriber in subscribers:
            target = subscriber.target
            register = getattr(target, "register_events", None)
            if register is not None:
                register(ctx)
            elif any(tagged_handlers(target)):
                subscribe_annotated(ctx.event_bus, target)
            else:
                self._problems.append(
                    f"subscriber {subscriber.name!r}, {_class_of(target)}, has neither register_events nor a method "
                    "with @subscribe: decorate its handlers, or remove it from subscribers="
                )

    def verify(self, ranks: Ranks, *, namespace: str, silent: Mapping[str, str]) -> None:
        """Refuse handlers that can never be called. All ranks call this, and all of them raise.

        Args:
            ranks: The ranks of the job.
            namespace: The first segment of the ids that the loop triggers.
            silent: The ids of those that it cannot trigger as it is configured, each with the reason.

        Raises:
            ConfigurationError: If a decorated handler is subscribed by no rank, the loop never triggers the event of a
                handler, a handler or an object is subscribed twice, an object without handlers is subscribed, or ranks
                have handlers in different orders.
        """
        everywhere = ranks.gather(self._found(namespace))
        self._noted = None
        self._event_bus.collect_repeated_claims(None)
        problems = [*_unregistered(everywhere)]
        problems += dict.fromkeys(problem for found in everywhere for problem in found.problems)
        problems += _reordered(everywhere)
        if problems:
            listed = "".join(f"\n- {problem}" for problem in problems)
            raise ConfigurationError(f"not all handlers of this run can be called as they should:{listed}")
        if ranks.is_main:
            _log_silent(everywhere, silent)

    def _found(self, namespace: str) -> "_Found":
        registered: set[tuple[str, str]] = set()
        missing: dict[tuple[str, str], str] = {}
        for name, each in self._tagged():
            key = (f"{name}: {describe_handler(each.handler)}", each.tag.event.id)
            if (key[1], _identity(each.handler)) in (self._noted or {}):
                registered.add(key)
            elif not each.tag.is_optional:
                missing[key] = (
                    f"{_named(each.handler)} of the {name} has @subscribe for event {key[1]!r}, but no process has "
                    "subscribed it: call subscribe_annotated with the object in register_events, or write "
                    "@subscribe(..., optional=True) if it need not be called"
                )
        subscriptions = [each for each in self._event_bus.subscriptions if each not in self._own]
        problems = [*self._problems, *_foreign(subscriptions, namespace), *_repeated(subscriptions)]
        problems += [
            f"{_place_of_claim(claim)} is given {_class_of(claim.target)}, which has no "
            "handlers with @subscribe: decorate them, or remove the call"
            for claim in self._event_bus.claims
            if not claim.has_handlers
        ]
        handlers: dict[str, list[str]] = {}
        for subscription in subscriptions:
            handlers.setdefault(subscription.event.id, []).append(_named(subscription.handler))
        return _Found(registered=registered, missing=missing, problems=problems, handlers=handlers)

    def _tagged(self) -> Iterator[tuple[str, TaggedHandler]]:
        seen: set[int] = set()
        for name, owner in self._owners.items():
            if id(owner) not in seen:
                seen.add(id(owner))
                yield from ((name, each) for each in tagged_handlers(owner, verifies=False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """What one rank has found. It is sent to the others.

    Attributes:
        registered: The decorated handlers that it has subscribed, each with the id of its event.
        missing: Those that it has not, each with the text for an error.
        problems: What is wrong on any rank.
        handlers: The names of the handlers of each event, in the order of their calls.
    """

    registered: set[tuple[str, str]]
    missing: dict[tuple[str, str], str]
    problems: list[str]
    handlers: dict[str, list[str]]


def _unregistered(everywhere: Sequence[_Found]) -> Iterator[str]:
    """Yield the decorated handlers that no rank has subscribed."""
    registered = {key for found in everywhere for key in found.registered}
    missing = {key: text for found in reversed(everywhere) for key, text in found.missing.items()}
    yield from (text for key, text in missing.items() if key not in registered)


def _foreign(subscriptions: Iterable[Subscription], namespace: str) -> Iterator[str]:
    """Yield the handlers of events that the loop never triggers, and that no catalogue declares."""
    for each in subscriptions:
        problem = _foreign_problem(each.event, each.handler, namespace)
        if problem is not None:
            yield problem


def _foreign_problem(event: Event[Any], handler: Callable[..., Any], namespace: str) -> str | None:
    """Describe a handler of an event that the loop never triggers, or that no catalogue declares."""
    owner, _, _ = event.id.partition(".")
    ids = _declared_ids().get(owner)
    if ids is None or (owner == namespace and event.id in ids):
        return None
    start = f"{_named(handler)} listens to event {event.id!r}, which"
    if event.id not in ids:
        return (
            f"{start} no catalogue declares, although one owns the namespace {owner!r}: choose an event of the "
            "catalogue, or an id in a namespace of your own"
        )
    if owner in _LOOPS and not any(tag.event == event and tag.is_optional for tag in tags_of(handler)):
        return (
            f"{start} this loop never triggers: it is an event of {_LOOPS[owner]}. Choose an event of "
            f"{_LOOPS[namespace]}, or write @subscribe(..., optional=True) in a class that serves both"
        )
    return None


def refuse_foreign_handlers(event_bus: EventBus, namespace: str) -> None:
    """Refuse handlers that subscribe from now on to events that the loop never triggers, as the check before did.

    Args:
        event_bus: The bus of a run whose handlers were checked.
        namespace: The first segment of the ids of the events of this loop.
    """

    def check(event: Event[Any], handler: Callable[[Any], None]) -> None:
        problem = _foreign_problem(event, handler, namespace)
        if problem is not None:
            raise ValueError(problem)

    event_bus.add_guard(check)


_LOOPS: Final = {"train": "the training loop", "inference": "the inference loop"}


def _repeated(subscriptions: Sequence[Subscription]) -> Iterator[str]:
    """Yield the handlers that are subscribed twice for one event."""
    seen: set[tuple[str, _Identity]] = set()
    for each in subscriptions:
        key = (each.event.id, _identity(each.handler))
        if key in seen:
            yield (
                f"{_named(each.handler)} is subscribed twice for event {each.event.id!r}, so it would be called twice: "
                "remove one of the two subscriptions"
            )
        seen.add(key)


def _reordered(everywhere: Sequence[_Found]) -> Iterator[str]:
    """Yield the events whose handlers some ranks have in another order than rank 0."""
    for rank, found in enumerate(everywhere[1:], start=1):
        for event_id, first in everywhere[0].handlers.items():
            other = found.handlers.get(event_id, [])
            common = collections.Counter(first) & collections.Counter(other)
            if _only(first, common) != _only(other, common):
                yield (
                    f"the handlers of event {event_id!r} are in another order on rank {rank} ({', '.join(other)}) than "
                    f"on rank 0 ({', '.join(first)}), so collectives in them would not match: subscribe them in one "
                    "order on all ranks"
                )


def _only(names: Iterable[str], counts: Mapping[str, int]) -> list[str]:
    """Return names in their order, each at most so many times."""
    left = collections.Counter(counts)
    kept = []
    for name in names:
        if left[name]:
            left[name] -= 1
            kept.append(name)
    return kept


def _log_silent(everywhere: Sequence[_Found], silent: Mapping[str, str]) -> None:
    """Log, in one line, which handlers are right but will not be called, or are not on all ranks."""
    lines = []
    for event_id in dict.fromkeys(event_id for found in everywhere for event_id in found.handlers):
        ranks_of: dict[str, list[int]] = {}
        for rank, found in enumerate(everywhere):
            for handler in dict.fromkeys(found.handlers.get(event_id, ())):
                ranks_of.setdefault(handler, []).append(rank)
        for handler, ranks in ranks_of.items():
            if event_id in silent:
                lines.append(f"{handler} of event {event_id!r} will not be called, since {silent[event_id]}")
            elif len(ranks) < len(everywhere):
                lines.append(f"{handler} of event {event_id!r} is on {_join_ranks(ranks)} only")
    if lines:
        logger.info("handlers that are not called, or not on all ranks: %s", "; ".join(lines))


def _join_ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")  # noqa: PLR2004 -- fills a line
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"


@functools.cache
def _declared_ids() -> Mapping[str, frozenset[str]]:
    """Return the ids that catalogues of d9d and of installed projects declare, by the namespace that they own."""
    packages = [_CATALOGUE, *(each.value for each in importlib.metadata.entry_points(group=_GROUP))]
    owned: dict[str, frozenset[str]] = {}
    for package in packages:
        spec = importlib.util.find_spec(package) if _is_importable(package) else None
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            path = Path(folder, "index.json")
            if path.is_file():
                index = json.loads(path.read_text(encoding="utf-8"))
                ids = {entry["id"] for entry in index["events"].values()}
                for module in index["modules"]:
                    owned[module] = frozenset(each for each in ids if each.partition(".")[0] == module)
    return owned


def _is_importable(package: str) -> bool:
    """Return whether a package's parents exist; the entry point of a project that was removed may have stayed."""
    parts = package.split(".")
    return all(importlib.util.find_spec(".".join(parts[:end])) is not None for end in range(1, len(parts)))


def _identity(handler: object) -> _Identity:
    """Return what identifies a function, or a method of an object; `==` of other callables may mean anything."""
    if inspect.ismethod(handler):
        return id(handler.__self__), id(handler.__func__)
    return id(handler), 0


def _named(handler: Callable[..., None]) -> str:
    """Return the name of a handler, and where it is defined."""
    file, line = place_of(handler)
    return describe_handler(handler) if file is None else f"{describe_handler(handler)} ({file}:{line})"


def _place_of_claim(claim: Claim) -> str:
    """Return where the handlers of an object are subscribed."""
    if claim.file == __file__:  # by `Registrations.register`
        return "the argument subscribers="
    return f"subscribe_annotated in {claim.file}:{claim.line}"


def _class_of(target: object) -> str:
    """Return what an object is, and where its class is defined."""
    if inspect.ismodule(target):
        return f"the module {target.__name__}"
    kind = type(target)
    try:
        place = f" ({inspect.getsourcefile(kind)}:{inspect.getsourcelines(kind)[1]})"
    except (OSError, TypeError):  # not from a file, such as a class of a notebook or of a built-in module
        place = ""
    return f"an object of class {_qualified_name(kind)}{place}"


def _qualified_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def refuse_late_handlers(
    event_bus: EventBus, has_passed: Callable[[Event[Any]], bool], saved: Iterable[object] | None
) -> None:
    """Refuse handlers that subscribe too late: after a moment, or with state that checkpoints would lack.

    Args:
        event_bus: The bus of a run that is configured.
        has_passed: Returns whether an event will not be triggered again.
        saved: The objects whose state is in checkpoints; `None` without checkpointing.
    """
    known = None if saved is None else {id(each): each for each in saved}

    def check(event: Event[Any], handler: Callable[[Any], None]) -> None:
        if has_passed(event):
            raise ValueError(
                f"{_named(handler)} subscribes to event {event.id!r}, which has passed in this run: subscribe it "
                "earlier, such as in register_events, or by subscribers= of the configurator"
            )
        owner = getattr(handler, "__self__", None)
        if known is not None and id(owner) not in known and has_state(owner):
            raise ValueError(
                f"{_named(handler)} subscribes after the run was configured, and its object, {_class_of(owner)}, has "
                "state that is not in checkpoints: pass the object to the configurator, in subscribers= or stateful="
            )

    event_bus.add_guard(check)
