"""The methods that the body of a class defines, and what their decorators may make of them."""

from collections.abc import Iterator
from typing import Final

from mypy.nodes import CallExpr, Decorator, Expression, FuncDef, OverloadedFuncDef, RefExpr, SymbolNode, TypeInfo

from d9d.mypy import names

_REDEFINITION: Final = "-redefinition"
"""How mypy calls what a branch of an `if` defines once more."""


def own_definitions(info: TypeInfo) -> Iterator[tuple[str, SymbolNode | None]]:
    """Yield the name of everything that a class defines, with the definition; several where there are branches."""
    for name, symbol in info.names.items():
        parts = symbol.node.items if isinstance(symbol.node, OverloadedFuncDef) else [symbol.node]
        for part in parts:
            yield name.partition(_REDEFINITION)[0], part


def function_of(definition: object) -> FuncDef | None:
    """Return the function in a definition, decorated or not."""
    function = definition.func if isinstance(definition, Decorator) else definition
    return function if isinstance(function, FuncDef) else None


def leaves_alone(decorator: Expression) -> bool:
    """Say whether a decorator is known to neither replace, nor tag, nor keep the function that it decorates."""
    called = decorator.callee if isinstance(decorator, CallExpr) else decorator
    return isinstance(called, RefExpr) and called.fullname in names.HARMLESS_DECORATORS


def is_plain(definition: object) -> bool:
    """Say whether a definition is a function that its decorators, if there are any, neither replace nor tag."""
    if isinstance(definition, Decorator):
        return all(map(leaves_alone, definition.original_decorators))
    return isinstance(definition, FuncDef)


def is_property(definition: object) -> bool:
    """Say whether a definition is looked up like an attribute."""
    return isinstance(definition, Decorator) and definition.func.is_property
