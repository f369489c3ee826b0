"""What handlers of every step keep for ever: lists of tensors that only grow, contexts, hooks."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final

from d9d_check.catalogues import Catalogues
from d9d_check.facts import Call, Entry, Facts, Frame, Watcher
from d9d_check.lower import Node
from d9d_check.source import Module
from d9d_check.syntax import functions_of, kind_of, last_name, outside_functions, parts_of
from d9d_check.values import (
    NONE,
    ClassDefinition,
    Container,
    EventValue,
    Function,
    Instance,
    Local,
    Scope,
    Site,
    Tensor,
    Typed,
    Unknown,
    Value,
    Values,
    Varies,
    immutable,
)

_GROWING: Final = frozenset({"append", "add", "appendleft", "insert", "extend", "setdefault", "update"})
_READING: Final = frozenset({"count", "index", "copy", "items", "keys", "values", "get"})
_READERS: Final = frozenset(
    {
        *("len", "sum", "max", "min", "sorted", "list", "tuple", "enumerate", "zip", "print", "any", "all", "iter"),
        *("torch", "logger", "logging", "math", "numpy", "np", "json", "statistics", "range", "bool"),
    }
)
"""Functions, and modules of functions, that only read what they are given."""
_HOOK: Final = re.compile(r"register_\w*hook")
_PAYLOAD: Final = re.compile(r"typing\.Any|Any")
_PAYLOAD_OF_TASKS: Final = {"ComputeLossContext": frozenset({"outputs", "batch"})}


@immutable
class _Growth:
    container: Container
    what: str
    entry: Entry
    site: Site
    scopes: tuple[Scope, ...]


@immutable
class _Kept:
    definition: ClassDefinition
    name: str
    context: str
    entry: Entry
    site: Site


class Held(Watcher):
    """Sees what is put into containers and attributes.

    Args:
        catalogues: The declared events: which fields of contexts are large, or live on the device.
    """

    names = frozenset({"append", "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"})

    def __init__(self, catalogues: Catalogues) -> None:
        super().__init__()
        self._catalogues = catalogues
        self._growths: list[_Growth] = []
        self._hooks: list[tuple[str, Entry, Site]] = []
        self._kept: list[_Kept] = []
        self._owners: dict[Value, set[tuple[ClassDefinition, str]]] = {}
        self._reads: dict[tuple[ClassDefinition, str], list[tuple[Entry, Site]]] = {}
        self._resets: set[tuple[ClassDefinition, str]] = set()

    # What is seen

    def attribute(self, owner: Value, name: str, frame: Frame, site: Site) -> Values | None:  # noqa: ARG002 -- the signature of Watcher
        """Return fields of a context whose type says nothing, with where they come from."""
        if not isinstance(owner, Typed) or not owner.name.startswith("d9d."):
            return None
        is_payload = name in _PAYLOAD_OF_TASKS.get(owner.name.rpartition(".")[2], ())
        context = self._context(owner)
        if context:
            is_payload = _PAYLOAD.fullmatch(self._catalogues.fields[context].get(name, "")) is not None
        return frozenset({Unknown(owner)}) if is_payload else None

    def _context(self, value: Value) -> str:
        """Return the context with something on the device that a value is; an empty text for any other value."""
        name = self._catalogues.resolve(value.name) if isinstance(value, Typed) else None
        return name if name is not None and self._catalogues.device_fields.get(name) else ""

    def method_call(self, owner: Value, name: str, call: Call) -> Values | None:
        """Keep what makes a container grow, and which hooks modules get."""
        frame = call.frame
        if not all(guard.is_steady for guard in frame.guards):
            return None
        if isinstance(owner, Container):
            is_key = name == "__setitem__" and Varies() in call.arguments[0]
            what = self._payload(call.arguments[-1]) if is_key or (name in _GROWING and call.arguments) else ""
            if what and owner.kind != "deque":
                self._growths.append(_Growth(owner, what, frame.entry, call.site, tuple(_scopes_around(frame))))
        elif isinstance(owner, Typed) and owner.name.startswith("torch.nn") and _HOOK.fullmatch(name):
            self._hooks.append((name, frame.entry, call.site))
        return None

    def _payload(self, values: Values, depth: int = 2) -> str:
        """Return what values hold that lives on the device, for messages; an empty text for anything else."""
        found = {what for value in values if (what := self._payload_of(value, depth))}
        return min(found, default="")

    def _payload_of(self, value: Value, depth: int) -> str:
        if isinstance(value, Tensor):
            return "" if value.is_on_host else "a tensor"
        if isinstance(value, Local) and value.is_whole:
            return value.why
        if isinstance(value, Unknown) and isinstance(value.owner, Typed):
            return f'a field of "{value.owner.name.rpartition(".")[2]}"'
        if isinstance(value, Container):
            return self._payload(self.elements(frozenset({value})), depth - 1) if depth else ""
        context = self._context(value)
        return f'the "{context.rpartition(".")[2]}"' if context else ""

    def write(self, owner: Instance, name: str, values: Values, frame: Frame, site: Site) -> None:
        """Keep which attribute holds a container, or a context."""
        key = (owner.definition, name)
        if values == NONE and frame.entry.kind == "handler":
            self._resets.add(key)
        for value in values:
            if isinstance(value, Container):
                self._owners.setdefault(value, set()).add(key)
            context = self._context(value)
            if context and len(values) == 1 and frame.entry.kind == "handler":
                self._kept.append(_Kept(owner.definition, name, context, frame.entry, site))

    def read(self, owner: Instance, name: str, frame: Frame, site: Site) -> None:
        """Keep where attributes are read."""
        if frame.entry.kind == "handler":
            self._reads.setdefault((owner.definition, name), []).append((frame.entry, site))

    # The rules

    def report(self, facts: Facts, modules: Sequence[Module]) -> None:
        """Report containers that only grow, contexts that are read in later events, and hooks without end."""
        done: set[Site] = set()
        for growth in self._growths:
            if growth.site in done or not self._is_in_every_step(growth.entry, facts):
                continue
            names = self._names(growth, facts)
            if growth.container in facts.escaped or not names:
                continue
            done.add(growth.site)
            if all(_only_grows(name, modules) for name in names):
                facts.report(
                    "d9d-held",
                    f'{_subject(growth.entry)} adds {growth.what} to "{min(names)}" in every step, and nothing empties '
                    "it, so memory of the device fills up: add a number with .item() every N steps, use a deque with "
                    "maxlen, or clear it",
                    growth.site,
                )
        self._report_losses(facts, modules, done)
        self._report_contexts(facts)
        self._report_hooks(facts, modules)

    def _is_in_every_step(self, entry: Entry, facts: Facts) -> bool:
        if entry.kind == "method":
            return entry.name == "compute_loss" and entry.owner in facts.subscribers
        moments = [self._catalogues.moments.get(event.name) for event in entry.events]
        is_of_training = bool(moments) and all(
            moment is not None and moment.fires_in_every_step and moment.module == "train" for moment in moments
        )
        return entry.kind == "handler" and entry.is_in_every_step and not entry.is_filtered and is_of_training

    def _names(self, growth: _Growth, facts: Facts) -> set[str]:
        """Return the attributes and global names that hold a container; none for a container of one call."""
        names = {name for _, name in self._owners.get(growth.container, ())}
        for definition in facts.classes:
            names |= {name for name, values in definition.members.items() if growth.container in values}
        for scope in growth.scopes:
            names |= {name for name, values in scope.names.items() if growth.container in values}
        return names

    def _report_losses(self, facts: Facts, modules: Sequence[Module], done: set[Site]) -> None:
        """Report what a task returns as its loss and adds to a list, whatever has computed it."""
        for definition in facts.classes:
            for value in definition.members.get("compute_loss", ()) if definition in facts.subscribers else ():
                for name, position in (
                    _kept_losses(value.definition.facts["body"]) if isinstance(value, Function) else ()
                ):
                    site = Site(definition.module, *position)
                    owners = {(each, name) for each in definition.ancestry}
                    kinds = {
                        each.kind
                        for each, keys in self._owners.items()
                        if keys & owners and isinstance(each, Container)
                    }
                    if site not in done and kinds == {"list"} and _only_grows(name, modules):
                        facts.report(
                            "d9d-held",
                            f'"compute_loss" adds the loss to "{name}" in every step, with the graph that has computed '
                            "it, and nothing empties it, so memory of the device fills up: add loss.detach() and clear "
                            "the list, or use a deque with maxlen",
                            site,
                        )

    def _report_contexts(self, facts: Facts) -> None:
        done: set[tuple[ClassDefinition, str]] = set()
        for kept in self._kept:
            key = (kept.definition, kept.name)
            later = [
                entry
                for entry, _ in self._reads.get(key, ())
                if entry.events and entry.events.isdisjoint(kept.entry.events)
            ]
            if key in done or key in self._resets or not later or not self._is_in_every_step(kept.entry, facts):
                continue
            done.add(key)
            fields = ", ".join(sorted(self._catalogues.device_fields[kept.context]))
            facts.report(
                "d9d-held",
                f'{_subject(kept.entry)} keeps the whole "{kept.context.rpartition(".")[2]}" for handler '
                f'"{later[0].name}" of {_events(later[0].events)}, and with it everything that it holds on the device: '
                f"keep only the fields that are read later, such as {fields}",
                kept.site,
            )

    def _report_hooks(self, facts: Facts, modules: Sequence[Module]) -> None:
        hooks = [hook for hook in self._hooks if self._is_in_every_step(hook[1], facts)]
        if hooks and any("remove" in function["mentions"] for _, function in functions_of(modules)):
            return
        for name, entry, site in dict.fromkeys(hooks):
            facts.report(
                "d9d-held",
                f'{_subject(entry)} calls "{name}" in every step, and nothing removes the hooks, so there is one more '
                "with each step: register it once, or call remove() on what it returns",
                site,
            )


def _kept_losses(body: list[Node]) -> Iterator[tuple[str, list[int]]]:
    """Yield the attributes to which `compute_loss` adds the very name that it returns as the loss, and where."""
    losses = {
        _owner_of_call(value)
        for call in parts_of(body)
        if call[0] == "call" and last_name(call[1]) == "ComputeLossResult"
        for name, value in call[3]
        if name == "loss"
    }
    assigned = [
        target[1] for part in parts_of(body) if part[0] == "assign" for target in part[1] if target[0] == "name"
    ]
    for statement in body:
        if statement[0] == "expression" and statement[1][0] == "call":
            _, callee, given, _, position = statement[1]
            kept = given[0][1] if len(given) == 1 and given[0][0] == "name" else ""
            is_list = callee[0] == "attribute" and callee[2] == "append" and callee[1][0] == "attribute"
            is_own = is_list and callee[1][1][:2] == ["name", "self"]
            if is_own and kept in losses and assigned.count(kept) == 1:
                yield callee[1][2], position


def _owner_of_call(node: Node) -> str:
    """Return the name that an expression is, or whose method it calls, such as `loss` of `loss.mean()`."""
    is_method = node[0] == "call" and node[1][0] == "attribute"
    owner = node[1][1] if is_method else node
    return last_name(owner) if owner[0] == "name" else ""


def _scopes_around(frame: Frame) -> Iterator[Scope]:
    """Yield the scopes that outlive a call: the module, and those of functions around that have ended."""
    function = frame.function
    scope = function.scope if function is not None else None
    path = "" if function is None else function.definition.path
    is_running = any(path.startswith(f"{each.path}.") for each in frame.stack)
    while scope is not None:
        if not is_running or scope.outer is None:
            yield scope
        scope = scope.outer


def _subject(entry: Entry) -> str:
    return f'Handler "{entry.name}" of {_events(entry.events)}' if entry.events else f'"{entry.name}"'


def _events(events: Iterable[EventValue]) -> str:
    return " and ".join(sorted(map(str, events)))


def _only_grows(name: str, modules: Sequence[Module]) -> bool:
    """Return whether nothing in a program may empty what an attribute or a global name holds, or replace it."""
    for module in modules:
        if not module.may_mention(name):
            continue
        if not all(_is_harmless(each, name, is_first=True) for each in outside_functions(module)):
            return False
        for function in (module.summary or {}).get("functions", ()):
            is_first = function["name"] in {"__init__", "__post_init__", "setup", "register_events"}
            contexts = {
                parameter
                for parameter, _, annotation, _ in function["parameters"]
                if last_name(annotation).endswith("Context")
            }
            if not _is_harmless(function["body"], name, is_first=is_first, contexts=contexts):
                return False
    return True


def _is_harmless(node: Any, name: str, *, is_first: bool, contexts: Collection[str] = ()) -> bool:
    """Return whether a part of a program only reads a container, or adds to it.

    Args:
        node: The part.
        name: The attribute or name that holds the container.
        is_first: Whether the container may be created here.
        contexts: The names of contexts, whose fields are other objects.
    """
    if not isinstance(node, list) or not node:
        return True
    kind = kind_of(node)
    if not kind:
        return all(_is_harmless(each, name, is_first=is_first, contexts=contexts) for each in node)
    if kind == "attribute" and node[1][0] == "name" and node[1][1] in contexts:
        return True
    if last_name(node) == name or (kind == "constant" and node[1] == name):
        return False
    if kind == "delete" and any(last_name(part) == name for part in parts_of(node[1])):
        return False
    if kind in {"assign", "annotate"}:
        rest = _of_assignment(node, name, is_first=is_first)
    else:
        rest = _OTHERS[kind](node, name) if kind in _OTHERS else node[1:]
    return all(_is_harmless(each, name, is_first=is_first, contexts=contexts) for each in rest)


def _of_assignment(node: Node, name: str, *, is_first: bool) -> list[Any]:
    """Return the parts of an assignment without the container where it is created, or gets a further key."""
    targets = node[1] if node[0] == "assign" else [node[1]]
    if node[0] == "annotate" and node[3] is None:
        return []
    left: list[Any] = []
    for target in targets:
        is_key = target[0] == "item" and last_name(target[1]) == name and target[2][0] not in {"operation", "slice"}
        if is_key:  # a slice, or a number that is computed, may overwrite what is there
            left.append(target[2])
        elif not (is_first and last_name(target) == name):
            left.append([target] if target[0] != "item" or last_name(target[1]) != name else target[1])
    return [left, *node[2:]]


def _of_call(node: Node, name: str) -> list[Any]:
    callee, arguments, named = node[1:4]
    if callee[0] == "attribute" and last_name(callee[1]) == name and callee[2] in _GROWING | _READING:
        return [arguments, named]
    if _root(callee) in _READERS:
        return [callee, [each for each in arguments if last_name(_bare(each)) != name], named]
    return [callee, arguments, named]


def _of_comprehension(node: Node, name: str) -> list[Any]:
    return [node[2], [[target, _unless_named(source, name), tests] for target, source, tests in node[3]]]


def _unless_named(node: Node, name: str) -> Node:
    return [] if last_name(node) == name else node


def _bare(argument: Node) -> Node:
    return argument[1] if argument[0] == "star" else argument


def _root(node: Node) -> str:
    while node[0] == "attribute":
        node = node[1]
    return str(node[1]) if node[0] == "name" else ""


_OTHERS: Final[dict[str, Callable[[Node, str], list[Any]]]] = {
    "call": _of_call,
    "comprehension": _of_comprehension,
    "augment": lambda node, name: [_unless_named(node[1], name), node[2]],
    "item": lambda node, name: [_unless_named(node[1], name), node[2]],
    "for": lambda node, name: [node[1], _unless_named(node[2], name), *node[3:]],
    "if": lambda node, name: [_unless_named(node[1], name), *node[2:]],
    "not": lambda node, name: [_unless_named(node[1], name)],
    "compare": lambda node, name: [_unless_named(each, name) for each in node[2]],
    "and": lambda node, name: [_unless_named(each, name) for each in node[1]],
    "or": lambda node, name: [_unless_named(each, name) for each in node[1]],
    "formatted": lambda node, name: [_unless_named(each, name) for each in node[1]],
}
"""By kind of expression or statement: its parts without a container that is only read there."""
