"""The flow of triggers through Python source: where events are triggered and handled, and in which order.

Each function that no given code calls is followed on every path, with the functions that it calls, through the
automaton of the lifecycle. Before such a function, and during a call of something else, other given code may have run:
whatever that triggers may have happened then.
"""

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from d9d_codegen.coverage.functions import (
    METHODS_OF_BUS,
    Class,
    Events,
    FunctionNode,
    Functions,
    Lookup,
    Scope,
    argument,
    is_context_manager,
    is_generator,
    parameters_of,
)
from d9d_codegen.coverage.order import Disorder, ModuleOrder, Order, Path, Site, Value, chosen, loosened, merged
from d9d_codegen.coverage.source import PythonFile
from d9d_codegen.lifecycle import State

_MAX_PASSES: Final = 20  # of a loop
_MAX_DEPTH: Final = 40  # of calls within calls
_MAX_MEANINGS: Final = 8  # of a method of an unknown object; a name that more classes have says nothing
_NOWHERE: Final = State(frozenset())


@dataclass(slots=True)
class Sites:
    """Everything that the given files do with events.

    Attributes:
        triggers: Where events are triggered.
        handlers: Where handlers subscribe to events.
        disorders: Triggers that come where they must not.
        unpaired: The sides of `bounded` calls that are not a pair.
    """

    triggers: dict[Site, None] = field(default_factory=dict)
    handlers: dict[Site, None] = field(default_factory=dict)
    disorders: dict[Site, Disorder] = field(default_factory=dict)
    unpaired: dict[tuple[Site, Site], None] = field(default_factory=dict)


Bound = tuple[tuple[str, Events], ...]  # the parameters of a function that a call gives an event


class Call(NamedTuple):
    """A function that is called.

    Attributes:
        function: The function.
        owner: The class of `self`, or one above it; None if the function is no method.
        bound: The events that are given to its parameters.
    """

    function: FunctionNode
    owner: Class | None = None
    bound: Bound = ()


class Result(NamedTuple):
    """What a call of a function does to one path, and what is wrong with it."""

    exits: Value
    found: tuple[Disorder, ...]


@dataclass(slots=True)
class Reach:
    """What the code of a function, or of a file, leads to.

    Attributes:
        events: The events that it triggers itself.
        sure_events: Those of them that are named without doubt.
        calls: What it may call.
        sure_calls: What it calls without doubt.
    """

    events: set[str] = field(default_factory=set)
    sure_events: set[str] = field(default_factory=set)
    calls: set[Call] = field(default_factory=set)
    sure_calls: set[Call] = field(default_factory=set)


class Track:
    """What happens to a run where source is followed.

    This one notes which events and functions there are. `Judge` follows the lifecycle of a module.

    Attributes:
        found: The disorders so far.
        num_passes: How many passes of loops are being followed that are not the first ones.
        depth: How many calls are being followed.
    """

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self.found: list[Disorder] = []
        self.num_passes = 0
        self.depth = 0
        self.memo: dict[tuple[Call, Path, bool], Result | None] = {}

    def trigger(self, value: Value, site: Site) -> Value:
        """Return the paths after a trigger."""
        self.sites.triggers[site] = None
        return value

    def opaque(self, value: Value) -> Value:
        """Return the paths after something that may run other given code."""
        return value

    def is_once(self, value: Value) -> bool:
        """Return whether the last trigger of some path cannot come again, as far as that is followed."""
        return not value

    def concerns(self, event: str) -> bool:
        """Return whether an event is one that is followed."""
        return bool(event)


