"""Rules about the types and defaults of fields, and about contexts of other packages: they must exist."""

import builtins
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import KW_ONLY, InitVar
from typing import ClassVar, Final, NamedTuple

from d9d_codegen.catalogue import Catalogue, Context, Field, Module, Scope
from d9d_codegen.diagnostic import Span, Text, Violation, suggestion
from d9d_codegen.expression import (
    BUILTINS,
    LiteralSyntaxError,
    TypeSyntaxError,
    names_in_type,
    parse_literal,
    parse_type,
    split,
)
from d9d_codegen.resolve import Unresolved

_SPECIAL: Final[tuple[tuple[object, str], ...]] = (
    (ClassVar, "so a dataclass would not make it a field"),
    (InitVar, "so a dataclass would not keep its value"),
    (KW_ONLY, "so a dataclass would not make it a field"),
)
_SPELLINGS = {"none": "None", "null": "None", "true": "True", "false": "False", "~": "None"}


def bad_type(catalogue: Catalogue) -> Iterator[Violation]:
    """A field's type is not a Python type expression."""
    for _, _, field in _fields(catalogue):
        try:
            parse_type(field.type)
        except TypeSyntaxError as error:
            at = field.type.span
            if error.offset is not None:
                at = catalogue.source.within(field.type, error.offset, error.length)
            message = f'the type "{field.type.strip()}" of field {field.name} {error}'
            yield Violation(at, message, "write a Python type such as `list[torch.Tensor] | None`")


_ON_HOST: Final = frozenset(["bool", "bytes", "complex", "float", "int", "str", "pathlib.Path"])
_CONTAINERS: Final = frozenset(["dict", "frozenset", "list", "set", "tuple"])


def device_type(catalogue: Catalogue) -> Iterator[Violation]:
    """A field with `device` has a type whose values are always on the host."""
    for _, _, field in _fields(catalogue):
        names = {name.path for name in names_in_type(field.type)}
        if field.device and names & _ON_HOST and names <= _ON_HOST | _CONTAINERS:
            message = f'field {field.name} has `device`, but a value of its type "{field.type.strip()}" is on the host'
            yield Violation(field.type, message, "remove `device`, or write a type such as `torch.Tensor`")


def unknown_name(catalogue: Catalogue) -> Iterator[Violation]:
    """A field's type mentions a name that is neither a builtin, nor a context, nor a full dotted path."""
    for module in catalogue.modules:
        scope = Scope(catalogue, module)
        for context in module.contexts:
            for field in context.fields:
                for name in names_in_type(field.type):
                    if name.path in BUILTINS or scope.resolve(name.path):
                        continue
                    at = catalogue.source.within(field.type, name.offset, len(name.path))
                    known = catalogue.contexts if "." in name.path else [*BUILTINS, *scope.names]
                    message = f'the type of field {field.name} names the unknown type "{name.path}"'
                    otherwise = "write its full dotted path, such as `torch.Tensor`"
                    yield Violation(at, message, suggestion(name.path, known, otherwise))


def unusable_type(catalogue: Catalogue) -> Iterator[Violation]:
    """A field's type is not one for a dataclass, such as `ClassVar`, or Python cannot evaluate it."""
    for module in catalogue.modules:
        scope = Scope(catalogue, module)
        usable: set[str] = set()  # most fields have one of a few types
        for field in [field for context in module.contexts for field in context.fields if field.type]:
            if field.type in usable:
                continue
            found = [*_special_names(catalogue, scope, field)]
            error = "" if found else _evaluation_error(catalogue, scope, field)
            if error:
                message = f'the type "{field.type.strip()}" of field {field.name} cannot be evaluated: {error}'
                found = [Violation(field.type, message, "write a type that Python accepts")]
            if not found:
                usable.add(str(field.type))
            yield from found


def _special_names(catalogue: Catalogue, scope: Scope, field: Field) -> Iterator[Violation]:
    for name in names_in_type(field.type):
        for kind, reason in _SPECIAL:
            if _loaded(catalogue, scope, name.path) is kind:
                at = catalogue.source.within(field.type, name.offset, len(name.path))
                message = f'the type of field {field.name} names "{name.path}", {reason}'
                yield Violation(at, message, "write the type of the value alone")


class _StandIn:
    """Stands for a type that is not loaded: it may take arguments, and can be part of a union."""

    def __class_getitem__(cls, arguments: object) -> "type[_StandIn]":
        return cls


