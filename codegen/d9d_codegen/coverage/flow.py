"""The flow of triggers through Python source: where events are triggered and handled, and in which order."""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from d9d_codegen.catalogue import Catalogue, EventSpec, Module
from d9d_codegen.coverage.source import Bindings, Names, PythonFile, bind, blocks
from d9d_codegen.diagnostic import Span
from d9d_codegen.lifecycle import Lifecycle, other_sides


@dataclass(frozen=True, slots=True)
class Site:
    """A place where an event is triggered or subscribed to.

    Attributes:
        event: The full path of the event's constant.
        file: The file.
        span: The position of the event's name.
        function: The function that contains it.
    """

    event: str
    file: PythonFile = field(compare=False)
    span: Span
    function: str

    @property
    def name(self) -> str:
        """The event's constant."""
        return self.event.rpartition(".")[2]

    def __str__(self) -> str:
        """Return the position as editors read it."""
        return f"{self.file.source.path}:{self.span.line}:{self.span.column}"


@dataclass(slots=True)
class Sites:
    """Everything that the given files do with events.

    Attributes:
        triggers: Where events are triggered.
        handlers: Where handlers subscribe to events.
        disorders: Triggers that come after one that they must not follow.
        unpaired: The sides of `bounded` calls that are not a pair.
    """

    triggers: list[Site] = field(default_factory=list)
    handlers: list[Site] = field(default_factory=list)
    disorders: dict[Site, Site] = field(default_factory=dict)
    unpaired: list[tuple[Site, Site]] = field(default_factory=list)


Lasts = frozenset[Site | None]  # None stands for anything before the call of the function
State = dict[str, Lasts]  # by the module of the events
ENTRY: Final[Lasts] = frozenset([None])


def merged(states: Iterable[State | None]) -> State | None:
    """Return the state where several branches meet; None where none of them gets there."""
    live = [state for state in states if state is not None]
    if not live:
        return None
    modules = dict.fromkeys(module for state in live for module in state)
    return {module: frozenset().union(*(state.get(module, ENTRY) for state in live)) for module in modules}


def after_call(state: State, exits: State) -> State:
    """Return the state after a call of a function.

    Args:
        state: The state before the call.
        exits: The state of the function at its end.
    """
    changed = {
        module: (lasts - ENTRY) | (state.get(module, ENTRY) if None in lasts else frozenset())
        for module, lasts in exits.items()
    }
    return {**state, **changed}


FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class Scope:
    """A function, or a module, and the names in its scope.

    Attributes:
        name: Its name, with those of the classes and functions around it.
        bindings: What its names stand for.
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
    """Return whether a call of a function does not run it yet; functions within it are ignored."""
    nodes: list[ast.AST] = [*function.body]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            nodes += ast.iter_child_nodes(node)
    return False


class Order:
    """The declared order of events, by the full paths of their constants.

    Args:
        catalogue: A valid catalogue.

    Attributes:
        events: Every event by its full path, aliases included, in the order of the catalogue.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.events: dict[str, EventSpec] = {}
        self._position: dict[str, tuple[str, int]] = {}
        self._followers: dict[str, frozenset[str]] = {}
        self._other_side: dict[str, str] = {}
        self._stands_for: dict[str, str] = {}
        for module in catalogue.modules:
            self._enter(module, f"{catalogue.package}.{module.name}")

    def _enter(self, module: Module, prefix: str) -> None:
        paths = {str(event.id): f"{prefix}.{event.name}" for event in module.own_events}
        lifecycle = Lifecycle.of(module)
        for number, event in enumerate(module.events):
            path = f"{prefix}.{event.name}"
            self.events[path] = event
            if event.status.replaced_by:
                self._stands_for[path] = f"{prefix}.{event.status.replaced_by}"
            elif event.id not in lifecycle.anytime:
                self._position[path] = (prefix, number)
                self._followers[path] = frozenset(paths[other] for other in lifecycle.followers.get(event.id, ()))
        for event_id, other in other_sides(module).items():
            self._other_side[paths[event_id]] = f"{prefix}.{other.name}"

    def canonical(self, path: str) -> str:
        """Return the event that a deprecated one is an alias of; any other event unchanged."""
        return self._stands_for.get(path, path)

    def is_alias(self, path: str) -> bool:
        """Return whether an event is only an old name of another."""
        return path in self._stands_for

    def module_of(self, path: str) -> str | None:
        """Return the module in whose order an event has a position; None where it may fall anywhere."""
        position = self._position.get(path)
        return position[0] if position else None

    def allows(self, before: str, after: str) -> bool:
        """Return whether an event of a module may come after another, directly or later."""
        return self._position[after] > self._position[before] or after in self._followers[before]

    def other_side(self, path: str) -> str | None:
        """Return the other side of a pair, or None for an event that is not a side of one."""
        return self._other_side.get(path)


