"""Checks that a handler accepts the context of the event that it listens to."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from mypy.checker import TypeChecker
from mypy.errorcodes import ErrorCode
from mypy.messages import format_type, format_type_distinctly
from mypy.nodes import (
    ARG_POS,
    CallExpr,
    ClassDef,
    Context,
    Decorator,
    Expression,
    FuncDef,
    LambdaExpr,
    MemberExpr,
    NameExpr,
    StrExpr,
)
from mypy.plugin import FunctionContext, FunctionSigContext, MethodSigContext
from mypy.subtypes import is_subtype
from mypy.types import (
    AnyType,
    CallableType,
    Instance,
    NoneType,
    Overloaded,
    TupleType,
    Type,
    TypeOfAny,
    get_proper_type,
)

from d9d.mypy import names, signatures
from d9d.mypy.catalogues import Indexes
from d9d.mypy.diagnostics import HANDLER, UNTYPED_HANDLER
from d9d.mypy.events import EventName, carried_by_each, constant_of_id, did_you_mean, join, name_event
from d9d.mypy.syntax import event_of


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
    forms = _forms(signatures.of(kind), ctx)
    if not forms:
        return ctx.default_signature
    applied = _application(ctx)
    subscribed = _Subscribed(
        api=api,
        indexes=indexes,
        handler=_decorated(ctx) or argument,
        event=name_event(_event_of(applied), api.modules, indexes),
        context=context,
    )
    diagnostic = subscribed.diagnose(forms)
    if diagnostic is not None and ctx.default_signature.variables:
        api.fail(diagnostic.message, applied, code=diagnostic.code)
    taken = None
    if diagnostic is None and isinstance(argument, LambdaExpr):
        taken = _accepted_of_lambda(argument, context, api)
    accepting = signatures.accept(ctx, 0, kind=taken)
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
    if not (isinstance(api, TypeChecker) and all(ctx.args[:2])):
        return ctx.default_signature
    event, argument = ctx.args[0][0], ctx.args[1][0]
    contexts = carried_by_each(event, api)
    for context in contexts:
        subscribed = _Subscribed(
            api=api,
            indexes=indexes,
            handler=argument,
            event=name_event(event, api.modules, indexes),
            context=context,
        )
        diagnostic = subscribed.diagnose(signatures.of(_type_of(argument, context, api)))
        if diagnostic is not None:
            api.fail(diagnostic.message, ctx.context, code=diagnostic.code)
            return signatures.accept(ctx, 1) if len(contexts) == 1 else signatures.accept_all(ctx)
    if len(contexts) > 1:
        return signatures.accept_all(ctx)
    if contexts and isinstance(argument, LambdaExpr):
        return signatures.accept(ctx, 1, kind=_accepted_of_lambda(argument, contexts[0], api))
    return ctx.default_signature


def check_event(ctx: FunctionSigContext, indexes: Indexes) -> CallableType:
    """Check that `subscribe` is called with an event.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.

    Returns:
        The declared signature; if an error was reported, one that takes anything.
    """
    api = ctx.api
    if not (isinstance(api, TypeChecker) and ctx.args and ctx.args[0]):
        return ctx.default_signature
    argument = ctx.args[0][0]
    kind = get_proper_type(api.get_expression_type(argument))
    is_event = isinstance(kind, Instance) and (kind.type.fullname == names.EVENT or kind.type.fallback_to_any)
    if is_event or not isinstance(kind, Instance | CallableType | NoneType | TupleType):
        return ctx.default_signature
    found = format_type(kind, api.options)
    constant = constant_of_id(argument.value, api.modules, indexes) if isinstance(argument, StrExpr) else None
    example = constant or "EVENT_TRAIN_READY"
    api.fail(
        f"@subscribe needs an event, but found {found}: pass the constant of the event, as in @subscribe({example})",
        ctx.context,
        code=HANDLER,
    )
    anything = AnyType(TypeOfAny.from_error)
    accepting = signatures.accept(ctx, 0).copy_modified(variables=[])
    returned = get_proper_type(accepting.ret_type)
    if not isinstance(returned, Instance):
        return accepting
    return accepting.copy_modified(ret_type=returned.copy_modified(args=[anything]))


def check_bare(ctx: FunctionContext, indexes: Indexes) -> None:  # noqa: ARG001 -- as the other checks of functions
    """Explain mypy's own error about `@subscribe` without an event.

    Args:
        ctx: The call that mypy makes of the decorator.
        indexes: The indexes of all catalogues.
    """
    if isinstance(ctx.api, TypeChecker) and isinstance(ctx.context, Decorator):
        name = ctx.context.func.name
        ctx.api.msg.note(
            f'"{name}" is decorated with @subscribe without an event: write the event, as in '
            "@subscribe(EVENT_TRAIN_READY)",
            ctx.args[0][0] if ctx.args and ctx.args[0] else ctx.context,
            code=HANDLER,
        )


class _Diagnostic(NamedTuple):
    code: ErrorCode
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Subscribed:
    """A handler and the event that it is subscribed to.

    Attributes:
        api: The checker of the module.
        indexes: The indexes of all catalogues.
        handler: What the code decorates or passes.
        event: The event as its author knows it.
        context: The type of the context that the event carries.
    """

    api: TypeChecker
    indexes: Indexes
    handler: Context
    event: EventName
    context: Type

    def diagnose(self, forms: Sequence[CallableType]) -> _Diagnostic | None:
        """Return what would go wrong when the bus calls the handler.

        Args:
            forms: The signatures with which the handler can be called.

        Returns:
            `None` if one of them is right, and else what is wrong with the first.
        """
        found = [self._diagnose(each) for each in forms]
        if found and None not in found:
            return found[0]
        return self._diagnose_lambda(self.handler) if isinstance(self.handler, LambdaExpr) else None

    def _diagnose_lambda(self, handler: LambdaExpr) -> _Diagnostic | None:
        """Return what is wrong with the value of a lambda. Most values do no harm: a lambda cannot help having one."""
        with self.api.msg.filter_errors():
            kind = get_proper_type(
                self.api.get_expression_type(handler, _accepted_of_lambda(handler, self.context, self.api))
            )
        if not isinstance(kind, CallableType):
            return None
        subject = f"Handler <lambda> of {self.event}"
        if signatures.is_asynchronous(kind):
            return _Diagnostic(HANDLER, f"{subject} {self._asynchronous()}")
        returned = get_proper_type(kind.ret_type)
        if isinstance(returned, CallableType | Overloaded) and not returned.is_type_obj():
            return _Diagnostic(
                HANDLER,
                f"{subject} returns a function and does not call it, so the function never runs: call it in the "
                "lambda, or subscribe the function itself",
            )
        return None

    def _asynchronous(self) -> str:
        expected = format_type(self.context, self.api.options)
        return (
            'is asynchronous, but the bus does not await handlers: define it with "def"; a handler takes '
            f"{expected} and returns None"
        )

    def _diagnose(self, signature: CallableType) -> _Diagnostic | None:
        name = _name(self.handler)
        subject = f'Handler "{name}" of {self.event}' if name else f"Handler of {self.event}"
        problem = self._problem_of_shape(signature) or self._problem_of_type(signature)
        if problem is not None:
            return _Diagnostic(HANDLER, f"{subject} {problem}")
        position = signatures.context_position(signature) or 0
        if signatures.is_unannotated(signature.arg_types[position]):
            expected, parameter = format_type(self.context, self.api.options), signatures.quote(signature, position)
            return _Diagnostic(
                UNTYPED_HANDLER,
                f"{subject} has no annotation for its context, so what it does with the context is not checked: "
                f"annotate {parameter} with {expected}",
            )
        return None

    def _problem_of_shape(self, signature: CallableType) -> str | None:
        """Return why a call with one argument would fail, or not run the body, whatever the argument is."""
        expected = format_type(self.context, self.api.options)
        if signatures.is_asynchronous(signature):
            return self._asynchronous()
        if signatures.is_generator(signature):
            return (
                'is a generator, but the bus does not iterate over it, so its body never runs: remove the "yield"; a '
                f"handler takes {expected} and returns None"
            )
        if signatures.context_position(signature) is None:
            return f"takes no positional argument, but is called with {expected}: add a parameter for it"
        if extras := signatures.required_extras(signature):
            them = "them" if len(extras) > 1 else "it"
            return (
                f"requires {join(extras)} as well, but is called with {expected} alone: give {them} a default, or bind "
                f"{them} with functools.partial"
            )
        return None

    def _problem_of_type(self, signature: CallableType) -> str | None:
        """Return why mypy would refuse a call with the context; `None` if the context has no annotation."""
        position = signatures.context_position(signature) or 0
        given, parameter = signature.arg_types[position], signatures.quote(signature, position)
        if signatures.is_unannotated(given):
            return None
        given_text, expected = format_type_distinctly(given, self.context, options=self.api.options)
        if not self._fits(signature, AnyType(TypeOfAny.special_form)):
            question = did_you_mean(self.event, given, self.api, self.indexes)
            return (
                f"takes {given_text}, but the event carries {expected}: annotate {parameter} with {expected}{question}"
            )
        if not self._fits(signature, NoneType()):
            returned = format_type(signature.ret_type, self.api.options)
            return f"returns {returned}, which the bus ignores: a handler takes {expected} and returns None"
        return None

    def _fits(self, signature: CallableType, result: Type) -> bool:
        """Return whether mypy accepts a call with the context, and the use of what it returns as the given type."""
        function = self.api.named_generic_type("builtins.function", [])
        call = CallableType([self.context], [ARG_POS], [None], result, function)
        return is_subtype(signature, call, options=self.api.options)


def _name(handler: Context) -> str:
    """Return what the code calls a handler; empty for one without a name."""
    if isinstance(handler, LambdaExpr):
        return "<lambda>"
    if isinstance(handler, CallExpr) and handler.args:  # such as functools.partial(handler, ...)
        return _name(handler.args[0])
    return handler.name if isinstance(handler, NameExpr | MemberExpr | FuncDef | ClassDef) else ""


def _type_of(handler: Expression, context: Type, api: TypeChecker) -> Type:
    """Return the type of a handler; for a lambda, the type that mypy should infer it from."""
    if isinstance(handler, LambdaExpr):
        return signatures.shape_of_lambda(handler, context, api.named_generic_type("builtins.function", []))
    return api.get_expression_type(handler)


def _accepted_of_lambda(handler: LambdaExpr, context: Type, api: TypeChecker) -> CallableType:
    """Return the type from which mypy infers a lambda, whose value may be anything."""
    shape = signatures.shape_of_lambda(handler, context, api.named_generic_type("builtins.function", []))
    return shape.copy_modified(ret_type=api.named_generic_type("builtins.object", []))


def _forms(found: list[CallableType], ctx: MethodSigContext) -> list[CallableType]:
    """Return how the bus will call what is decorated; empty if mypy reports it already."""
    if not isinstance(ctx.context, Decorator):
        # A class may keep the result of `subscribe(event)(function)` as its method: either form is right.
        return found + [signatures.bind(signature) for signature in found]
    method = ctx.context.func
    if not method.info or method.is_static:
        return found
    return [signatures.bind(signature) for signature in found if signatures.accepts_self(signature, method)]


def _decorated(ctx: MethodSigContext) -> FuncDef | ClassDef | None:
    """Return what is decorated; `None` if `subscribe(event)(handler)` is written as a call."""
    if isinstance(ctx.context, Decorator):
        return ctx.context.func
    return ctx.context if isinstance(ctx.context, ClassDef) else None


def _application(ctx: MethodSigContext) -> Expression:
    """Return the expression that applies `subscribe`: of several decorators, the one that is being applied."""
    argument = ctx.args[0][0]
    if isinstance(ctx.context, Decorator | ClassDef):
        for decorator in ctx.context.decorators:
            # mypy passes a placeholder for what is decorated, at the position of the decorator.
            if (decorator.line, decorator.column) == (argument.line, argument.column):
                return decorator
    return ctx.context if isinstance(ctx.context, Expression) else argument


def _event_of(applied: Expression) -> Expression | None:
    """Return the event in `subscribe(event)`, which is the decorator itself or what is called with a handler."""
    return event_of(applied) or (event_of(applied.callee) if isinstance(applied, CallExpr) else None)