class _ContextStandIn:
    """Stands for a context, which takes no arguments."""


def _evaluation_error(catalogue: Catalogue, scope: Scope, field: Field) -> str:
    """Return why Python refuses a type, as far as that is known without importing anything; empty if it does not."""

    def look_up(path: str) -> object:
        if scope.resolve(path) in catalogue.contexts:
            return _ContextStandIn
        found = _loaded(catalogue, scope, path)
        return _StandIn if found is None else found

    try:
        parse_type(field.type).evaluate(look_up)
    except (TypeSyntaxError, RecursionError):
        return ""  # reported by bad-type, or too deep to say
    except (TypeError, ValueError, AttributeError) as error:
        return str(error)
    return ""


def _loaded(catalogue: Catalogue, scope: Scope, path: str) -> object:
    """Return the object that a name stands for if it is one of Python's own that is loaded anyway; else None."""
    if path in BUILTINS:
        return getattr(builtins, path)
    if scope.resolve(path) in catalogue.contexts or catalogue.environment is None:
        return None
    return catalogue.environment.resolver.origin(path)


def shadowed_name(catalogue: Catalogue) -> Iterator[Violation]:
    """A field, context or constant has a name that the generated code around it needs."""
    for module in catalogue.modules:
        roots = {"d9d", "dataclasses", "typing"}
        for context in module.contexts:
            needed = {
                part for field in context.fields for name in names_in_type(field.type) for part in _spelled(name.path)
            }
            roots |= {name.path.partition(".")[0] for field in context.fields for name in names_in_type(field.type)}
            if any(field.status.replaced_by for field in context.fields):
                needed |= {"d9d", "deprecated", "property"}
            needed_by_defaults = _needed_by_defaults(context)
            for field in context.fields:
                if field.name in needed:
                    message = f'the field {field.name} shadows the "{field.name}" that a type of {context.name} needs'
                    yield Violation(field.name, message, "rename the field")
                elif field.name in needed_by_defaults:
                    message = (
                        f'the field {field.name} shadows the "{field.name}" that a default of {context.name} needs'
                    )
                    yield Violation(field.name, message, "rename the field")
        contexts = [context.name for context in module.contexts]
        roots -= {*contexts}
        for name in (*contexts, *(event.name for event in module.events)):
            if name in roots:
                message = f'{name} shadows the "{name}" that a type of {module.name} needs'
                yield Violation(name, message, "rename it")


def _needed_by_defaults(context: Context) -> set[str]:
    """Return the names that the source of a context's defaults needs, or would need in another version of it."""
    needed: set[str] = set()
    values: list[object] = []
    for field in context.fields:
        with suppress(LiteralSyntaxError):
            values += [parse_literal(field.default)] if field.default is not None else []
    for value in values:
        if isinstance(value, list | dict | set | tuple):
            needed |= {"dataclasses", type(value).__name__, *(["frozenset"] if isinstance(value, set) else [])}
            values += [*value, *(value.values() if isinstance(value, dict) else ())]
    return needed


def bad_default(catalogue: Catalogue) -> Iterator[Violation]:
    """A field's default is not a Python literal."""
    for _, _, field in _fields(catalogue):
        if field.default is None:
            continue
        try:
            parse_literal(field.default)
        except LiteralSyntaxError as error:
            known = _SPELLINGS.get(field.default.strip().lower())
            remedy = (
                f'did you mean "{known}"?'
                if known
                else "use a finite number, a quoted string, True, False, None, or a collection of these"
            )
            yield Violation(
                field.default, f'the default "{field.default.strip()}" of field {field.name} {error}', remedy
            )


def _fields(catalogue: Catalogue) -> Iterator[tuple[Module, Context, Field]]:
    """Yield the fields that have a type, with their modules and contexts."""
    for module in catalogue.modules:
        for context in module.contexts:
            yield from ((module, context, field) for field in context.fields if field.type)


def _spelled(path: str) -> tuple[str, ...]:
    """Return the names that generated code may use to mention a path."""
    return (path, split(path)[1], path.partition(".")[0]) if "." in path else (path,)


class _Use(NamedTuple):
    """A dotted path that leads out of the catalogue.

    Attributes:
        user: The entry that contains it.
        text: The text that contains it.
        path: The path.
        offset: Its position in the text, in characters.
    """

    user: str
    text: Text
    path: str
    offset: int