class Judge(Track):
    """Follows the lifecycle of one module.

    Args:
        order: The lifecycle.
        unplaced: Events that may be triggered anywhere: no place in the given source says when.
        elsewhere: Events that other given code triggers.
    """

    def __init__(self, order: ModuleOrder, unplaced: frozenset[str], elsewhere: frozenset[str]) -> None:
        super().__init__(Sites())
        self._order = order
        self._unplaced = unplaced
        self._elsewhere = elsewhere | unplaced

    def start(self) -> Value:
        """Return the paths at the beginning of a function that no given code calls."""
        return {Path(self._order.after_any(self._order.start, self._elsewhere)): None}

    def is_once(self, value: Value) -> bool:
        """Return whether the last trigger of some path cannot come again."""
        return any(last and self._order.later(path.state, last.event) is None for path, last in value.items())

    def concerns(self, event: str) -> bool:
        """Return whether an event is one of the module."""
        return event in self._order.ids

    def opaque(self, value: Value) -> Value:
        """Return the paths after anything that the rest of the given code may trigger."""
        return merged(
            {path._replace(state=self._order.after_any(path.state, self._elsewhere)): site}
            for path, site in value.items()
        )

    def trigger(self, value: Value, site: Site) -> Value:
        """Return the paths after a trigger; one that cannot come is a disorder."""
        return merged({self._after(path, site, last): site} for path, last in value.items())

    def _after(self, path: Path, site: Site, last: Site | None) -> Path:
        state = self._order.step(path.state, site.event)
        if state is not None:
            return path._replace(state=state)
        order = self._order
        is_twice = last is not None and last.event == site.event and last != site
        state = order.step(order.after_any(path.state, self._unplaced), site.event)
        if state is None and path.is_loose:
            state = order.later(path.state, site.event)
        if state is None or (is_twice and not path.is_loose):
            self.found.append(order.disorder(path.state, site, last))
            state = state or order.later(path.state, site.event) or order.anywhere(site.event)
        return path._replace(state=state)


