"""Rules about the types and defaults of fields."""

from collections.abc import Iterator

from d9d_codegen import annotation
from d9d_codegen.annotation import BUILTINS, TypeSyntaxError
from d9d_codegen.imports import split
from d9d_codegen.literal import LiteralSyntaxError, parse_literal
from d9d_codegen.model import Catalogue, Context, Field, Module
from d9d_codegen.problem import Finding
from d9d_codegen.reference import Scope
from d9d_codegen.spelling import suggestion

_SPELLINGS = {"none": "None", "null": "None", "true": "True", "false": "False", "~": "None"}


def bad_type(catalogue: Catalogue) -> Iterator[Finding]:
    """A field's type is no Python type expression."""
    for _, _, field in _fields(catalogue):
        try:
            annotation.parse(field.type)
        except TypeSyntaxError as error:
            at = field.type.span
            if error.offset is not None:
                at = catalogue.source.within(field.type, error.offset, error.length)
            message = f'the type "{field.type.strip()}" of field {field.name} {error}'
            yield Finding(at, message, "write a Python type such as `list[torch.Tensor] | None`")


def unknown_name(catalogue: Catalogue) -> Iterator[Finding]:
    """A field's type mentions a name that is neither built in, nor a context, nor a full dotted path."""
    for module in catalogue.modules:
        scope = Scope(catalogue, module)
        for context in module.contexts:
            for field in context.fields:
                for name in annotation.names_in(field.type):
                    if name.path in BUILTINS or scope.resolve(name.path):
                        continue
                    at = catalogue.source.within(field.type, name.offset, len(name.path))
                    known = catalogue.contexts if "." in name.path else [*BUILTINS, *scope.names]
                    message = f'the type of field {field.name} names "{name.path}"'
                    otherwise = "write its full dotted path, such as `torch.Tensor`"
                    yield Finding(at, message, suggestion(name.path, known, otherwise))


def hidden_name(catalogue: Catalogue) -> Iterator[Finding]:
    """A field, context or constant is called like something that the types beside it need."""
    for module in catalogue.modules:
        roots = {"d9d", "dataclasses", "typing"}
        for context in module.contexts:
            needed = {
                part
                for field in context.fields
                for name in annotation.names_in(field.type)
                for part in _spelled(name.path)
            }
            roots |= {
                name.path.partition(".")[0] for field in context.fields for name in annotation.names_in(field.type)
            }
            if any(field.status.replaced_by for field in context.fields):
                needed |= {"d9d", "deprecated", "property"}
            for field in context.fields:
                if field.name in needed:
                    message = f'the field {field.name} hides the "{field.name}" that a type of {context.name} names'
                    yield Finding(field.name, message, "call it something else")
        contexts = [context.name for context in module.contexts]
        roots -= {*contexts}
        for name in (*contexts, *(event.name for event in module.events)):
            if name in roots:
                message = f'{name} hides the "{name}" that a type of {module.name} names'
                yield Finding(name, message, "call it something else")


def bad_default(catalogue: Catalogue) -> Iterator[Finding]:
    """A field's default is no Python literal."""
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
                else "write a finite number, a text in quotes of its own, True, False, None, or a collection of these"
            )
            yield Finding(field.default, f'the default "{field.default.strip()}" of field {field.name} {error}', remedy)


def _fields(catalogue: Catalogue) -> Iterator[tuple[Module, Context, Field]]:
    """Yield the fields that have a type at all, with where they belong."""
    for module in catalogue.modules:
        for context in module.contexts:
            yield from ((module, context, field) for field in context.fields if field.type)


def _spelled(path: str) -> tuple[str, ...]:
    """Return the names that a module may need to mention a path."""
    return (path, split(path)[1], path.partition(".")[0]) if "." in path else (path,)
