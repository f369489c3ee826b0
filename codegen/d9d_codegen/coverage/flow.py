"""The ways through a function, and the triggers on them."""

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from d9d_codegen.coverage.lookup import Lookup
from d9d_codegen.coverage.order import Order
from d9d_codegen.coverage.scope import FunctionNode, Scope, Summary, is_generator
from d9d_codegen.coverage.site import Site, Sites
from d9d_codegen.coverage.state import ENTRY, State, after_call, merged


class Flow:
    """Goes through one function, statement by statement, and keeps what may have been triggered last.

    Branches are ways of their own; a loop is gone through once or not at all, since a phase may well repeat; what
    follows `return`, `raise`, `break` and `continue` is not reached. A call of a function in view counts as what that
    function triggers, if it runs then: a generator, and a coroutine that is not awaited, run some other time.

    Args:
        scope: The function.
        lookup: Says what the names in its file stand for.
        summary: Says what another function does.
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
        self._emitters: dict[str, Site] = {}  # by the local variables that hold them
        self._emitted: set[str] = set()
        self._jumps: list[list[State | None]] = []  # for each loop around, the states at its break and continue

    def run(self, body: Sequence[ast.stmt]) -> Summary:
        """Go through the body of the function."""
        self._block(body)
        # An emitter that is not called here, but named, is called by somebody else: who knows when.
        named = {
            node.id
            for statement in body
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
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
            case ast.Lambda(body=body):  # it is called some other time
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
        match self._lookup.method(call, self._scope):
            case _ if isinstance(call.func, ast.Name) and call.func.id in self._emitters:
                self._emitted.add(call.func.id)
                self._trigger(replace(self._emitters[call.func.id], span=self._lookup.file.span(call.func)))
            case "emitter":  # not in a variable of this function: who knows when
                self._sites.triggers += self._event(call)
            case "trigger":
                for site in self._event(call):
                    self._trigger(site)
            case "bounded":  # not in a `with` of this function: who knows when
                self._sites.triggers += [site for site in self._sides(call) if site]
            case "subscribe":
                self._sites.handlers += self._event(call)
            case _:
                self._inline(call, is_awaited=is_awaited)

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
        """Hold a trigger against all that may have come last before it."""
        module = self._order.module_of(site.event)
        lasts = (self._state or {}).get(module or "", ENTRY)
        if None in lasts and site not in self._firsts:
            self._firsts.append(site)
        before = [last for last in lasts if last and not self._order.allows(last.event, site.event)]
        if before:
            self._sites.disorders.setdefault(site, min(before, key=lambda last: (last.span, last.event)))


def _later(act: Callable[[Iterable[ast.stmt]], None], body: Iterable[ast.stmt]) -> Callable[[], None]:
    return lambda: act(body)
