"""What the interpreter knows of containers and of the standard library."""

import dataclasses
from collections.abc import Callable
from typing import Any, Final

from d9d_check.facts import Call
from d9d_check.machine import Machine
from d9d_check.values import (
    NONE,
    NOTHING,
    UNKNOWN,
    ClassValue,
    Constant,
    Container,
    Differs,
    External,
    Function,
    Instance,
    Local,
    Partial,
    Site,
    Steady,
    Tagger,
    Typed,
    Unknown,
    Value,
    Values,
)

_COPIES: Final = frozenset(
    f"builtins.{name}" for name in ("list", "tuple", "set", "frozenset", "sorted", "reversed", "iter")
) | {"collections.deque", "itertools.chain", "copy.copy"}

_KEYED: Final = frozenset({"builtins.sorted", "builtins.min", "builtins.max"})
_DICT: Final = frozenset({Constant("__dict__")})
_SET_METHODS: Final = frozenset({"union", "difference", "intersection", "symmetric_difference"})


class Library:
    """What the interpreter knows of containers and of the standard library.

    Args:
        interpreter: Runs the program.
    """

    def __init__(self, interpreter: Machine) -> None:
        self._run = interpreter
        self._functions: dict[str, Callable[[Call], Values | None]] = {
            "builtins.dict": self._dict,
            "builtins.enumerate": self._enumerate,
            "builtins.zip": self._zip,
            "builtins.map": self._map,
            **{f"builtins.{name}": self._one_of for name in ("next", "max", "min")},
            "builtins.filter": self._filter,
            "functools.reduce": self._reduce,
            "builtins.getattr": self._getattr,
            "builtins.setattr": self._setattr,
            "dataclasses.field": self._field,
            "dataclasses.replace": self._replace,
            "functools.partial": self._partial,
            "functools.wraps": self._wraps,
            "functools.update_wrapper": self._update_wrapper,
            "builtins.type": self._type,
            "builtins.vars": lambda call: self._getattr(dataclasses.replace(call, arguments=[*call.arguments, _DICT])),
            "typing.cast": lambda call: call.get(1, "val"),
            "threading.Thread": self._thread,
        }

    def call(self, name: str, call: Call) -> Values | None:
        """Call a function of the standard library; nothing is returned for what is not known."""
        if name in _KEYED:
            self._call_key(call, call.arguments)
        if name in _COPIES:
            return self._copied(name.rpartition(".")[2], call, call.arguments)
        known = self._functions.get(name)
        return None if known is None else known(call)

    def _copied(self, name: str, call: Call, arguments: list[Values]) -> Values:
        """Return a container with the items of another."""
        source = arguments[0] if arguments else NOTHING
        kind = {"sorted": "list", "reversed": "iterator", "iter": "iterator", "frozenset": "set"}.get(name, name)
        if kind == "chain":
            return self._container("iterator", call, [], frozenset().union(*map(self._run.elements, arguments)))
        containers = [value for value in source if isinstance(value, Container)]
        if arguments and not containers:
            return _differing(source) or UNKNOWN
        if containers and name not in {"sorted", "set"} and all(value.kind == "set" for value in containers):
            kind = "set"  # its order is that of the set
        exact = self._run.iterated(source) if len(source) == 1 and kind not in {"set", "iterator"} else []
        items = self._run.elements(source) if name == "copy" else frozenset().union(*self._run.iterated(source))
        rest = NOTHING if exact else items
        return self._container(kind, call, exact if containers else [], rest) | _differing(source)

    def _container(self, kind: str, call: Call, items: list[Values], rest: Values = NOTHING, number: int = 0) -> Values:
        """Return a new container; those that one call makes differ by their number."""
        site = call.site if not number else Site(*call.site[:4], -number)
        return self._run.new_container(kind, site, call.frame, items, rest)

    def container_method(self, owner: Container, name: str, call: Call) -> Values:
        """Call a method of a container."""
        elements = self._run.elements(frozenset({owner}))
        if name in {"append", "add", "appendleft", "insert", "setdefault"} and call.arguments:
            self._run.add_to(owner, call.arguments[-1])
            return elements | call.arguments[-1] if name == "setdefault" else NONE
        if name in {"extend", "update"} and call.arguments:
            self._run.add_to(owner, self._run.elements(call.arguments[0]) | frozenset().union(*call.named.values()))
            return NONE
        if name == "sort":
            self._call_key(call, [frozenset({owner})])
        if name in {"values", "copy", "__iter__", *_SET_METHODS}:
            kind = {"copy": owner.kind, "values": "iterator", "__iter__": "iterator"}.get(name, "set")
            items = elements | self._run.elements(call.everything())
            return self._container(kind, _of_owner(call, owner), [], items)
        if name == "items":
            made = _of_owner(call, owner)
            return self._container("iterator", made, [], self._container("tuple", made, [UNKNOWN, elements], number=1))
        if name in {"get", "pop", "popleft"}:
            keys = [value.value for value in call.get(0, "key") if isinstance(value, Constant)]
            known = self._run.kept(owner, keys[0]) if keys and isinstance(keys[0], str) else NOTHING
            return (known or elements) | call.get(1, "default") or UNKNOWN
        return UNKNOWN

    def _dict(self, call: Call) -> Values:
        """Return a mapping with the items of another, or of pairs."""
        found: set[Value] = set().union(*call.named.values())
        named = dict(call.named)
        for value in frozenset().union(*call.arguments):
            items = self._run.elements(frozenset({value}))
            is_of_pairs = isinstance(value, Container) and value.kind != "dict"
            found |= (self._run.elements(items) if is_of_pairs else items) or UNKNOWN
            named |= self._run.all_kept(value)
        made = self._container("dict", call, [], frozenset(found))
        for container in made:
            for name, values in named.items():
                self._run.keep(container, name, values)
        return made | _differing(call.everything())

    def _enumerate(self, call: Call) -> Values:
        items = self._run.iterated(call.get(0, "iterable"))
        pairs = [
            self._container("tuple", call, [frozenset({Steady()}), item], number=number)
            for number, item in enumerate(items, start=1)
        ]
        return self._container("iterator", call, pairs) | _differing(call.get(0, "iterable"))

    def _zip(self, call: Call) -> Values:
        rows = zip(*map(self._run.iterated, call.arguments), strict=False)
        tuples = [self._container("tuple", call, list(row), number=number) for number, row in enumerate(rows, start=1)]
        return self._container("iterator", call, tuples) | _differing(call.everything())

    def _map(self, call: Call) -> Values:
        found = [
            self._run.call_all(call.get(0, "function"), [item], {}, call.frame, call.site)
            for item in self._run.iterated(call.get(1, "iterable"))
        ]
        return self._container("iterator", call, [], frozenset().union(*found))

    def _one_of(self, call: Call) -> Values | None:
        """Return one of several objects of the program; nothing if there is none among them."""
        items = self._run.elements(call.get(0, "iterable"))
        return items if any(isinstance(each, Instance) for each in items) else None

    def _filter(self, call: Call) -> Values:
        self._map(call)
        return self._copied("iter", call, call.arguments[1:])

    def _reduce(self, call: Call) -> Values:
        reduced = call.get(2, "initial")
        for item in self._run.iterated(call.get(1, "iterable")):
            reduced |= self._run.call_all(call.get(0, "function"), [reduced or item, item], {}, call.frame, call.site)
        return reduced or UNKNOWN

    def _call_key(self, call: Call, compared: list[Values]) -> None:
        """Call the function that says by what items are compared."""
        key = call.named.get("key", NONE)
        for item in self._run.iterated(compared[0]) if len(compared) == 1 else compared:
            self._run.call_all(key - NONE, [item], {}, call.frame, call.site)

    def _getattr(self, call: Call) -> Values:
        given = call.get(1, "name")
        names = [value.value for value in given if isinstance(value, Constant) and isinstance(value.value, str)]
        found: set[Value] = set()
        has_default = len(call.arguments) > 2  # noqa: PLR2004 -- an object, a name and a default
        call.frame.num_doubts += has_default
        for owner in call.get(0, "object"):
            if len(names) == len(given):
                for name in names:
                    found |= self._run.get_attribute(owner, name, call.frame, call.site)
            else:
                found.add(Unknown(owner if isinstance(owner, Instance) else None))
        call.frame.num_doubts -= has_default
        return frozenset(found) | call.get(2, "default") or UNKNOWN

    def _setattr(self, call: Call) -> Values:
        names = [value.value for value in call.get(1, "name") if isinstance(value, Constant)]
        for owner in call.get(0, "object"):
            for name in names:
                self._run.set_attribute(owner, str(name), call.get(2, "value"), call.frame, call.site)
        if not names:
            for owner in call.get(0, "object"):
                if isinstance(owner, Function):
                    self._run.facts.given_attributes.add(owner.definition)
                elif isinstance(owner, Instance):
                    self._run.watcher.write(owner, "", UNKNOWN, call.frame, call.site)  # any of its attributes
            self._run.escape_all(call.get(2, "value"), call.frame)
        return NONE

    def _replace(self, call: Call) -> Values:
        """Return what `dataclasses.replace` copies: the same objects, which may have the other values, too."""
        for owner in call.get(0, "obj"):
            for name, values in call.named.items():
                self._run.set_attribute(owner, name, values, call.frame, call.site)
        return call.get(0, "obj") or UNKNOWN

    def _type(self, call: Call) -> Values | None:
        """Return the classes of objects; nothing if one is not known."""
        values = call.get(0, "object")
        found: set[Value] = {ClassValue(value.definition) for value in values if isinstance(value, Instance)}
        return frozenset(found) if values and len(call.arguments) == 1 and len(found) == len(values) else None

    def _partial(self, call: Call) -> Values:
        callees = call.get(0, "func")
        return (
            frozenset(
                Partial(callee, tuple(call.arguments[1:]), tuple(sorted(call.named.items(), key=lambda each: each[0])))
                for callee in callees
            )
            or UNKNOWN
        )

    def _field(self, call: Call) -> Values:
        """Return what the default of a field of a dataclass says of ranks: of all else, its annotation says it."""
        made = self._run.call_all(call.named.get("default_factory", NOTHING), [], {}, call.frame, call.site)
        return _differing(made | call.named.get("default", NOTHING)) or UNKNOWN

    def _wraps(self, call: Call) -> Values:
        tags = tuple(tag for value in call.get(0, "wrapped") if isinstance(value, Function) for tag in value.tags)
        return frozenset({Partial(External("functools.update_wrapper"), (), (("tags", frozenset(map(Tagger, tags))),))})

    def _update_wrapper(self, call: Call) -> Values:
        taggers = set(call.named.get("tags", NOTHING))
        copied = call.get(1, "wrapped")
        taggers |= {Tagger(tag) for value in copied if isinstance(value, Function) for tag in value.tags}
        tags = tuple(sorted((each.tag for each in taggers if isinstance(each, Tagger)), key=lambda tag: tag.site))
        return frozenset(
            changed(value, tags=tags) if isinstance(value, Function) else value for value in call.get(0, "wrapped")
        )

    def _thread(self, call: Call) -> Values:
        given = self._run.iterated(call.named["args"]) if "args" in call.named else []
        self._run.call_all(call.get(1, "target"), given, {}, call.frame, call.site)
        return frozenset({Typed("threading.Thread")})


def _of_owner(call: Call, owner: Container) -> Call:
    """Return a call of a method of a container at a place of its own: one call may be that of several containers."""
    if owner.site is None:
        return call
    module = f"{call.site.module} of {owner.site.module.partition(' of ')[0]}:{owner.site.line}:{owner.site.column}"
    return dataclasses.replace(call, site=Site(module, *call.site[1:]))


def _differing(values: Values) -> Values:
    """Return what of some values differs between ranks: so does the number of their items."""
    return frozenset(value for value in values if isinstance(value, Differs | Local))


def changed(function: Function, **changes: Any) -> Function:
    """Return a copy of a function with other attributes."""
    return dataclasses.replace(function, **changes)