class Reader:
    """Reads files.

    Args:
        files: The files.
        order: The declared order of events.
        sites: Takes what is found.

    Attributes:
        functions: The functions of the files.
        reaches: What each function leads to.
        unplaced: The events of emitters that are handed on, or called by what runs at another time.
        called_emitters: The attributes whose emitters are called.
    """

    def __init__(self, files: Iterable[PythonFile], order: Order, sites: Sites) -> None:
        self._order = order
        self._sites = sites
        self.functions = Functions(files, order)
        self.reaches: dict[Call, Reach] = {}
        self.unplaced: set[str] = set()
        self.called_emitters: set[str] = set()

    def read(self) -> None:
        """Record everything that the files do with events."""
        starts = [
            Start(lookup, lookup.module, lookup.file.tree.body, None, *self._events(reach))
            for lookup, reach in self._survey().items()
        ]
        starts += [self._start(root) for root in self._roots()]
        for module in self._order.modules:
            self._judge(module, [start for start in starts if start.events & module.ids.keys()])

    def _roots(self) -> list[FunctionNode]:
        """Return the functions that begin at any time: no given code calls them, or they are handed on."""
        called = {call.function for reach in self.reaches.values() for call in reach.sure_calls}
        escaping = self.functions.escaping()
        roots = [each for each in self.functions.home if each not in called or each.name in escaping]
        seen: set[FunctionNode] = set()
        for each in [*roots, *self.functions.home]:  # functions that call each other, and that nothing else calls
            if each not in seen and each not in roots:
                roots.append(each)
            seen |= {each, *(call.function for call in self._reached(self.reaches[self._call_of(each)], sure=True))}
        return roots

    def _call_of(self, function: FunctionNode) -> Call:
        return Call(function, self.functions.home[function].scope(function).owner)

    def _start(self, function: FunctionNode) -> "Start":
        lookup = self.functions.home[function]
        scope = lookup.scope(function)
        return Start(lookup, scope, function.body, scope.owner, *self._events(self.reaches[self._call_of(function)]))

    def _judge(self, module: ModuleOrder, starts: "list[Start]") -> None:
        """Follow each of some functions, between the others, through the lifecycle of a module."""
        triggered = {site.event for site in self._sites.triggers}
        own = module.ids.keys()
        unplaced = frozenset((own - triggered) | (own & self.unplaced))
        for start in starts:
            if not start.sure_events & own:  # events of another loop, by attributes of the same names
                continue
            others = [other.events for other in starts if other.scope is not start.scope]
            judge = Judge(module, unplaced, frozenset(own & set[str]().union(*others)))
            Flow(start.scope, start.lookup, self, judge, judge.start(), owner=start.owner).run(start.body)
            for disorder in judge.found:
                self._sites.disorders.setdefault(disorder.site, disorder)

    def _survey(self) -> "dict[Lookup, Reach]":
        """Find all triggers and handlers, and what each function leads to; return what the files themselves lead to."""
        track = Track(self._sites)
        start: Value = {Path(_NOWHERE): None}
        whole_files = {}
        for lookup in self.functions.lookups:
            whole_files[lookup] = Reach()
            Flow(lookup.module, lookup, self, track, start, reach=whole_files[lookup]).run(lookup.file.tree.body)
        waiting = [self._call_of(function) for function in self.functions.home]
        while waiting:
            for call in waiting:
                self.result(track, call, Path(_NOWHERE), None)
            known = {call for call, _, _ in track.memo}
            waiting = [call for reach in self.reaches.values() for call in reach.calls if call not in known]
        only_asked = self.functions.only_asked()
        for name, sites in self.functions.attributes.emitters.items():
            if name not in self.called_emitters | only_asked:
                self.unplaced |= {site.event for site in sites}
                self._sites.triggers |= dict.fromkeys(sites)
        return whole_files

    def _events(self, reach: Reach) -> tuple[set[str], set[str]]:
        """Return the events that code may lead to, and those that it leads to without doubt."""
        may, sure = (self._reached(reach, sure=sure) for sure in (False, True))
        return (
            reach.events.union(*(self.reaches[call].events for call in may)),
            reach.sure_events.union(*(self.reaches[call].sure_events for call in sure)),
        )

    def _reached(self, reach: Reach, *, sure: bool) -> set[Call]:
        """Return what code calls, directly or not."""
        seen: set[Call] = set()
        waiting = [*(reach.sure_calls if sure else reach.calls)]
        while waiting:
            call = waiting.pop()
            if call not in seen and call in self.reaches:
                seen.add(call)
                waiting += self.reaches[call].sure_calls if sure else self.reaches[call].calls
        return seen

    def result(self, track: Track, call: Call, path: Path, last: Site | None) -> Result | None:
        """Return what a call does to a path; None while that is being found out, or if calls are nested too deeply."""
        key = (call, path, track.num_passes > 0)
        if key not in track.memo:
            if track.depth == _MAX_DEPTH:
                return None
            track.memo[key] = None
            before, track.found = track.found, []
            track.depth += 1
            flow = self.flow(track, call, {path: last})
            flow.run(call.function.body)
            track.depth -= 1
            track.memo[key] = Result(flow.exits, tuple(track.found))
            track.found = before
        return track.memo[key]

    def flow(self, track: Track, call: Call, value: Value, around: tuple[FunctionNode, ...] = ()) -> "Flow":
        """Return the flow of a function, before it is followed."""
        lookup = self.functions.home[call.function]
        reach = self.reaches.setdefault(call, Reach())
        scope = lookup.scope(call.function)
        return Flow(
            scope,
            lookup,
            self,
            track,
            value,
            owner=call.owner or scope.owner,
            bound=dict(call.bound),
            reach=reach,
            around=around,
        )


class Start(NamedTuple):
    """Code that begins at any time.

    Attributes:
        lookup: Resolves the names in its file.
        scope: Its scope.
        body: Its statements.
        owner: The class that it is a method of.
        events: The events that it may lead to.
        sure_events: The events that it leads to without doubt.
    """

    lookup: Lookup
    scope: Scope
    body: Sequence[ast.stmt]
    owner: Class | None
    events: set[str]
    sure_events: set[str]