class Lookup:
    """The functions of one file, and what the names in them stand for.

    Args:
        file: The file.
        names: What the names of all files stand for.
        order: The declared order of events.
        exported: The functions of all files, by full path.

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
        """Yield all functions of the file, nested ones included."""
        yield from self._scopes

    def scope(self, function: FunctionNode) -> Scope:
        """Return the scope of a function."""
        return self._scopes[function]

    def exports(self) -> Iterator[tuple[str, FunctionNode]]:
        """Yield the functions that other files can import, by full path."""
        for name, function in self._functions.items():
            yield f"{self.file.module}.{name}", function

    def called(self, node: ast.Call, scope: Scope) -> FunctionNode | None:
        """Return the given function that a call calls, if it is one: by its name, or a method of `self`."""
        match node.func:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                return scope.methods.get(name)
            case ast.Name(id=name) if scope.bindings.get(name) == f"{self.file.module}.{name}":
                return self._functions.get(name)
            case _:
                return self._exported.get(self._names.resolve(node.func, scope.bindings, self.file) or "")

    def method(self, call: ast.Call, scope: Scope) -> str:
        """Return the last part of the called name, by its original name where it was imported under another."""
        match call.func:
            case ast.Name(id=name):
                return (scope.bindings.get(name) or name).rpartition(".")[2]
            case ast.Attribute(attr=name):
                return name
            case _:
                return ""

    def argument(self, call: ast.Call, at: int, name: str, scope: Scope) -> Site | None:
        """Return the site where an argument of a call names an event.

        Args:
            call: The call.
            at: The position of the argument.
            name: Its name.
            scope: The scope of the call.
        """
        given = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
        node = call.args[at] if len(call.args) > at else given
        return self.site(node, scope) if node is not None else None

    def site(self, node: ast.expr, scope: Scope) -> Site | None:
        """Return the site where an event is named, or None where the expression names none."""
        path = self._names.resolve(node, scope.bindings, self.file)
        if path is None or not (path in self._order.events or path.rpartition(".")[2].startswith("EVENT_")):
            return None
        return Site(self._order.canonical(path), self.file, self.file.span(node), scope.name)

    def _discover(self, body: Iterable[ast.stmt], prefix: str, bindings: Bindings) -> dict[str, FunctionNode]:
        """Add the functions in a block, and those within them; return those of the block by name."""
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
    """Return the names in scope in a function: its parameters shadow outer names, and stand for nothing known."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    parameters += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    inner: Bindings = {**outer, **dict.fromkeys((parameter.arg for parameter in parameters), None)}
    bind(file, function.body, inner)
    return inner


