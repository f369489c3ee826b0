"""What the objects and containers of a program hold."""

from collections.abc import Sequence
from typing import Final

from d9d_check.facts import Frame
from d9d_check.values import (
    NOTHING,
    STEP_CONTEXT,
    STEPS,
    UNKNOWN,
    Constant,
    Container,
    Local,
    Site,
    Tensor,
    Unknown,
    Value,
    Values,
)

_MAX_ITEMS: Final = 40


class Memory:
    """What the objects and containers of a program hold.

    An attribute holds everything that is ever assigned to it. A container has items that are known one by one, in
    their order, and a rest that may be any of some values.
    """

    def __init__(self) -> None:
        self._attributes: dict[Value, dict[str, Values]] = {}
        self._items: dict[Container, list[Values]] = {}
        self._rest: dict[Container, Values] = {}
        self._keys: dict[Container, list[Values]] = {}

    def kept(self, owner: Value, name: str) -> Values:
        """Return what has been assigned to an attribute or a key."""
        return self._attributes.get(owner, {}).get(name, NOTHING)

    def keep(self, owner: Value, name: str, values: Values) -> None:
        """Add what is assigned to an attribute or a key."""
        attributes = self._attributes.setdefault(owner, {})
        attributes[name] = attributes.get(name, NOTHING) | values

    def all_kept(self, owner: Value) -> dict[str, Values]:
        """Return everything that has been assigned to attributes or keys."""
        return dict(self._attributes.get(owner, {}))

    def new_container(self, kind: str, site: Site, frame: Frame, items: Sequence[Values], rest: Values) -> Values:
        """Return a new container."""
        container = Container(kind, allocation(site, frame))
        self._items[container] = list(items)
        self._rest[container] = rest
        return frozenset({container})

    def set_items(self, container: Container, items: list[Values]) -> None:
        """Set the items that are known one by one; those that are added later are kept."""
        self._items[container] = items

    def forget(self, container: Container) -> None:
        """Forget what the items of a container are; their number stays."""
        self._items[container] = [UNKNOWN] * len(self._items.get(container, []))
        if self._rest.get(container):
            self._rest[container] = UNKNOWN
        self._attributes.pop(container, None)

    def add_to(self, container: Container, values: Values) -> None:
        """Add what some items of a container may be."""
        self._keys.pop(container, None)
        self._rest[container] = self._rest.get(container, NOTHING) | values

    def add_key(self, container: Container, key: Values, values: Values) -> None:
        """Add an item of a mapping under a key."""
        keys = self._keys.get(container, [UNKNOWN])
        self.add_to(container, values)
        self.set_keys(container, keys if key in keys else [*keys, key])
        texts = [each.value for each in key if isinstance(each, Constant) and isinstance(each.value, str)]
        if len(texts) == len(key):
            for text in texts:
                self.keep(container, text, values)

    def set_keys(self, container: Container, keys: list[Values]) -> None:
        """Set the keys of a mapping; those of one that gets further items are not known."""
        self._keys[container] = keys

    def items_of(self, container: Container) -> list[Values] | None:
        """Return the items of a container if all are known one by one."""
        return None if self._rest.get(container) else self._items.get(container, [])

    def elements(self, values: Values) -> Values:
        """Return what the items of containers may be; nothing where that is not known."""
        found: set[Value] = set()
        for value in values:
            if isinstance(value, Container):
                found.update(*self._items.get(value, []), self._rest.get(value, NOTHING))
            elif isinstance(value, Local):
                found.add(value.part())
            elif value == STEPS:
                found.add(STEP_CONTEXT)
            elif isinstance(value, Tensor) or (isinstance(value, Unknown) and value.owner is not None):
                found.add(value)
        return frozenset(found)

    def iterated(self, source: Values) -> list[Values]:
        """Return the items of an iterable one by one, or all of them as one where they are not known."""
        containers = [value for value in source if isinstance(value, Container)]
        if any(each.kind == "dict" for each in containers):
            others = frozenset(each for each in source if each not in containers or each.kind != "dict")
            keys = [self._keys.get(each, [UNKNOWN]) for each in containers if each.kind == "dict"]
            exact = keys[0] if len(source) == 1 and len(keys[0]) <= _MAX_ITEMS else None
            return (
                exact if exact is not None else [self.elements(others).union(*(key for each in keys for key in each))]
            )
        if len(source) == 1 and containers:
            items, rest = self._items.get(containers[0], []), self._rest.get(containers[0], NOTHING)
            if len(items) <= _MAX_ITEMS:
                return [*items, *([rest] if rest else [])]
        return [self.elements(source) or UNKNOWN]


def allocation(site: Site, frame: Frame) -> Site:
    """Return the place that identifies an object: objects that different classes make in one place differ."""
    owner = frame.entry.owner
    return site if owner is None else Site(f"{site.module} {owner.module} {owner.facts['path']}", *site[1:])
