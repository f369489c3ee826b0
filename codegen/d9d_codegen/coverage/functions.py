"""The functions of the given source: what the names in them stand for, and which functions a call may run."""

import ast
import builtins
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from d9d_codegen.coverage.order import Order, Site
from d9d_codegen.coverage.source import Bindings, Names, PythonFile, bind, blocks

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Events = tuple[str, ...]  # the full paths of the events that an expression may stand for
_BUILTINS: Final = frozenset(dir(builtins))
_OWN: Final = ("self", "cls")
METHODS_OF_BUS: Final = ("bounded", "emitter", "subscribe", "trigger")


@dataclass(eq=False, slots=True)
class Class:
    """A class.

    Attributes:
        name: Its name.
        bases: The last parts of the names of its base classes.
        methods: Its methods.
    """

    name: str
    bases: list[str]
    methods: dict[str, FunctionNode] = field(default_factory=dict)


@dataclass(slots=True)
class Scope:
    """A function, or a module, and the names in its scope.

    Attributes:
        name: Its name, with those of the classes and functions around it.
        bindings: What its names stand for.
        owner: The class that it is a method of.
    """

    name: str
    bindings: Bindings
    owner: Class | None = None


class Attributes:
    """The attributes of objects that hold events or emitters, by name, whichever class has them."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, None]] = {}
        self.emitters: dict[str, list[Site]] = {}

    def add_event(self, name: str, event: str) -> None:
        """Note that an attribute holds an event."""
        self.events.setdefault(name, {})[event] = None


class Hierarchy:
    """All classes of the given files. Classes of one name count as one."""

    def __init__(self) -> None:
        self._classes: dict[str, list[Class]] = {}
        self._methods: dict[str, list[FunctionNode]] = {}

    def add(self, found: Class) -> None:
        """Add a class, with its methods."""
        self._classes.setdefault(found.name, []).append(found)
        for name, method in found.methods.items():
            self._methods.setdefault(name, []).append(method)

    def named(self, method: str) -> list[FunctionNode]:
        """Return all methods of a name."""
        return self._methods.get(method, [])

    def of_self(self, owner: Class, method: str) -> list[FunctionNode]:
        """Return the methods that `self.method()` may call in a method of a class."""
        nearest = self._inherited([owner], method)
        overriding = [each.methods[method] for each in self._below(owner) if method in each.methods]
        return [*dict.fromkeys([*nearest, *overriding])]

    def of_super(self, owner: Class, method: str) -> list[FunctionNode]:
        """Return the methods that `super().method()` may call in a method of a class."""
        return self._inherited(self._bases(owner), method)

    def _inherited(self, classes: list[Class], method: str) -> list[FunctionNode]:
        seen: set[int] = set()
        while classes:
            found = [each.methods[method] for each in classes if method in each.methods]
            if found:
                return found
            seen |= {id(each) for each in classes}
            classes = [base for each in classes for base in self._bases(each) if id(base) not in seen]
        return []

    def _bases(self, owner: Class) -> list[Class]:
        return [base for name in owner.bases for base in self._classes.get(name, [])]

    def _below(self, owner: Class) -> list[Class]:
        found: dict[int, Class] = {}
        waiting = [owner]
        while waiting:
            above = waiting.pop()
            for each in (each for classes in self._classes.values() for each in classes):
                if above.name in each.bases and id(each) not in found:
                    found[id(each)] = each
                    waiting.append(each)
        return [*found.values()]


class Lookup:
    """The functions of one file, and what the names in them stand for.

    Args:
        file: The file.
        names: What the names of all files stand for.
        order: The declared order of events.
        exported: The functions of all files, by full path.
        hierarchy: The classes of all files; those of this one are added.

    Attributes:
        file: The file.
        module: The file itself, as the function that runs when it is imported.
    """

    def __init__(
        self,
        file: PythonFile,
        names: Names,
        order: Order,
        exported: Mapping[str, FunctionNode],
        hierarchy: Hierarchy,
    ) -> None:
        self.file = file
        self._names = names
        self._order = order
        self._exported = exported
        self._hierarchy = hierarchy
        self._scopes: dict[FunctionNode, Scope] = {}
        self.module = Scope("the module", names.of(file))
        self._functions = self._discover(file.tree.body, "", self.module.bindings, None)

    def functions(self) -> Iterator[FunctionNode]:
        """Yield all functions of the file, nested ones included."""
        yield from self._scopes

    def scope(self, function: FunctionNode) -> Scope:
        """Return the scope of a function."""
        return self._scopes[function]

    def exports(self) -> Iterator[tuple[str, FunctionNode]]:
        """Yield the functions that other files can import, by full path."""
        for name, function in self._functions.items():
            yield f"{self.file.module}.{name}", function

    def called(self, node: ast.Call, scope: Scope, owner: Class | None) -> list[FunctionNode]:
        """Return the given functions that a call may call: by their names, or as methods of `self`.

        Args:
            node: The call.
            scope: The scope of the call.
            owner: The class of `self`, or one above it.
        """
        match node.func:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if owner is not None:
                return self._hierarchy.of_self(owner, name)
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name) if scope.owner is not None:
                return self._hierarchy.of_super(scope.owner, name)
            case ast.Name(id=name) if scope.bindings.get(name) == f"{self.file.module}.{name}":
                found = self._functions.get(name)
            case _:
                found = self._exported.get(self._names.resolve(node.func, scope.bindings, self.file) or "")
        return [found] if found else []

    @staticmethod
    def is_of_self(node: ast.Call) -> bool:
        """Return whether a call is one of a method of `self`, here or in a base class."""
        match node.func:
            case ast.Attribute(value=ast.Name(id="self" | "cls") | ast.Call(func=ast.Name(id="super"))):
                return True
            case _:
                return False

    def is_plain(self, node: ast.Call, scope: Scope) -> bool:
        """Return whether a call runs nothing that could trigger events: that of a builtin, or of a class."""
        match node.func:
            case ast.Name(id=name) if name in _BUILTINS and name not in scope.bindings:
                return True
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return name.lstrip("_")[:1].isupper()
            case _:
                return False

    def method(self, call: ast.Call, scope: Scope) -> str:
        """Return the last part of the called name, by its original name where it was imported under another."""
        match call.func:
            case ast.Name(id=name):
                return (scope.bindings.get(name) or name).rpartition(".")[2]
            case ast.Attribute(attr=name):
                return name
            case _:
                return ""

    def site(self, node: ast.expr, scope: Scope) -> Site | None:
        """Return the site where an event is named, or None where the expression names none."""
        path = self._names.resolve(node, scope.bindings, self.file)
        if path is None or not (path in self._order.events or path.rpartition(".")[2].startswith("EVENT_")):
            return None
        return self.site_of(path, node, scope)

    def site_of(self, event: str, node: ast.expr, scope: Scope) -> Site:
        """Return the site where an expression stands for an event."""
        return Site(self._order.canonical(event), self.file, self.file.span(node), scope.name)

    def _discover(
        self, body: Iterable[ast.stmt], prefix: str, bindings: Bindings, owner: Class | None
    ) -> dict[str, FunctionNode]:
        """Add the functions in a block, and those within them; return those of the block by name."""
        found: dict[str, FunctionNode] = {}
        for statement in body:
            match statement:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    name = f"{prefix}{statement.name}"
                    inner = _inner_bindings(self.file, statement, bindings)
                    self._scopes[statement] = Scope(name, inner, owner)
                    found[statement.name] = statement
                    self._discover(statement.body, f"{name}.", inner, owner)
                case ast.ClassDef():
                    self._enter_class(statement, prefix, bindings)
                case _:
                    for block in blocks(statement):
                        found |= self._discover(block, prefix, bindings, owner)
        return found

    def _enter_class(self, node: ast.ClassDef, prefix: str, bindings: Bindings) -> None:
        bases = [_last_part(base) for base in node.bases]
        owner = Class(node.name, [base for base in bases if base])
        owner.methods = self._discover(node.body, f"{prefix}{node.name}.", bindings, owner)
        self._hierarchy.add(owner)


def _last_part(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=value):
            return _last_part(value)
        case _:
            return ""


def _inner_bindings(file: PythonFile, function: FunctionNode, outer: Bindings) -> Bindings:
    """Return the names in scope in a function: its parameters shadow outer names, and stand for nothing known."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    parameters += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    inner: Bindings = {**outer, **dict.fromkeys((parameter.arg for parameter in parameters), None)}
    bind(file, function.body, inner)
    return inner