class Flow:
    """Follows one function, statement by statement, and records which events may have been triggered last.

    Each branch is followed on its own. A loop runs once or not at all, since a phase may repeat. Code after `return`,
    `raise`, `break` and `continue` is not reached. A call of a given function counts as what that function triggers, if
    it runs then: a generator, and a coroutine that is not awaited, run at another time.

    Args:
        scope: The function.
        lookup: Resolves the names in its file.
        summary: Returns what another function does.
        order: The declared order of events.
        sites: Takes what is found.
    """

    def __init__(
        self,
        scope: Scope,
        lookup: Lookup,
        summary: Callable[[FunctionNode], Summary | None],
        order: Order,
        sites: Sites,
    ) -> None:
        self._scope = scope
        self._lookup = lookup
        self._summary = summary
        self._order = order
        self._sites = sites
        self._state: State | None = {}
        self._firsts: list[Site] = []
        self._returns: list[State | None] = []
        self._emitters: dict[str, Site] = {}  # by the local variable that holds them
        self._emitted: set[str] = set()
        self._jumps: list[list[State | None]] = []  # for each enclosing loop, the states at its break and continue

    def run(self, body: Sequence[ast.stmt]) -> Summary:
        """Follow the body of the function."""
        self._block(body)
        # An emitter that is mentioned but not called here may be called elsewhere, at any time.
        nodes = [node for statement in body for node in ast.walk(statement)]
        asked = {id(node.value) for node in nodes if isinstance(node, ast.Attribute) and node.attr == "handlers"}
        named = {
            node.id
            for node in nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in asked
        }
        self._sites.triggers += [site for name, site in self._emitters.items() if name in named - self._emitted]
        return Summary(self._firsts, merged([*self._returns, self._state]) or {})

    def _block(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement)

    def _statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.If(test=test, body=body, orelse=orelse):
                self._visit(test)
                self._branch([lambda: self._block(body), lambda: self._block(orelse)])
            case ast.For(iter=head) | ast.AsyncFor(iter=head) | ast.While(test=head):
                self._visit(head)
                self._loop(statement.body, statement.orelse)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                self._with(items, body)
            case ast.Try() | ast.TryStar():
                self._try(statement)
            case ast.Match(subject=subject, cases=cases):
                self._visit(subject)
                self._branch([*(_later(self._block, case.body) for case in cases), lambda: None])
            case ast.Assign(targets=[target], value=value):
                self._assign(target, value)
            case ast.ClassDef(body=body):
                self._block(body)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for expression in (*statement.decorator_list, *statement.args.defaults):
                    self._visit(expression)
            case _:
                self._visit(statement)
                self._leave(statement)

    def _leave(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Return):
            self._returns.append(self._state)
        elif isinstance(statement, ast.Break | ast.Continue) and self._jumps:
            self._jumps[-1].append(self._state)
        if isinstance(statement, ast.Return | ast.Raise | ast.Break | ast.Continue):
            self._state = None

    def _branch(self, ways: Iterable[Callable[[], None]]) -> None:
        before, ends = self._state, []
        for way in ways:
            self._state = before
            way()
            ends.append(self._state)
        self._state = merged(ends)

    def _loop(self, body: Iterable[ast.stmt], orelse: Iterable[ast.stmt]) -> None:
        self._jumps.append([self._state])
        self._block(body)
        self._state = merged([*self._jumps.pop(), self._state])
        self._block(orelse)

    def _try(self, statement: "ast.Try | ast.TryStar") -> None:
        before = self._state
        self._block(statement.body)
        thrown = merged([before, self._state])
        self._block(statement.orelse)
        ends = [self._state]
        for handler in statement.handlers:
            self._state = thrown
            self._block(handler.body)
            ends.append(self._state)
        self._state = merged(ends) or (thrown if statement.finalbody else None)
        self._block(statement.finalbody)
        if not any(end is not None for end in ends):
            self._state = None

    def _with(self, items: list[ast.withitem], body: Iterable[ast.stmt]) -> None:
        posts: list[Site] = []
        for item in items:
            call = item.context_expr
            if isinstance(call, ast.Call) and self._lookup.method(call, self._scope) == "bounded":
                self._visit_all([*call.args, *(keyword.value for keyword in call.keywords)])
                pre, post = self._sides(call)
                if pre:
                    self._trigger(pre)
                if post:
                    posts.append(post)
            else:
                self._visit(call)
        self._block(body)
        for post in reversed(posts):
            self._trigger(post)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        match target, value:
            case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
                for pair in zip(targets, values, strict=True):
                    self._assign(*pair)
            case ast.Name(id=name), ast.Call() if self._lookup.method(value, self._scope) == "emitter":
                for site in self._event(value):
                    self._emitters[name] = site
            case _:
                self._visit(value)

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self._visit(node)

    def _visit(self, node: ast.AST) -> None:
        match node:
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self._visit(test)
                self._branch([lambda: self._visit(body), lambda: self._visit(orelse)])
            case ast.Lambda(body=body):  # it runs at another time
                before = self._state
                self._state = None
                self._visit(body)
                self._state = before
            case ast.Await(value=ast.Call() as call):
                self._call(call, is_awaited=True)
            case ast.Call():
                self._call(node)
            case _:
                self._visit_all(ast.iter_child_nodes(node))

    def _call(self, call: ast.Call, *, is_awaited: bool = False) -> None:
        self._visit_all(ast.iter_child_nodes(call))
        emitter = self._emitter(call)
        match self._lookup.method(call, self._scope):
            case _ if emitter:
                self._emitted.add(emitter)
                self._trigger(replace(self._emitters[emitter], span=self._lookup.file.span(call.func)))
            case "emitter":  # not in a variable of this function: it may be called at any time
                self._sites.triggers += self._event(call)
            case "trigger":
                for site in self._event(call):
                    self._trigger(site)
            case "bounded":  # not in a `with` of this function: it may be entered at any time
                self._sites.triggers += [site for site in self._sides(call) if site]
            case "subscribe":
                self._sites.handlers += self._event(call)
            case _:
                self._inline(call, is_awaited=is_awaited)

    def _emitter(self, call: ast.Call) -> str | None:
        """Return the local variable whose emitter is called: `emitter.call(context)`, or `emitter(context)`."""
        match call.func:
            case ast.Name(id=name) | ast.Attribute(attr="call", value=ast.Name(id=name)) if name in self._emitters:
                return name
            case _:
                return None

    def _inline(self, call: ast.Call, *, is_awaited: bool) -> None:
        function = self._lookup.called(call, self._scope)
        if function is None or is_generator(function) or isinstance(function, ast.AsyncFunctionDef) != is_awaited:
            return
        summary = self._summary(function)
        if summary is None or self._state is None:
            return
        for first in summary.firsts:
            self._compare(first)
        self._state = after_call(self._state, summary.exits)

    def _sides(self, call: ast.Call) -> tuple[Site | None, Site | None]:
        pre, post = (
            self._lookup.argument(call, at, name, self._scope) for at, name in enumerate(("event_pre", "event_post"))
        )
        is_known = pre and post and {pre.event, post.event} <= self._order.events.keys()
        if is_known and pre and post and self._order.other_side(pre.event) != post.event:
            self._sites.unpaired.append((pre, post))
        return pre, post

    def _event(self, call: ast.Call) -> list[Site]:
        site = self._lookup.argument(call, 0, "event", self._scope)
        return [site] if site else []

    def _trigger(self, site: Site) -> None:
        self._sites.triggers.append(site)
        module = self._order.module_of(site.event)
        if module is None or self._state is None:
            return
        self._compare(site)
        self._state = {**self._state, module: frozenset([site])}

    def _compare(self, site: Site) -> None:
        """Compare a trigger with everything that may have come last before it."""
        module = self._order.module_of(site.event)
        lasts = (self._state or {}).get(module or "", ENTRY)
        if None in lasts and site not in self._firsts:
            self._firsts.append(site)
        before = [last for last in lasts if last and not self._order.allows(last.event, site.event)]
        if before:
            self._sites.disorders.setdefault(site, min(before, key=lambda last: (last.span, last.event)))


