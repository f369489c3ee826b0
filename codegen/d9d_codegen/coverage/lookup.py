"""What the expressions in one file mean: the events that they name, and the functions that they call."""

import ast
from collections.abc import Iterable, Iterator, Mapping

from d9d_codegen.coverage.names import Names, bind, blocks
from d9d_codegen.coverage.order import Order
from d9d_codegen.coverage.python_file import Bindings, PythonFile
from d9d_codegen.coverage.scope import FunctionNode, Scope
from d9d_codegen.coverage.site import Site


class Lookup:
    """The functions of one file, and what the names in them stand for.

    Args:
        file: The file.
        names: What the names of all files stand for.
        order: The declared order of events.
        exported: The functions of all files, by their full paths.

    Attributes:
        file: The file.
        module: The file itself, as the function that runs when it is imported.
    """

    def __init__(self, file: PythonFile, names: Names, order: Order, exported: Mapping[str, FunctionNode]) -> None:
        self.file = file
        self._names = names
        self._order = order
        self._exported = exported
        self._scopes: dict[FunctionNode, Scope] = {}
        self.module = Scope("the module", names.of(file))
        self._functions = self._discover(file.tree.body, "", self.module.bindings)

    def functions(self) -> Iterator[FunctionNode]:
        """Yield all functions of the file, those within others too."""
        yield from self._scopes

    def scope(self, function: FunctionNode) -> Scope:
        """Return what is in scope in a function."""
        return self._scopes[function]

    def exports(self) -> Iterator[tuple[str, FunctionNode]]:
        """Yield the functions that other files can import, by their full paths."""
        for name, function in self._functions.items():
            yield f"{self.file.module}.{name}", function

    def called(self, node: ast.Call, scope: Scope) -> FunctionNode | None:
        """Return the function in view that a call calls, if it is one: by its name, or a method of `self`."""
        match node.func:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                return scope.methods.get(name)
            case ast.Name(id=name) if scope.bindings.get(name) == f"{self.file.module}.{name}":
                return self._functions.get(name)
            case _:
                return self._exported.get(self._names.resolve(node.func, scope.bindings, self.file) or "")

    def method(self, call: ast.Call, scope: Scope) -> str:
        """Return the last part of what is called, by its own name where it was imported under another."""
        match call.func:
            case ast.Name(id=name):
                return (scope.bindings.get(name) or name).rpartition(".")[2]
            case ast.Attribute(attr=name):
                return name
            case _:
                return ""

    def argument(self, call: ast.Call, at: int, name: str, scope: Scope) -> Site | None:
        """Return the place where an argument of a call names an event.

        Args:
            call: The call.
            at: The position of the argument.
            name: Its name.
            scope: What is in scope.
        """
        given = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
        node = call.args[at] if len(call.args) > at else given
        return self.site(node, scope) if node is not None else None

    def site(self, node: ast.expr, scope: Scope) -> Site | None:
        """Return the place where an event is named, or nothing where the expression names none."""
        path = self._names.resolve(node, scope.bindings, self.file)
        if path is None or not (path in self._order.events or path.rpartition(".")[2].startswith("EVENT_")):
            return None
        return Site(self._order.canonical(path), self.file, self.file.span(node), scope.name)

    def _discover(self, body: Iterable[ast.stmt], prefix: str, bindings: Bindings) -> dict[str, FunctionNode]:
        """Enter the functions in a block, and those within them; return those of the block by name."""
        found: dict[str, FunctionNode] = {}
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
    """Return what is in scope in a function: its parameters hide what is outside, and stand for nothing known."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    parameters += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    inner: Bindings = {**outer, **dict.fromkeys((parameter.arg for parameter in parameters), None)}
    bind(file, function.body, inner)
    return inner
