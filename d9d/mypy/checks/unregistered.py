"""Checks that tasks and model providers register their handlers: the loop does not."""

from collections.abc import Iterator, Mapping

from mypy.nodes import IS_ABSTRACT, Context, MypyFile, TypeInfo, Var

from d9d.mypy import names
from d9d.mypy.class_facts import (
    ANYTHING,
    CALLS_SUPER,
    HANDS_ON,
    ITSELF,
    READS,
    SUBSCRIBES,
    SUBSCRIBES_ELSEWHERE,
    THE_CLASS,
    definition_in,
    handlers_registered_by_others,
    inherited_handlers,
    own_optional,
    own_uses,
    source_name,
)
from d9d.mypy.diagnostics import UNREGISTERED, CheckedClass
from d9d.mypy.events import find_event, join
from d9d.mypy.syntax import function_of, own_definitions

_Method = tuple[TypeInfo, str]


def check_unregistered(check: CheckedClass) -> None:
    """Check that `register_events` of a task or a model provider can register all of its handlers.

    A missing registration is reported once, at the class that lacks it, and not at its subclasses.
    """
    info, modules = check.info, check.api.modules
    if not _is_reported(info, modules):
        return
    reported = [base for base in info.mro[1:] if _is_reported(base, modules)]
    if any(_registering_class(base) is _registering_class(info) for base in reported):
        return
    known = {name for base in reported for name in unregistered(base, modules)}
    missing = {name: events for name, events in unregistered(info, modules).items() if name not in known}
    if missing:
        owners = {name: owner for name, (owner, _) in inherited_handlers(info).items()}
        handlers = [
            f'"{source_name(name, owners[name])}" of '
            f"{' and '.join(str(find_event(each, modules, check.indexes)) for each in events)}"
            for name, events in missing.items()
        ]
        noun, pronoun = ("handlers", "them") if len(handlers) > 1 else ("handler", "it")
        check.fail(
            f'"{info.name}" never registers its {noun} {join(handlers)}, so nothing calls {pronoun}: call '
            "subscribe_annotated(ctx.event_bus, self) in register_events",
            _where(info),
            UNREGISTERED,
        )


def unregistered(info: TypeInfo, modules: Mapping[str, MypyFile]) -> Mapping[str, list[str]]:
    """Return the handlers, with their events, that nothing registers: no method of the class, no code of its module."""
    if not any(base.fullname in (names.BASE_TASK, names.MODEL_PROVIDER) for base in info.mro):
        return {}
    handlers = {name: _required(base, name, events) for name, (base, events) in inherited_handlers(info).items()}
    handlers = {name: events for name, events in handlers.items() if events}
    others = handlers_registered_by_others(info, modules.get(info.module_name)) if handlers else ()
    handlers = {name: events for name, events in handlers.items() if name not in others}
    used = _used(info) if handlers and ANYTHING not in others and _is_all_in_view(info) else None
    return {name: events for name, events in handlers.items() if used is not None and name not in used}


def _required(base: TypeInfo, name: str, events: list[str]) -> list[str]:
    """Return the events of a handler without those for which it is optional."""
    optional = own_optional(base).get(name, [])
    return [event for event in events if event not in optional]


def _used(info: TypeInfo) -> set[str] | None:
    """Return the attributes that `register_events` and what it calls use; `None` if they may use any."""
    used: set[str] = set()
    waiting: list[_Method | None] = [_find(info, names.REGISTER_EVENTS)]
    done: set[_Method] = set()
    while waiting:
        method = waiting.pop()
        if method is None:
            return None
        if method in done:
            continue
        done.add(method)
        owner, method_name = method
        for use in own_uses(owner)[method_name]:
            kind, _, name = use.rpartition(".")
            if use in (ITSELF, SUBSCRIBES, SUBSCRIBES_ELSEWHERE):
                return None
            if use == HANDS_ON or (kind == READS and _is_data(info, name)):
                waiting.extend(_all_methods(info))  # another object that the class keeps may know its handlers
            else:
                waiting.append(_find(info, name, beyond=owner if kind == CALLS_SUPER else None))
            used.add(name)
    return used


def _find(info: TypeInfo, name: str, beyond: TypeInfo | None = None) -> _Method | None:
    """Return a method of a class and where it is defined; `None` if it is not a method or its uses are unknown.

    Args:
        info: The class of the object.
        name: The name of the method.
        beyond: The class that calls `super()`, if one does.
    """
    start = 0 if beyond is None else info.mro.index(beyond) + 1
    owner = next((base for base in info.mro[start:] if definition_in(base, name) is not None), None)
    return (owner, name) if owner is not None and name in own_uses(owner) else None


def _is_data(info: TypeInfo, name: str) -> bool:
    found = (definition_in(base, name) for base in info.mro)
    symbol = next((each for each in found if each is not None), None)
    return symbol is not None and isinstance(symbol.node, Var)


def _all_methods(info: TypeInfo) -> Iterator[_Method]:
    for base in info.mro:
        yield from ((base, name) for name in own_uses(base))


def _is_all_in_view(info: TypeInfo) -> bool:
    """Return whether no decorator, metaclass or `__init_subclass__` may register the handlers of a class."""
    made_by_others = info.fallback_to_any or any(
        THE_CLASS in own_uses(base) or "__init_subclass__" in base.names
        for base in info.mro
        if base.fullname != "builtins.object"
    )
    return not made_by_others and (info.metaclass_type is None or info.metaclass_type.type.fullname == "abc.ABCMeta")


def _is_reported(info: TypeInfo, modules: Mapping[str, MypyFile]) -> bool:
    """Return whether a class never registers some handlers, and does not leave that to its subclasses."""
    missing = unregistered(info, modules)
    if not missing or _is_abstract(info):
        return False
    module = modules.get(info.module_name)
    neighbours = [symbol.node for symbol in module.names.values()] if module is not None else []
    subclasses = [node for node in neighbours if isinstance(node, TypeInfo) and info in node.mro[1:]]
    return not any(name not in unregistered(subclass, modules) for subclass in subclasses for name in missing)


def _is_abstract(info: TypeInfo) -> bool:
    """Return whether a class is declared abstract, or has an abstract method; mypy itself finds that out later."""
    if info.declared_metaclass is not None or any(base.type.fullname == "abc.ABC" for base in info.bases):
        return True
    concrete: set[str] = set()
    for base in info.mro:
        for name, definition in own_definitions(base):
            function = function_of(definition)
            if function is not None and function.abstract_status == IS_ABSTRACT and name not in concrete:
                return True
        concrete.update(base.names)
    return False


def _registering_class(info: TypeInfo) -> TypeInfo | None:
    return next((base for base in info.mro if names.REGISTER_EVENTS in base.names), None)


def _where(info: TypeInfo) -> Context:
    """Return the `register_events` that a class defines, or else the class."""
    own = info.names.get(names.REGISTER_EVENTS)
    return function_of(own.node if own else None) or info.defn
