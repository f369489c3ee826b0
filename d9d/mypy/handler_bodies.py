"""The bodies of handlers that the checked module both defines and subscribes."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Final

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
    IntExpr,
    LambdaExpr,
    MemberExpr,
    NameExpr,
    Node,
    RefExpr,
)
from mypy.plugin import MethodContext, MethodSigContext
from mypy.types import Instance, Type, get_proper_type

from d9d.mypy.catalogues import Indexes
from d9d.mypy.class_facts import argument, event_of
from d9d.mypy.events import EventName, name_event
from d9d.mypy.syntax import descend

_PARTIAL: Final = "functools.partial"
EVERY: Final = "every"
_ONCE: Final = "once"
_MAIN_PROCESS_ONLY: Final = "main_process_only"


@dataclasses.dataclass(frozen=True)
class Listening:
    """One `@subscribe(event, ...)` or `bus.subscribe(event, handler, ...)`.

    Attributes:
        event: What is passed as the event.
        call: The call.
    """

    event: Expression
    call: CallExpr

    @property
    def hears_every_trigger(self) -> bool:
        """Whether the handler is called whenever the event is triggered, in the processes that call it."""
        every = argument(self.call, EVERY)
        is_periodic = every is not None and not is_none(every) and not (isinstance(every, IntExpr) and every.value == 1)
        return not is_periodic and not _may_be_true(argument(self.call, _ONCE))

    @property
    def is_in_main_process_only(self) -> bool:
        """Whether only the main process certainly calls the handler."""
        value = argument(self.call, _MAIN_PROCESS_ONLY)
        return isinstance(value, NameExpr) and value.fullname == "builtins.True"


@dataclasses.dataclass(frozen=True)
class HandlerBody:
    """A handler, with its body.

    Attributes:
        api: The checker of the module.
        indexes: The indexes of all catalogues.
        function: The handler.
        decorators: Its decorators, from the top down.
        listenings: Where it is subscribed here, with the events; empty if no expression names them.
        decorated: The decorated handler, if its decorator subscribes it.
    """

    api: TypeChecker
    indexes: Indexes
    function: FuncDef | LambdaExpr
    decorators: list[Expression]
    listenings: list[Listening]
    decorated: Decorator | None = None

    def subject(self, event: Expression | None) -> str:
        """Return how messages begin: with the handler and one of its events."""
        name = self.function.name if isinstance(self.function, FuncDef) else "<lambda>"
        return f'Handler "{name}" of {self.name_event(event)}'

    def name_event(self, event: Expression | None) -> EventName:
        """Return one of the events as the author of the code knows it."""
        return name_event(event, self.api.modules, self.indexes)

    def fail(self, message: str, where: Context, code: ErrorCode) -> None:
        """Report an error once, however many events the handler is subscribed to."""
        errors = self.api.msg.errors
        reported = errors.error_info_map.get(errors.file, ())
        if not any((each.line, each.code) == (where.line, code) for each in reported):
            self.api.fail(message, where, code=code)

    @contextlib.contextmanager
    def typed(self) -> Iterator[None]:
        """Make the types in the body known in a `with` block.

        mypy may not have reached the body yet. Then it infers the types now, reports nothing, and forgets them. What it
        cannot infer yet is looked at again in its next pass.
        """
        if isinstance(self.function, LambdaExpr) or self._is_inferred(self.function):
            yield
            return
        with self.api.local_type_map:
            if not self._infer(self.function):
                self._look_again()
            yield

    def type_of(self, expression: Expression) -> Type | None:
        """Return the type of an expression in the body; `None` where mypy has none, as in code that it skips."""
        return get_proper_type(self.api.lookup_type(expression)) if self.api.has_type(expression) else None

    def _is_inferred(self, function: FuncDef) -> bool:
        if any(node is function for node, _ in self.api.deferred_nodes):
            self._look_again()
            return True
        if self.decorated is None and self.api.pass_num > 0:
            return False  # what is known may be from a pass in which mypy did not know enough
        return any(self.api.has_type(node) for node in descend(function.body) if isinstance(node, Expression))

    def _infer(self, function: FuncDef) -> bool:
        """Have mypy infer the types of a body; say whether it knew everything that it needs."""
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
        del api.deferred_nodes[num_deferred:]  # mypy reaches the function anyway
        return is_complete

    def _look_again(self) -> None:
        """Have mypy return to where the handler is subscribed, once it knows more."""
        around = self.api.scope.top_level_function()
        if isinstance(around, FuncDef):
            self.api.defer_node(around, self.api.scope.enclosing_class(around))
        elif self.decorated is not None:
            self.api.defer_node(self.decorated, self.function.info or None)


def decorated_body(ctx: MethodSigContext, indexes: Indexes) -> HandlerBody | None:
    """Return the body of what `@subscribe(event)` decorates.

    Args:
        ctx: The call of the decorator.
        indexes: The indexes of all catalogues.

    Returns:
        The body; `None` if another module defines it, or if mypy would drop what is reported now.
    """
    api, node = ctx.api, ctx.context
    # mypy asks once for each overload; the first is generic in the type of `self`.
    if not isinstance(api, TypeChecker) or not ctx.default_signature.variables or _is_muted(api):
        return None
    if isinstance(node, Decorator):
        decorators = node.original_decorators
        return HandlerBody(api, indexes, node.func, decorators, [*_listenings(*decorators)], node)
    if isinstance(node, CallExpr) and node.args:
        return _body(node.args[0], [*_listenings(node.callee)], api, indexes)
    return None


def subscribed_body(ctx: MethodContext, indexes: Indexes) -> HandlerBody | None:
    """Return the body of the handler in `bus.subscribe(event, handler)`.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.

    Returns:
        The body; `None` if another module defines it, or if mypy would drop what is reported now.
    """
    call = ctx.context
    if isinstance(ctx.api, TypeChecker) and all(ctx.args[:2]) and isinstance(call, CallExpr) and not _is_muted(ctx.api):
        return _body(ctx.args[1][0], [Listening(ctx.args[0][0], call)], ctx.api, indexes)
    return None


def definition(handler: Expression, api: TypeChecker) -> Node | None:
    """Return what defines a function or a method in the checked module; for a `functools.partial`, its function.

    What another module defines may have come from the cache, without a body.

    Args:
        handler: The expression that names it.
        api: The checker of the module.
    """
    if isinstance(handler, CallExpr) and isinstance(handler.callee, RefExpr) and handler.args:
        return definition(handler.args[0], api) if handler.callee.fullname == _PARTIAL else None
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


def _listenings(*applied: Expression) -> Iterator[Listening]:
    """Yield each `subscribe(event, ...)` among some expressions."""
    for each in applied:
        event = event_of(each)
        if event is not None and isinstance(each, CallExpr):
            yield Listening(event, each)


def _body(handler: Expression, listenings: list[Listening], api: TypeChecker, indexes: Indexes) -> HandlerBody | None:
    """Return the body of a handler that is named where it is subscribed, if this module defines it."""
    if isinstance(handler, LambdaExpr):
        return HandlerBody(api, indexes, handler, [], listenings)
    node = definition(handler, api)
    function = node.func if isinstance(node, Decorator) else node
    decorators = node.original_decorators if isinstance(node, Decorator) else []
    return HandlerBody(api, indexes, function, decorators, listenings) if isinstance(function, FuncDef) else None


def _is_muted(api: TypeChecker) -> bool:
    """Return whether mypy would drop what is reported now, as while a body is looked into early."""
    return api.msg.errors.prefer_simple_messages()


def is_none(value: Expression) -> bool:
    """Return whether an expression is the literal `None`."""
    return isinstance(value, NameExpr) and value.fullname == "builtins.None"


def _may_be_true(value: Expression | None) -> bool:
    return value is not None and not (isinstance(value, NameExpr) and value.fullname == "builtins.False")
