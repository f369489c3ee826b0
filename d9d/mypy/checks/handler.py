"""Checks that a handler accepts the context of the event that it listens to."""

from mypy.checker import TypeChecker
from mypy.nodes import CallExpr, ClassDef, Decorator, Expression, FuncDef, LambdaExpr, RefExpr
from mypy.plugin import MethodSigContext
from mypy.types import CallableType, Instance, Type, get_proper_type

from d9d.mypy import callables, names
from d9d.mypy.events import name_event
from d9d.mypy.index import Indexes
from d9d.mypy.wiring import Wiring


def check_decorated(ctx: MethodSigContext, indexes: Indexes) -> CallableType:
    """Check what `@subscribe(event)` decorates.

    mypy asks once for each overload. Both answers are the same; the first, for the form that is generic in the type
    of `self`, reports.

    Args:
        ctx: The call of the decorator.
        indexes: The indexes of all catalogues.

    Returns:
        A signature that returns the handler's own type, with its keywords and defaults.
    """
    api, subscription = ctx.api, ctx.type
    if not (isinstance(api, TypeChecker) and isinstance(subscription, Instance) and ctx.args and ctx.args[0]):
        return ctx.default_signature
    argument, context = ctx.args[0][0], subscription.args[0]
    kind = _type_of(argument, context, api)
    signatures = _forms(callables.signatures(kind), ctx)
    if not signatures:
        return ctx.default_signature
    applied = _application(ctx)
    wiring = Wiring(
        api=api,
        indexes=indexes,
        handler=_decorated(ctx) or argument,
        event=name_event(_event_of(applied), api.modules, indexes),
        context=context,
    )
    mistake = wiring.find_mistake(signatures)
    if mistake is not None and ctx.default_signature.variables:
        api.fail(mistake.message, applied, code=mistake.code)
    accepting = _accept(ctx, 0, kind if mistake is None and isinstance(argument, LambdaExpr) else None)
    return accepting.copy_modified(ret_type=kind, variables=[])


def check_subscribed(ctx: MethodSigContext, indexes: Indexes) -> CallableType:
    """Check the handler in `bus.subscribe(event, handler)`.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.

    Returns:
        The declared signature; if an error was reported, one that takes any handler.
    """
    api = ctx.api
    if not (isinstance(api, TypeChecker) and all(ctx.args)):
        return ctx.default_signature
    event, argument = ctx.args[0][0], ctx.args[1][0]
    event_type = get_proper_type(api.get_expression_type(event))
    if not (isinstance(event_type, Instance) and event_type.type.fullname == names.EVENT):
        return ctx.default_signature
    context = event_type.args[0]
    kind = _type_of(argument, context, api)
    wiring = Wiring(
        api=api,
        indexes=indexes,
        handler=argument,
        event=name_event(event, api.modules, indexes),
        context=context,
    )
    mistake = wiring.find_mistake(callables.signatures(kind))
    if mistake is not None:
        api.fail(mistake.message, ctx.context, code=mistake.code)
        return _accept(ctx, 1, None)
    return _accept(ctx, 1, kind) if isinstance(argument, LambdaExpr) else ctx.default_signature


def _type_of(handler: Expression, context: Type, api: TypeChecker) -> Type:
    """Return the type of a handler; of a lambda, what mypy shall infer it from."""
    if isinstance(handler, LambdaExpr):
        return callables.shape_of_lambda(handler, context, api.named_generic_type("builtins.function", []))
    return api.get_expression_type(handler)


def _forms(signatures: list[CallableType], ctx: MethodSigContext) -> list[CallableType]:
    """Return how the bus will call what is decorated; nothing if mypy reports it already."""
    if not isinstance(ctx.context, Decorator):
        # A class may keep the result of `subscribe(event)(function)` as its method: either form is right.
        return signatures + [callables.bind(signature) for signature in signatures]
    method = ctx.context.func
    if not method.info or method.is_static:
        return signatures
    return [callables.bind(signature) for signature in signatures if callables.accepts_self(signature, method)]


def _accept(ctx: MethodSigContext, position: int, kind: Type | None) -> CallableType:
    """Return the declared signature with another type for one parameter: anything, where none is given."""
    arg_types = list(ctx.default_signature.arg_types)
    arg_types[position] = kind or ctx.api.named_generic_type("builtins.object", [])
    return ctx.default_signature.copy_modified(arg_types=arg_types)


def _decorated(ctx: MethodSigContext) -> FuncDef | ClassDef | None:
    """Return what is decorated, unless `subscribe(event)(handler)` is written as a call."""
    if isinstance(ctx.context, Decorator):
        return ctx.context.func
    return ctx.context if isinstance(ctx.context, ClassDef) else None


def _application(ctx: MethodSigContext) -> Expression:
    """Return the expression that applies `subscribe`: of several decorators the one that is being applied."""
    argument = ctx.args[0][0]
    if isinstance(ctx.context, Decorator | ClassDef):
        for decorator in ctx.context.decorators:
            # mypy hands over a placeholder for what is decorated, placed where the decorator is.
            if (decorator.line, decorator.column) == (argument.line, argument.column):
                return decorator
    return ctx.context if isinstance(ctx.context, Expression) else argument


def _event_of(applied: Expression) -> Expression | None:
    """Return the event in `subscribe(event)`, which is the decorator itself or what is called with a handler."""
    candidates = (applied, applied.callee) if isinstance(applied, CallExpr) else ()
    for call in candidates:
        if isinstance(call, CallExpr) and isinstance(call.callee, RefExpr) and call.callee.fullname == names.SUBSCRIBE:
            return call.args[0] if call.args else None
    return None
