"""Methods that look as if the loop called them, and that nothing decorates, subscribes or calls."""

import re
from collections.abc import Sequence
from typing import Any, Final

from d9d_check.catalogues import Catalogues
from d9d_check.facts import Facts
from d9d_check.framework import is_task, members_of
from d9d_check.liveness import is_abstract
from d9d_check.lower import Node
from d9d_check.source import Module, is_test_module
from d9d_check.syntax import is_mentioned, last_name
from d9d_check.values import ClassDefinition, Definition, Function, Instance, Method, Partial

_HOOK: Final = re.compile(
    r"_*(on|before|after|at|when|handle|pre|post)_\w+|_*\w+_(pre|post|ready|started|finished|hook)"
)
_TASK: Final = re.compile(r"_*(log|record|track|report|collect|measure|watch|monitor)_\w+")
"""What handlers do. One that is called `run` or `update` may be for callers that are not in view."""
_REGISTRATION: Final = frozenset({"RegisterTaskEventsContext", "RegisterModelEventsContext"})


def check_lookalikes(facts: Facts, catalogues: Catalogues, modules: Sequence[Module]) -> None:
    """Report methods that look like handlers, or like `register_events`, and that nothing uses."""
    _Lookalikes(facts, catalogues, modules).check()


class _Lookalikes:
    def __init__(self, facts: Facts, catalogues: Catalogues, modules: Sequence[Module]) -> None:
        self._facts = facts
        self._modules = modules
        self._events: dict[str, list[str]] = {}
        for name, moment in catalogues.moments.items():
            self._events.setdefault(moment.context.rpartition(".")[2], []).append(name.rpartition(".")[2])
        self._used = facts.called | facts.lost_tags | facts.tagged | {function for _, function in facts.mentioned}
        for each in facts.registrations:
            handler = each.handler
            while isinstance(handler, Partial):
                handler = handler.callee
            function = handler.function if isinstance(handler, Method) else handler
            if isinstance(function, Function):
                self._used.add(function.definition)

    def check(self) -> None:
        for definition in self._facts.classes:
            tagged = _has_tags(definition)
            if not (tagged or is_task(definition)) or definition.is_opaque or is_abstract(definition):
                continue
            if is_test_module(definition.module) or self._has_left(definition):
                continue
            for name, values in definition.members.items():
                for value in values:
                    if isinstance(value, Function) and value.owner is definition and len(values) == 1:
                        self._check_method(definition, name, value, is_tagged=tagged)

    def _has_left(self, definition: ClassDefinition) -> bool:
        """Return whether code that is not in view has an object of a class, and may call any of its methods."""
        return any(
            isinstance(each, Instance) and definition in each.definition.ancestry for each in self._facts.escaped
        )

    def _check_method(self, definition: ClassDefinition, name: str, function: Function, *, is_tagged: bool) -> None:
        taken = _taken(function)
        # A program that configures a loop is all in view, so nothing else calls a method of a listener either.
        is_of_listener = is_tagged and self._facts.configures
        is_named = _HOOK.fullmatch(name) is not None or (_TASK.fullmatch(name) is not None and _acts(function))
        is_handler = taken in self._events and (is_of_listener or is_named)
        is_registration = taken in _REGISTRATION and name != "register_events" and not is_tagged
        if not (is_handler or is_registration) or not self._is_dead(definition, name, function):
            return
        site = function.definition.site
        if is_registration:
            self._facts.report(
                "d9d-unregistered",
                f'Nothing calls "{name}" of "{definition.name}", which takes "{taken}": the loop calls '
                '"register_events". Give it that name, or call it from there',
                site,
            )
            return
        event = self._event_for(name, taken)
        self._facts.report(
            "d9d-unregistered",
            f'"{name}" of "{definition.name}" takes "{taken}" as a handler does, but nothing decorates, subscribes or '
            f"calls it, so it never runs: decorate it with @subscribe({event})",
            site,
        )

    def _is_dead(self, definition: ClassDefinition, name: str, function: Function) -> bool:
        if function.tags or function.is_opaque or function.kind not in {"", "static"}:
            return False
        if function.definition in self._used or any(name in each.members for each in definition.ancestry[1:]):
            return False
        below = [each for each in self._facts.classes if definition in each.ancestry]
        if any(each.is_opaque for each in below) or any(
            name in each.members for each in below if each is not definition
        ):
            return False
        family = {(each.module, str(each.facts["path"])) for one in below for each in one.ancestry}

        def is_of_others(module: Module, mentioning: dict[str, Any], part: Node) -> bool:
            return _is_of_others(module, mentioning, part, function.definition, family)

        return not is_mentioned(name, self._modules, is_of_others)

    def _event_for(self, name: str, context: str) -> str:
        """Return the event that a method is named after, or else what stands for one."""
        words = set(name.lower().split("_"))
        found = sorted(
            (
                event
                for event in self._events[context]
                if not event.startswith("EVENT_INFERENCE") or "inference" in words
            ),
            key=lambda event: (-len(words & set(event.lower().split("_"))), len(event), event),
        )
        is_certain = found and (len(found) == 1 or len(words & set(found[0].lower().split("_"))) > 1)
        return found[0] if is_certain else "EVENT_..."


def _has_tags(definition: ClassDefinition) -> bool:
    return any(
        isinstance(value, Function) and value.tags for values in members_of(definition).values() for value in values
    )


def _taken(function: Function) -> str:
    """Return the class of what a method takes, if that is all that it needs; an empty text if not."""
    parameters = function.definition.facts["parameters"][0 if function.kind == "static" else 1 :]
    if not parameters or any(default is None for _, kind, _, default in parameters[1:] if kind in {"plain", "keyword"}):
        return ""
    _, kind, annotation, _ = parameters[0]
    if annotation is not None and annotation[0] == "operation":  # a union, perhaps with None
        others = [each for each in annotation[1] if each[0] != "constant"]
        annotation = others[0] if len(others) == 1 else None
    return last_name(annotation) if kind == "plain" else ""


def _acts(function: Function) -> bool:
    """Return whether a method does something, and returns nothing, as a handler does."""
    facts = function.definition.facts
    body = [each for each in facts["body"] if each[0] != "expression" or each[1][0] != "constant"]
    return bool(body) and facts["returns"] is not None and facts["returns"][:1] == ["constant"]


def _is_of_others(
    module: Module, function: dict[str, Any], part: Node, own: Definition, family: set[tuple[str, str]]
) -> bool:
    """Return whether a mention is that of a method of another class, or in the method itself."""
    if module.key == own.module and (function["path"] == own.path or function["path"].startswith(f"{own.path}.")):
        return True
    is_of_self = part[0] == "attribute" and part[1][:2] == ["name", "self"]
    paths = _paths_above(function["path"])
    return is_of_self and not any((module.key, path) in family for path in paths)


def _paths_above(path: str) -> list[str]:
    names = path.split(".")
    return [".".join(names[:number]) for number in range(1, len(names))]