def parameters_of(function: FunctionNode, call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Yield the parameters of a function that a call gives a value, with the values."""
    positional = [parameter.arg for parameter in (*function.args.posonlyargs, *function.args.args)]
    if positional[:1] and positional[0] in _OWN and isinstance(call.func, ast.Attribute):
        positional = positional[1:]
    for name, value in zip(positional, call.args, strict=False):
        if isinstance(value, ast.Starred):
            return
        yield name, value
    known = {*positional, *(parameter.arg for parameter in function.args.kwonlyargs)}
    yield from ((keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg and keyword.arg in known)


def is_generator(function: FunctionNode) -> bool:
    """Return whether a call of a function does not run it yet; functions within it are ignored."""
    nodes: list[ast.AST] = [*function.body]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            nodes += ast.iter_child_nodes(node)
    return False


def is_context_manager(function: FunctionNode) -> bool:
    """Return whether a function is a generator that `contextmanager` makes a context manager."""
    decorators = {_last_part(decorator) for decorator in function.decorator_list}
    return bool(decorators & {"contextmanager", "asynccontextmanager"}) and is_generator(function)


class Functions:
    """All functions of the given files.

    Args:
        files: The files.
        order: The declared order of events.
    """

    def __init__(self, files: Iterable[PythonFile], order: Order) -> None:
        self.order = order
        names = Names(files, order.events)
        exported: dict[str, FunctionNode] = {}
        self.hierarchy = Hierarchy()
        self.lookups = [Lookup(file, names, order, exported, self.hierarchy) for file in files]
        self.home = {function: lookup for lookup in self.lookups for function in lookup.functions()}
        for lookup in self.lookups:
            for path, function in lookup.exports():
                exported.setdefault(path, function)
        self.attributes = Attributes()
        for lookup in self.lookups:
            self._find_attributes(lookup)
        self.triggering = self._triggering()

    def escaping(self) -> frozenset[str]:
        """Return the names of functions that may trigger an event, and are named other than to call them."""
        found = set()
        # A name alone is no method: it may be that of any variable.
        functions = {each.name for each in self.home if self.home[each].scope(each).owner is None}
        for lookup in self.lookups:
            nodes = [*ast.walk(lookup.file.tree)]
            called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
            for node in nodes:
                match node:
                    case ast.Name(id=name, ctx=ast.Load()) if id(node) not in called:
                        found |= {name} & self.triggering & functions
                    case ast.Attribute(attr=name, ctx=ast.Load()) if id(node) not in called:
                        found |= {name} & self.triggering
        return frozenset(found)

    def only_asked(self) -> frozenset[str]:
        """Return the attributes with emitters that are only asked for handlers, or are given to a variable."""
        asked, read = set[str](), set[str]()
        for lookup in self.lookups:
            nodes = [*ast.walk(lookup.file.tree)]
            within = {id(node.value) for node in nodes if isinstance(node, ast.Attribute) and node.attr == "handlers"}
            within |= {id(value) for node in nodes for target, value in _assigned(node) if isinstance(target, ast.Name)}
            of_bus = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
            for node in nodes:
                if not isinstance(node, ast.Attribute) or (node.attr in METHODS_OF_BUS and id(node) in of_bus):
                    continue
                if isinstance(node.ctx, ast.Load):
                    (asked if id(node) in within else read).add(node.attr)
        return frozenset(asked - read)

    def _find_attributes(self, lookup: Lookup) -> None:
        """Note each attribute that is assigned an event or an emitter, in the body of a class or of an object."""
        for node in ast.walk(lookup.file.tree):
            if isinstance(node, ast.ClassDef):
                for statement in node.body:
                    for name, value in _assigned(statement):
                        if isinstance(name, ast.Name):
                            self._note(lookup, lookup.module, name.id, value)
        for function in lookup.functions():
            scope = lookup.scope(function)
            for node in _own_nodes(function):
                for name, value in _assigned(node):
                    if isinstance(name, ast.Attribute):
                        self._note(lookup, scope, name.attr, value)

    def _note(self, lookup: Lookup, scope: Scope, name: str, value: ast.expr) -> None:
        site = lookup.site(value, scope)
        if site:
            self.attributes.add_event(name, site.event)
        if isinstance(value, ast.Call) and lookup.method(value, scope) == "emitter":
            event = argument(value, 0, "event")
            made = lookup.site(event, scope) if event is not None else None
            if made:
                self.attributes.emitters.setdefault(name, []).append(made)

    def _triggering(self) -> frozenset[str]:
        """Return the names of the functions that may trigger an event, themselves or through others of these names."""
        calls: dict[str, set[str]] = {}
        found: set[str] = set()
        for function, lookup in self.home.items():
            called = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            names = {lookup.method(call, lookup.scope(function)) for call in called}
            calls.setdefault(function.name, set()).update(names)
            if any(self._triggers(call, function, lookup) for call in called):
                found.add(function.name)
        while more := {name for name, called_names in calls.items() if name not in found and called_names & found}:
            found |= more
        return frozenset(found)

    def _triggers(self, call: ast.Call, function: FunctionNode, lookup: Lookup) -> bool:
        """Return whether a call triggers an event now or later: a constant, a parameter, or one in an attribute."""
        scope = lookup.scope(function)
        match call.func:
            case ast.Attribute(attr="call", value=ast.Attribute(attr=name)) | ast.Attribute(attr=name):
                if name in self.attributes.emitters and name not in METHODS_OF_BUS:
                    return True
        if lookup.method(call, scope) not in ("trigger", "bounded", "emitter"):
            return False
        parameters = {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}
        for value in (*call.args[:2], *(keyword.value for keyword in call.keywords)):
            is_event = lookup.site(value, scope) is not None
            is_attribute = isinstance(value, ast.Attribute) and value.attr in self.attributes.events
            if is_event or is_attribute or (isinstance(value, ast.Name) and value.id in parameters):
                return True
        return False


def _own_nodes(function: FunctionNode) -> Iterator[ast.AST]:
    """Yield the nodes of a function, without those of functions within it."""
    nodes: list[ast.AST] = [*function.body]
    while nodes:
        node = nodes.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            nodes += ast.iter_child_nodes(node)


def _assigned(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    match node:
        case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)) if len(targets) == len(values):
            yield from zip(targets, values, strict=True)
        case ast.Assign(targets=targets, value=value):
            yield from ((target, value) for target in targets)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            yield target, value


def argument(call: ast.Call, at: int, name: str) -> ast.expr | None:
    """Return an argument of a call, by its position or its name; None where it is missing."""
    given = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    return call.args[at] if len(call.args) > at else given
