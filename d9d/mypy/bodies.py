"""The bodies of handlers, where a program subscribes them."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

from mypy.checker import TypeChecker
from mypy.checker_shared import CheckerScope
from mypy.errorcodes import ErrorCode
from mypy.nodes import (
    LDEF,
    CallExpr,
    Context,
    Decorator,
    Expression,
    FuncDef,
    LambdaExpr,
    MemberExpr,
    NameExpr,
    Node,
    RefExpr,
)
from mypy.plugin import MethodContext, MethodSigContext
from mypy.types import Instance, Type, get_proper_type

from d9d.mypy import names
from d9d.mypy.errors import Mistake
from d9d.mypy.events import EventName, name_event
from d9d.mypy.handlers import event_of, events_of
from d9d.mypy.index import Indexes
from d9d.mypy.tree import descend


@dataclasses.dataclass(frozen=True)
class HandlerBody:
    """A handler that this module both defines and subscribes.

    Attributes:
        api: The checker of the module.
        indexes: The indexes of all catalogues.
        function: The handler.
        decorators: What decorates it, from the top down.
        events: The events that it is subscribed to here; none, where they have no expression of their own.
        decorated: The decorated handler, where its decorator subscribes it.
    """

    api: TypeChecker
    indexes: Indexes
    function: FuncDef | LambdaExpr
    decorators: list[Expression]
    events: list[Expression]
    decorated: Decorator | None = None

    def subject(self, event: Expression | None) -> str:
        """Return how messages begin: with the handler and one of its events."""
        name = self.function.name if isinstance(self.function, FuncDef) else "<lambda>"
        return f'Handler "{name}" of {self.name_event(event)}'

    def name_event(self, event: Expression | None) -> EventName:
        """Return how the author of the code knows one of the events."""
        return name_event(event, self.api.modules, self.indexes)

    def is_asked(self, code: ErrorCode) -> bool:
        """Say whether a check is on: looking into bodies costs time."""
        return self.api.msg.errors.is_error_code_enabled(code)

    def fail(self, mistake: Mistake, where: Context) -> None:
        """Report a mistake once, to however many events the handler is subscribed."""
        errors = self.api.msg.errors
        reported = errors.error_info_map.get(errors.file, ())
        if not any((each.line, each.code) == (where.line, mistake.code) for each in reported):
            self.api.fail(mistake.message, where, code=mistake.code)

    @contextlib.contextmanager
    def typed(self) -> Iterator[None]:
        """Know the types of what is in the body, while a check looks at them.

        mypy may not have come to the body yet: then it infers the types now, tells nothing, and forgets them. What it
        cannot infer yet is looked at again in mypy's next pass.
        """
        if isinstance(self.function, LambdaExpr) or self._is_inferred(self.function):
            yield
            return
        with self.api.local_type_map:
            if not self._infer(self.function):
                self._look_again()
            yield

    def type_of(self, expression: Expression) -> Type | None:
        """Return the type of what is in the body; nothing where mypy has none, as in code that it skips."""
        return get_proper_type(self.api.lookup_type(expression)) if self.api.has_type(expression) else None

    def _is_inferred(self, function: FuncDef) -> bool:
        if any(node is function for node, _ in self.api.deferred_nodes):
            self._look_again()
            return True
        if self.decorated is None and self.api.pass_num > 0:
            return False  # what is known may be from a pass in which mypy did not know enough
        return any(self.api.has_type(node) for node in descend(function.body) if isinstance(node, Expression))

    def _infer(self, function: FuncDef) -> bool:
        """Have mypy infer the types of a body; say whether it knew all that it needs."""
        api, num_deferred = self.api, len(self.api.deferred_nodes)
        scope, recurses = api.scope, api.recurse_into_functions
        api.scope, api.recurse_into_functions = CheckerScope(api.tree), True
        try:
            with api.msg.filter_errors(), contextlib.ExitStack() as stack:
                if function.info:
                    stack.enter_context(api.scope.push_class(function.info))
                api.check_func_item(function, name=function.name)
        finally:
            api.scope, api.recurse_into_functions = scope, recurses
        is_complete = len(api.deferred_nodes) == num_deferred
        del api.deferred_nodes[num_deferred:]  # mypy comes to the function anyway
        return is_complete

    def _look_again(self) -> None:
        """Have mypy come back to where the handler is subscribed, once it knows more."""
        around = self.api.scope.top_level_function()
        if isinstance(around, FuncDef):
            self.api.defer_node(around, self.api.scope.enclosing_class(around))
        elif self.decorated is not None:
            self.api.defer_node(self.decorated, self.function.info or None)


def of_decorated(check: Callable[[HandlerBody], None]) -> Callable[[MethodSigContext, Indexes], None]:
    """Return a check of what `@subscribe(event)` decorates, made of one that looks at the body of a handler."""

    @functools.wraps(check)
    def check_decorated(ctx: MethodSigContext, indexes: Indexes) -> None:
        api, node = ctx.api, ctx.context
        # mypy asks once for each overload; the first is generic in the type of `self`.
        if not isinstance(api, TypeChecker) or not ctx.default_signature.variables or _is_muted(api):
            return
        if isinstance(node, Decorator):
            decorators = node.original_decorators
            check(HandlerBody(api, indexes, node.func, decorators, events_of(decorators), node))
        elif isinstance(node, CallExpr) and node.args:
            event = event_of(node.callee)
            _check(check, api, indexes, node.args[0], [] if event is None else [event])

    return check_decorated


def of_subscribed(check: Callable[[HandlerBody], None]) -> Callable[[MethodContext, Indexes], None]:
    """Return a check of the handler in `bus.subscribe(event, handler)`, made of one that looks at its body."""

    @functools.wraps(check)
    def check_subscribed(ctx: MethodContext, indexes: Indexes) -> None:
        if isinstance(ctx.api, TypeChecker) and all(ctx.args) and not _is_muted(ctx.api):
            _check(check, ctx.api, indexes, ctx.args[1][0], [ctx.args[0][0]])

    return check_subscribed


def _is_muted(api: TypeChecker) -> bool:
    """Say whether mypy would drop what is reported now, as where a body is looked into before its time."""
    return api.msg.errors.prefer_simple_messages()


def _check(
    check: Callable[[HandlerBody], None],
    api: TypeChecker,
    indexes: Indexes,
    handler: Expression,
    events: list[Expression],
) -> None:
    """Check the body of a handler that is named where it is subscribed, if this module defines it."""
    if isinstance(handler, LambdaExpr):
        check(HandlerBody(api, indexes, handler, [], events))
        return
    node = definition(handler, api)
    function = node.func if isinstance(node, Decorator) else node
    if isinstance(function, FuncDef):
        decorators = node.original_decorators if isinstance(node, Decorator) else []
        check(HandlerBody(api, indexes, function, decorators, events))


def definition(handler: Expression, api: TypeChecker) -> Node | None:
    """Return what defines a function or a method in the checked module; of a `functools.partial` the function in it.

    What another module defines may have come from the cache, without a body.

    Args:
        handler: What names it.
        api: The checker of the module.
    """
    if isinstance(handler, CallExpr) and isinstance(handler.callee, RefExpr) and handler.args:
        return definition(handler.args[0], api) if handler.callee.fullname == names.PARTIAL else None
    if not isinstance(handler, NameExpr | MemberExpr):
        return None
    module = api.tree.fullname
    if handler.kind == LDEF or handler.fullname == f"{module}.{handler.name}":
        return handler.node
    if not isinstance(handler, MemberExpr) or not api.has_type(handler.expr):
        return None
    owner = get_proper_type(api.lookup_type(handler.expr))
    node = owner.type.get_method(handler.name) if isinstance(owner, Instance) else None
    return node if node is not None and node.info.module_name == module else None