def _later(act: Callable[[Iterable[ast.stmt]], None], body: Iterable[ast.stmt]) -> Callable[[], None]:
    return lambda: act(body)


class Reader:
    """Reads files.

    Args:
        files: The files.
        order: The declared order of events.
        sites: Takes what is found.
    """

    def __init__(self, files: Iterable[PythonFile], order: Order, sites: Sites) -> None:
        self._order = order
        self._sites = sites
        self._summaries: dict[FunctionNode, Summary | None] = {}
        names = Names(files, order.events)
        exported: dict[str, FunctionNode] = {}
        self._lookups = [Lookup(file, names, order, exported) for file in files]
        self._home = {function: lookup for lookup in self._lookups for function in lookup.functions()}
        for lookup in self._lookups:
            for path, function in lookup.exports():
                exported.setdefault(path, function)

    def read(self) -> None:
        """Record everything that the files do with events."""
        for lookup in self._lookups:
            self._flow(lookup, lookup.module).run(lookup.file.tree.body)
        for function in self._home:
            self._summary(function)

    def _summary(self, function: FunctionNode) -> Summary | None:
        """Return what a function does; None while that is being computed, as in a recursion."""
        if function not in self._summaries:
            self._summaries[function] = None
            lookup = self._home[function]
            self._summaries[function] = self._flow(lookup, lookup.scope(function)).run(function.body)
        return self._summaries[function]

    def _flow(self, lookup: Lookup, scope: Scope) -> Flow:
        return Flow(scope, lookup, self._summary, self._order, self._sites)
