"""Which place of a catalogue a line of a generated module comes from."""

import ast
from collections.abc import Iterator

from d9d_codegen import annotation
from d9d_codegen.imports import split
from d9d_codegen.model import Catalogue, Context, Module
from d9d_codegen.reference import Scope
from d9d_codegen.source import Span


def origins(catalogue: Catalogue, module: Module, text: str) -> dict[int, Span]:
    """Map the lines of a generated module to the catalogue.

    The text itself is read, so that this holds whatever templates it was made with.

    Args:
        catalogue: A catalogue without problems.
        module: The module in question.
        text: The source that was generated for it.

    Returns:
        The place that each line comes from, as far as it comes from one: for a field its type, for an event's constant
        its context, for an import the first mention of what is imported.
    """
    found: dict[int, Span] = {}
    mentions = dict(reversed([*_mentions(catalogue, module)]))
    contexts = {str(context.name): context for context in module.contexts}
    events = {str(event.name): event.context.span for event in module.events}
    for statement in ast.parse(text).body:
        match statement:
            case ast.ImportFrom(module=str() as source, names=aliases):
                places = [(alias.lineno, mentions.get(f"{source}.{alias.name}")) for alias in aliases]
                given = [(statement.lineno, next((place for _, place in places if place), None)), *places]
                found |= {line: place for line, place in given if place}
            case ast.Import(names=[ast.alias(name=source)]):
                place = next((place for path, place in mentions.items() if path.startswith(f"{source}.")), None)
                found |= {statement.lineno: place} if place else {}
            case ast.ClassDef(name=name) if name in contexts:
                found |= _lines(statement, contexts[name].name.span) | _fields(statement, contexts[name])
            case ast.AnnAssign(target=ast.Name(id=name)) if name in events:
                found |= _lines(statement, events[name])
    return found


def _fields(statement: ast.ClassDef, context: Context) -> dict[int, Span]:
    types = {str(field.name): field.type.span for field in context.fields}
    found: dict[int, Span] = {}
    for inner in statement.body:
        match inner:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name) if name in types:
                found |= _lines(inner, types[name])
    return found


def _lines(statement: ast.stmt, place: Span) -> dict[int, Span]:
    first = min([statement.lineno, *(decorator.lineno for decorator in getattr(statement, "decorator_list", ()))])
    return dict.fromkeys(range(first, (statement.end_lineno or statement.lineno) + 1), place)


def _mentions(catalogue: Catalogue, module: Module) -> Iterator[tuple[str, Span]]:
    """Yield what a module may import, with each place that names it."""
    scope = Scope(catalogue, module)
    for context in module.contexts:
        for field in context.fields:
            for name in annotation.names_in(field.type):
                path = scope.resolve(name.path) or name.path
                if "." in path:
                    place = catalogue.source.within(field.type, name.offset, len(name.path))
                    yield ".".join(split(path)[:2]), place
    for event in module.events:
        path = scope.resolve(event.context) or event.context
        yield ".".join(split(path)[:2]), event.context.span