def unknown_module(catalogue: Catalogue) -> Iterator[Violation]:
    """A field's type or an event's context is in a module that cannot be imported."""
    for use, unresolved in _unresolved(catalogue):
        if not unresolved.is_module:
            continue
        if unresolved.module:
            message = f'{use.user} names "{use.path}", but {unresolved.module} has no module "{unresolved.part}"'
            otherwise = f"use a module of {unresolved.module}"
        else:
            message = f'{use.user} names "{use.path}", but no package "{unresolved.part}" is installed'
            otherwise = "install it in the compiler's environment, or correct the name"
        yield Violation(_position(catalogue, use, unresolved), message, _remedy(unresolved, otherwise))


def unknown_type(catalogue: Catalogue) -> Iterator[Violation]:
    """A field's type or an event's context is a name that its module does not have."""
    for use, unresolved in _unresolved(catalogue):
        if not unresolved.is_module:
            message = f'{use.user} names "{use.path}", but {unresolved.module} has no "{unresolved.part}"'
            message += f" when it is imported: {unresolved.why}" if unresolved.why else ""
            yield Violation(
                _position(catalogue, use, unresolved),
                message,
                _remedy(unresolved, f"use a name that {unresolved.module} defines"),
            )
    for use, known in _undeclared(catalogue):
        message = f'{use.user} names "{use.path}", which no catalogue of this project declares'
        at = catalogue.source.within(use.text, use.offset, len(use.path))
        yield Violation(at, message, suggestion(use.path, known, "declare it in the catalogue of that package"))


def not_a_context(catalogue: Catalogue) -> Iterator[Violation]:
    """An event's context is something else in an installed catalogue, such as an event."""
    environment = catalogue.environment
    if environment is None:
        return
    for use in _uses_by_events(catalogue):
        module, _, name = use.path.rpartition(".")
        contexts = environment.contexts_of(module.rpartition(".")[0])
        if contexts is None or environment.resolver.unresolved(use.path):
            continue
        if name not in {context.rpartition(".")[2] for context in contexts}:
            message = f'{use.user} names "{use.path}", which is not a context'
            yield Violation(use.text, message, suggestion(use.path, contexts, "use a context of that catalogue"))


def _unresolved(catalogue: Catalogue) -> Iterator[tuple[_Use, Unresolved]]:
    """Yield what cannot be resolved outside of this project's catalogues."""
    environment = catalogue.environment
    if environment is None:
        return
    of_siblings = {path for sibling in environment.siblings for path in sibling.module_paths}
    for use in _uses(catalogue):
        if use.path.rpartition(".")[0] in of_siblings:
            continue
        unresolved = environment.resolver.unresolved(use.path)
        if unresolved:
            yield use, unresolved


def _undeclared(catalogue: Catalogue) -> Iterator[tuple[_Use, list[str]]]:
    """Yield what another catalogue of this project does not declare; its modules may not be generated yet."""
    siblings = catalogue.environment.siblings if catalogue.environment else ()
    if not siblings:
        return
    modules = {path for sibling in siblings for path in sibling.module_paths}
    contexts = [path for sibling in siblings for path in sibling.contexts]
    for use in _uses(catalogue):
        if use.path.rpartition(".")[0] in modules and use.path not in contexts:
            yield use, contexts


def _uses(catalogue: Catalogue) -> Iterator[_Use]:
    yield from _uses_by_events(catalogue)
    for module in catalogue.modules:
        for context in module.contexts:
            for field in context.fields:
                for name in names_in_type(field.type):
                    if _leads_out(catalogue, name.path):
                        yield _Use(f"the type of field {field.name}", field.type, name.path, name.offset)


def _uses_by_events(catalogue: Catalogue) -> Iterator[_Use]:
    for module in catalogue.modules:
        for event in module.events:
            if _leads_out(catalogue, event.context):
                yield _Use(f"event {event.name}", event.context, event.context, 0)


def _leads_out(catalogue: Catalogue, path: str) -> bool:
    first, *others = path.split(".")
    is_path = first.isidentifier() and others and all(part.isidentifier() for part in others)
    return bool(is_path) and path.rpartition(".")[0] not in catalogue.module_paths


def _position(catalogue: Catalogue, use: _Use, unresolved: Unresolved) -> Span:
    return catalogue.source.within(use.text, use.offset + unresolved.offset, len(unresolved.part))


def _remedy(unresolved: Unresolved, otherwise: str) -> str:
    return f'did you mean "{unresolved.meant}"?' if unresolved.meant else otherwise
