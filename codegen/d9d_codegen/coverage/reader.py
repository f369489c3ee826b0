"""Finds what a file does with events, and holds the order of triggers in each function against the declared one."""

import ast
from collections.abc import Iterable

from d9d_codegen.coverage.flow import Flow
from d9d_codegen.coverage.names import Names, bind, blocks
from d9d_codegen.coverage.order import Order
from d9d_codegen.coverage.python_file import Bindings, PythonFile
from d9d_codegen.coverage.scope import Scope, Summary
from d9d_codegen.coverage.site import Site, Sites

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class Reader:
    """Reads one file.

    Args:
        file: The file.
        names: What the names of all files stand for.
        order: The declared order of events.
        sites: Takes what is found.
    """

    def __init__(self, file: PythonFile, names: Names, order: Order, sites: Sites) -> None:
        self.file = file
        self.names = names
        self.order = order
        self.sites = sites
        self._scopes: dict[ast.AST, Scope] = {}
        self._functions: dict[str, ast.AST] = {}
        self._summaries: dict[ast.AST, Summary | None] = {}

    def read(self) -> None:
        """Notes everything that the file does with events."""
        module = Scope("the module", self.names.of(self.file))
        self._functions = self._discover(self.file.tree.body, "", module.bindings)
        Flow(self, module).run(self.file.tree.body)
        for function in list(self._scopes):
            self.summary(function)

    def summary(self, function: ast.AST) -> Summary | None:
        """Returns what a function does; nothing while that is being found out, as in a recursion."""
        if function not in self._summaries and isinstance(function, FunctionNode):
            self._summaries[function] = None
            self._summaries[function] = Flow(self, self._scopes[function]).run(function.body)
        return self._summaries.get(function)

    def called(self, node: ast.Call, scope: Scope) -> ast.AST | None:
        """Returns the function of this file that a call calls, if it is one: by its name, or a method of `self`."""
        match node.func:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                return scope.methods.get(name)
            case ast.Name(id=name) if scope.bindings.get(name) == f"{self.file.module}.{name}":
                return self._functions.get(name)
            case _:
                return None

    def site(self, node: ast.expr, scope: Scope) -> Site | None:
        """Returns the place where an event is named, or nothing where the expression names none."""
        path = self.names.resolve(node, scope.bindings, self.file)
        if path is None or not (path in self.order.events or path.rpartition(".")[2].startswith("EVENT_")):
            return None
        return Site(self.order.canonical(path), self.file, self.file.span(node), scope.name)

    def _discover(self, body: Iterable[ast.stmt], prefix: str, bindings: Bindings) -> dict[str, ast.AST]:
        """Enters the functions in a block, and those within them; returns those of the block by name."""
        found: dict[str, ast.AST] = {}
        for statement in body:
            match statement:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    name = f"{prefix}{statement.name}"
                    inner = _inner_bindings(self.file, statement, bindings)
                    self._scopes[statement] = Scope(name, inner, found)
                    found[statement.name] = statement
                    self._discover(statement.body, f"{name}.", inner)
                case ast.ClassDef():
                    self._discover(statement.body, f"{prefix}{statement.name}.", bindings)
                case _:
                    for block in blocks(statement):
                        found |= self._discover(block, prefix, bindings)
        return found


def _inner_bindings(file: PythonFile, function: FunctionNode, outer: Bindings) -> Bindings:
    """Returns what is in scope in a function: its parameters hide what is outside, and stand for nothing known."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    parameters += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    inner: Bindings = {**outer, **dict.fromkeys((parameter.arg for parameter in parameters), None)}
    bind(file, function.body, inner)
    return inner
