"""A function, as a reader of source knows it before and after it has gone through it."""

import ast
from dataclasses import dataclass, field

from d9d_codegen.coverage.python_file import Bindings
from d9d_codegen.coverage.site import Site
from d9d_codegen.coverage.state import State

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class Scope:
    """A function, or a module, and what is in scope in it.

    Attributes:
        name: Its name, with those of the classes and functions around it.
        bindings: What the names in it stand for.
        methods: The methods of the class that it is one of.
    """

    name: str
    bindings: Bindings
    methods: dict[str, FunctionNode] = field(default_factory=dict)


@dataclass(slots=True)
class Summary:
    """What a call of a function does to a run.

    Attributes:
        firsts: The triggers that may come first in it.
        exits: The triggers that may come last.
    """

    firsts: list[Site]
    exits: State


def is_generator(function: FunctionNode) -> bool:
    """Return whether a call of a function does not run it yet; functions within it are not meant."""
    nodes: list[ast.AST] = [*function.body]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            nodes += ast.iter_child_nodes(node)
    return False