class Flow:
    """Follows one function, statement by statement.

    Each branch is followed on its own. A loop may run any number of times; if it does not run at all, nothing is missed
    that it would have triggered. Code after `return`, `raise`, `break` and `continue` is not reached. A call of a given
    function counts as what that function does, if it runs then: a generator, and a coroutine that is not awaited, run
    at another time. `emitter.handlers` as a condition holds.

    Args:
        scope: The function.
        lookup: Resolves the names in its file.
        reader: Knows all functions.
        track: What happens to the run.
        value: The paths that lead to the function.
        owner: The class of `self`, or one above it.
        bound: The events that its parameters stand for.
        reach: Takes what the function leads to.
        around: The generators that are being followed around this function.
    """

    def __init__(
        self,
        scope: Scope,
        lookup: Lookup,
        reader: Reader,
        track: Track,
        value: Value,
        *,
        owner: Class | None = None,
        bound: Mapping[str, Events] | None = None,
        reach: Reach | None = None,
        around: tuple[FunctionNode, ...] = (),
    ) -> None:
        self._around = around
        self._owner = owner
        self._scope = scope
        self._lookup = lookup
        self._reader = reader
        self._track = track
        self._bound = bound or {}
        self._reach = reach or Reach()
        self.value = value
        self.exits: Value = {}
        self.at_yield: Callable[[Value], Value] = track.opaque
        self._returns: list[Value] = []
        self._emitters: dict[str, list[Site]] = {}  # by the local variable that holds them
        self._emitted: set[str] = set()
        self._is_later = False
        self._jumps: list[tuple[list[Value], list[Value]]] = []  # of each loop, the paths at its break and continue

    def run(self, body: Sequence[ast.stmt]) -> None:
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
        for name, sites in self._emitters.items():
            if name in named - self._emitted:
                self._unplaced(sites)
        self.exits = merged([*self._returns, self.value])

    def _unplaced(self, sites: Iterable[Site]) -> None:
        """Note triggers that happen at another time."""
        for site in sites:
            self._track.sites.triggers[site] = None
            self._reader.unplaced.add(site.event)

    def _block(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement)

    def _statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.If():
                self._if(statement)
            case ast.For() | ast.AsyncFor() | ast.While():
                self._loop(statement)
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

    def _if(self, statement: ast.If) -> None:
        self._visit(statement.test)
        match statement.test:
            case ast.Attribute(attr="handlers") if not statement.orelse:
                self._block(statement.body)
            case _:
                self._branch([_later(self._block, statement.body), _later(self._block, statement.orelse)])

    def _leave(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Return():
                self._returns.append(self.value)
            case ast.Break() if self._jumps:
                self._jumps[-1][0].append(self.value)
            case ast.Continue() if self._jumps:
                self._jumps[-1][1].append(self.value)
        if isinstance(statement, ast.Return | ast.Raise | ast.Break | ast.Continue):
            self.value = {}

    def _branch(self, ways: Iterable[Callable[[], None]]) -> None:
        """Follow several ways.

        What a condition such as `step == 0` means is not known here. So from the second pass of a loop on, if one way
        is in order, the program does not choose one that is not. A way around what cannot come again misses nothing.
        """
        track, before = self._track, self.value
        ends: list[tuple[Value, list[Disorder]]] = []
        for way in ways:
            self.value, outer, track.found = before, track.found, []
            way()
            ends.append((self.value, track.found))
            track.found = outer
        is_choice = track.num_passes > 0 and any(not found for _, found in ends)
        kept = [(value, found) for value, found in ends if not (is_choice and found)]
        for _, found in kept:
            track.found += found
        is_once = bool(self._jumps) and any(track.is_once(value) for value, _ in kept if value != before)
        self.value = merged(loosened(value) if is_once and value == before else value for value, _ in kept)

    def _loop(self, statement: ast.For | ast.AsyncFor | ast.While) -> None:
        head = statement.test if isinstance(statement, ast.While) else statement.iter
        generator = self._generator(head)
        if generator is not None:
            self._loop_over(generator, statement)
            return
        self._visit(head)
        before = self.value
        breaks, ends = self._passes(lambda: self._block(statement.body))
        is_endless = isinstance(statement, ast.While) and isinstance(head, ast.Constant) and bool(head.value)
        self.value = {} if is_endless else merged([*ends, loosened(before)])
        self._block(statement.orelse)
        self.value = merged([self.value, *breaks])

    def _passes(self, body: Callable[[], None]) -> tuple[list[Value], list[Value]]:
        """Follow the passes of a loop until nothing new happens; return the paths at breaks and at ends of passes."""
        breaks: list[Value] = []
        ends: list[Value] = []
        seen: set[Path] = set()
        for number in range(_MAX_PASSES):
            entry = {path: site for path, site in self.value.items() if path not in seen}
            if not entry:
                break
            seen |= entry.keys()
            self.value = entry
            continues: list[Value] = []
            self._jumps.append((breaks, continues))
            self._track.num_passes += number > 0
            body()
            self._track.num_passes -= number > 0
            self._jumps.pop()
            self.value = merged([self.value, *continues])
            ends.append(self.value)
        return breaks, ends

    def _generator(self, head: ast.expr) -> Call | None:
        """Return the given generator that an expression calls, if it is one."""
        if not isinstance(head, ast.Call):
            return None
        called = self._lookup.called(head, self._scope, self._owner)
        if len(called) != 1 or not is_generator(called[0]) or called[0].name not in self._reader.functions.triggering:
            return None
        return self._call_to(called[0], head)

    def _loop_over(self, generator: Call, statement: ast.For | ast.AsyncFor | ast.While) -> None:
        """Follow a generator, with a pass of the loop wherever it yields."""
        breaks: list[Value] = []

        def one_pass(value: Value) -> Value:
            continues: list[Value] = []
            self._jumps.append((breaks, continues))
            self.value = value
            self._block(statement.body)
            self._jumps.pop()
            return merged([self.value, *continues])

        self._interleave(generator, one_pass)
        self._block(statement.orelse)
        self.value = merged([self.value, *breaks])

    def _interleave(self, call: Call, at_yield: Callable[[Value], Value]) -> None:
        """Follow a generator, and something else wherever it yields."""
        if call.function in self._around:
            self.value = self._track.opaque(self.value)
            return
        self._reach.calls.add(call)
        self._reach.sure_calls.add(call)
        flow = self._reader.flow(self._track, call, self.value, (*self._around, call.function))
        flow.at_yield = at_yield
        flow.run(call.function.body)
        self.value = flow.exits

    def _try(self, statement: "ast.Try | ast.TryStar") -> None:
        before = self.value
        self._block(statement.body)
        thrown = loosened(before, self.value)
        self._block(statement.orelse)
        ends = [self.value]
        for handler in statement.handlers:
            self.value = thrown
            self._block(handler.body)
            ends.append(self.value)
        is_left = not any(ends)
        self.value = (thrown if statement.finalbody else {}) if is_left else merged(ends)
        self._block(statement.finalbody)
        if is_left:
            self.value = {}

    def _with(self, items: Sequence[ast.withitem], body: Iterable[ast.stmt]) -> None:
        if not items:
            self._block(body)
            return
        call = items[0].context_expr

        def within() -> None:
            self._with(items[1:], body)

        if isinstance(call, ast.Call) and self._lookup.method(call, self._scope) == "bounded":
            self._visit_all([*call.args, *(keyword.value for keyword in call.keywords)])
            pre, post = self._sides(call)
            self._trigger(pre)
            within()
            self._trigger(post)
            return
        manager = self._manager(call)
        if manager is None:
            self._visit(call)
            within()
            if not (isinstance(call, ast.Call) and self._lookup.is_plain(call, self._scope)):
                self.value = self._track.opaque(self.value)
            return

        def inside(value: Value) -> Value:
            self.value = value
            within()
            return self.value

        self._interleave(manager, inside)

    def _manager(self, call: ast.expr) -> Call | None:
        generator = self._generator(call)
        return generator if generator is not None and is_context_manager(generator.function) else None

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        emitters = self._reader.functions.attributes.emitters
        match target, value:
            case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
                for pair in zip(targets, values, strict=True):
                    self._assign(*pair)
            case ast.Name(id=name), ast.Call() if self._lookup.method(value, self._scope) == "emitter":
                self._emitters[name] = self._events(value, 0, "event")
            case ast.Name(id=name), ast.Attribute(attr=attribute) if attribute in emitters:
                self._emitters[name] = emitters[attribute]
            case ast.Attribute(), ast.Call() if self._lookup.method(value, self._scope) == "emitter":
                pass  # found with the attributes
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
                before, was_later = self.value, self._is_later
                self.value, self._is_later = {}, True
                self._visit(body)
                self.value, self._is_later = before, was_later
            case ast.Await(value=ast.Call() as call):
                self._call(call, is_awaited=True)
            case ast.Call():
                self._call(node)
            case ast.YieldFrom(value=ast.Call() as call) if self._generator(call):
                self._visit_all([*call.args, *(keyword.value for keyword in call.keywords)])
                generator = self._generator(call)
                if generator is not None:
                    self._interleave(generator, self.at_yield)
            case ast.Yield() | ast.YieldFrom():
                self._visit_all(ast.iter_child_nodes(node))
                self.value = self.at_yield(self.value)
            case _:
                self._visit_all(ast.iter_child_nodes(node))

    def _call(self, call: ast.Call, *, is_awaited: bool = False) -> None:
        self._visit_all(ast.iter_child_nodes(call))
        emitted = self._emitted_by(call)
        match self._lookup.method(call, self._scope):
            case _ if emitted:
                self._trigger(emitted)
            case "emitter":  # not in a variable: it may be called at any time
                self._unplaced(self._events(call, 0, "event"))
            case "trigger" if sites := self._events(call, 0, "event"):
                self._trigger(sites)
            case "bounded":  # not in a `with`: it may be entered at any time
                self._unplaced(site for sites in self._sides(call) for site in sites)
            case "subscribe":
                self._track.sites.handlers |= dict.fromkeys(self._events(call, 0, "event"))
            case _:
                self._run(call, is_awaited=is_awaited)

    def _emitted_by(self, call: ast.Call) -> list[Site]:
        """Return the events of a call of an emitter: `emitter.call(context)`, or `emitter(context)`."""
        emitters = self._reader.functions.attributes.emitters
        match call.func:
            case ast.Name(id=name) | ast.Attribute(attr="call", value=ast.Name(id=name)) if name in self._emitters:
                self._emitted.add(name)
                sites = self._emitters[name]
            case ast.Attribute(attr="call", value=ast.Attribute(attr=name)) if name in emitters:
                self._reader.called_emitters.add(name)
                sites = emitters[name]
            case ast.Attribute(attr=name) if name in emitters and name not in METHODS_OF_BUS:
                self._reader.called_emitters.add(name)
                sites = emitters[name]
            case _:
                return []
        here = self._lookup.file.span(call.func)
        return [replace(site, file=self._lookup.file, span=here, function=self._scope.name) for site in sites]

    def _run(self, call: ast.Call, *, is_awaited: bool) -> None:
        """Follow what a call calls."""
        functions = self._reader.functions
        called = self._lookup.called(call, self._scope, self._owner)
        name = self._lookup.method(call, self._scope)
        is_known = bool(called)
        if not called and isinstance(call.func, ast.Attribute) and name in functions.triggering:
            methods = functions.hierarchy.named(name)
            called = methods if len(methods) <= _MAX_MEANINGS else []
        called = [
            each
            for each in called
            if each.name in functions.triggering
            and not is_generator(each)
            and isinstance(each, ast.AsyncFunctionDef) == is_awaited
        ]
        before = self.value
        if not (called and is_known) and not self._lookup.is_plain(call, self._scope):
            self.value = self._track.opaque(self.value)
        if not called:
            return
        targets = [self._call_to(function, call) for function in called]
        self._reach.calls.update(targets)
        self._reach.sure_calls.update(targets if is_known else ())
        ends = [self._inlined(target, before) for target in targets]
        if is_known and len(ends) == 1:
            [(self.value, found)] = ends
            self._track.found += found
            return
        # Only the program knows which of them it is, or for an unknown object whether it is any: one that is in order.
        in_order = [value for value, found in ends if value and not found]
        if not is_known:
            in_order.insert(0, self.value)
        elif not in_order:
            self._track.found += next((found for _, found in ends if found), [])
        values = in_order or [value for value, _ in ends]
        self.value = chosen(values[0], *values[1:])

    def _call_to(self, function: FunctionNode, call: ast.Call) -> Call:
        """Return what a call of a function hands on."""
        home = self._reader.functions.home[function]
        owner = self._owner if self._lookup.is_of_self(call) else home.scope(function).owner
        return Call(function, owner, self._bound_by(call, function))

    def _inlined(self, target: Call, before: Value) -> tuple[Value, list[Disorder]]:
        """Return the paths after a call of a function, and what is wrong in it."""
        ends: list[Value] = []
        found: list[Disorder] = []
        for path, last in before.items():
            result = self._reader.result(self._track, target, path, last)
            ends.append({path: last} if result is None else result.exits)
            found += result.found if result else ()
        return merged(ends), found

    def _bound_by(self, call: ast.Call, function: FunctionNode) -> Bound:
        """Return the parameters of a function that a call gives an event."""
        given = []
        for name, value in parameters_of(function, call):
            sites = self._named(value)
            if sites:
                given.append((name, tuple(site.event for site in sites)))
        return tuple(given)

    def _sides(self, call: ast.Call) -> tuple[list[Site], list[Site]]:
        pre, post = (self._events(call, at, name) for at, name in enumerate(("event_pre", "event_post")))
        order = self._reader.functions.order
        for one in pre:
            for other in post:
                is_known = {one.event, other.event} <= order.events.keys()
                if is_known and len(pre) == len(post) == 1 and order.other_side(one.event) != other.event:
                    self._track.sites.unpaired[one, other] = None
        return pre, post

    def _events(self, call: ast.Call, at: int, name: str) -> list[Site]:
        """Return the events that an argument of a call stands for."""
        node = argument(call, at, name)
        return [] if node is None else self._named(node)

    def _named(self, node: ast.expr) -> list[Site]:
        """Return the events that an expression stands for: a constant, a parameter, or an attribute."""
        if isinstance(node, ast.Name) and node.id in self._bound:
            return [self._lookup.site_of(event, node, self._scope) for event in self._bound[node.id]]
        site = self._lookup.site(node, self._scope)
        if site:
            return [site]
        attributes = self._reader.functions.attributes.events
        if isinstance(node, ast.Attribute) and node.attr in attributes:
            return [self._lookup.site_of(event, node, self._scope) for event in attributes[node.attr]]
        return []

    def _trigger(self, sites: list[Site]) -> None:
        for site in sites:
            self._track.sites.triggers[site] = None
            self._reach.events.add(site.event)
            if len(sites) == 1:
                self._reach.sure_events.add(site.event)
        if self._is_later:
            self._unplaced(sites)
        concerned = [site for site in sites if self._track.concerns(site.event)]
        if concerned and self.value:
            ends = [self._track.trigger(self.value, site) for site in concerned]
            self.value = ends[0] if len(ends) == 1 else chosen(ends[0], *ends[1:])


def _later(act: Callable[[Iterable[ast.stmt]], None], body: Iterable[ast.stmt]) -> Callable[[], None]:
    return lambda: act(body)
