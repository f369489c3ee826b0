"""The signatures with which a handler can be called, seen through mypy's types."""

from typing import Final

from mypy.nodes import ARG_NAMED, ARG_NAMED_OPT, ARG_OPT, ARG_POS, ARG_STAR, Decorator, FuncDef, LambdaExpr
from mypy.plugin import FunctionSigContext, MethodSigContext
from mypy.subtypes import find_member, is_subtype
from mypy.typeops import erase_to_bound
from mypy.types import (
    AnyType,
    CallableType,
    Instance,
    NoneType,
    Overloaded,
    Type,
    TypeOfAny,
    TypeType,
    TypeVarType,
    get_proper_type,
)
from mypy.typevars import fill_typevars

_PARTIAL_SIGNATURE: Final = "__mypy_partial"
"""Where mypy keeps what is left of the signature in a `functools.partial`; its `__call__` itself takes anything."""
_AWAITED: Final = frozenset({"typing.Awaitable", "typing.Coroutine", "typing.AsyncGenerator", "typing.AsyncIterator"})
_ITERATED: Final = frozenset({"typing.Generator", "typing.Iterator", "typing.Iterable"})


def of(handler: Type) -> list[CallableType]:
    """Return the signatures of an object.

    Args:
        handler: The type of the object: a function, a bound method, a `functools.partial`, a class, or anything with
            `__call__`.

    Returns:
        One signature, several if they are overloaded, or none if mypy knows none.
    """
    kind = get_proper_type(handler)
    if isinstance(kind, CallableType):
        return [] if kind.param_spec() is not None else [kind]
    if isinstance(kind, Overloaded):
        return list(kind.items)
    if isinstance(kind, TypeVarType):
        return of(kind.upper_bound)
    if not isinstance(kind, Instance):
        return []
    if kind.extra_attrs and _PARTIAL_SIGNATURE in kind.extra_attrs.attrs:
        return [_rest_of_partial(rest) for rest in of(kind.extra_attrs.attrs[_PARTIAL_SIGNATURE])]
    call = find_member("__call__", kind, kind, is_operator=True)
    return [] if call is None else of(call)


def shape_of_lambda(handler: LambdaExpr, context: Type, fallback: Instance) -> CallableType:
    """Return the type that mypy should infer a lambda from: the last parameter that it requires is the context.

    On its own, mypy infers a lambda only from a signature of equal length, and so refuses `lambda ctx, name=name: ...`.

    Args:
        handler: The lambda.
        context: The type of the context, which the lambda may take after `self`.
        fallback: The type `builtins.function`.

    Returns:
        A signature that takes the context in one place, anything elsewhere, and returns nothing.
    """
    kinds, anything = handler.arg_kinds, AnyType(TypeOfAny.special_form)
    shape = CallableType([anything] * len(kinds), kinds, list(handler.arg_names), NoneType(), fallback)
    required = [i for i, kind in enumerate(kinds) if kind == ARG_POS]
    position = required[-1] if required else context_position(shape)
    return shape.copy_modified(arg_types=[context if i == position else anything for i in range(len(kinds))])


def accept(ctx: MethodSigContext | FunctionSigContext, *positions: int, kind: Type | None = None) -> CallableType:
    """Return the declared signature of a call, so that it accepts some of its arguments.

    Args:
        ctx: The call.
        positions: The parameters that accept what they get.
        kind: The type that they take; any object if it is not given.
    """
    arg_types = list(ctx.default_signature.arg_types)
    for position in positions:
        arg_types[position] = kind or ctx.api.named_generic_type("builtins.object", [])
    return ctx.default_signature.copy_modified(arg_types=arg_types)


def accept_all(ctx: MethodSigContext | FunctionSigContext) -> CallableType:
    """Return the declared signature of a call, so that it accepts any arguments, of which nothing is inferred.

    Args:
        ctx: The call.
    """
    return accept(ctx, *range(len(ctx.default_signature.arg_types))).copy_modified(variables=[])


def bind(signature: CallableType) -> CallableType:
    """Return the signature of a method as seen on an object: without `self` or `cls`."""
    if not signature.arg_kinds or not signature.arg_kinds[0].is_positional():
        return signature
    return signature.copy_modified(
        arg_types=signature.arg_types[1:], arg_kinds=signature.arg_kinds[1:], arg_names=signature.arg_names[1:]
    )


def accepts_self(signature: CallableType, method: FuncDef) -> bool:
    """Return whether the first parameter of a method accepts its object; mypy itself reports if it does not."""
    if not signature.arg_types:
        return False
    owner = fill_typevars(method.info)
    self_type = TypeType.make_normalized(owner) if method.is_class else owner
    return is_subtype(self_type, erase_to_bound(signature.arg_types[0]), ignore_type_params=True)


def context_position(signature: CallableType) -> int | None:
    """Return the index of the parameter that receives a single positional argument; `None` if there is none."""
    receivers = (i for i, kind in enumerate(signature.arg_kinds) if kind in (ARG_POS, ARG_OPT, ARG_STAR))
    return next(receivers, None)


def required_extras(signature: CallableType) -> list[str]:
    """Return the names of the parameters that a call with a single positional argument leaves without a value."""
    required = [i for i, kind in enumerate(signature.arg_kinds) if kind in (ARG_POS, ARG_NAMED)]
    return [quote(signature, i) for i in required if i != context_position(signature)]


def quote(signature: CallableType, position: int) -> str:
    """Return the name of a parameter as messages print it."""
    name = signature.arg_names[position]
    return "its parameter" if name is None else f'"{name}"'


def is_unannotated(kind: Type) -> bool:
    """Return whether a parameter is `Any` because it has no annotation, and not because its author wrote so."""
    proper = get_proper_type(kind)
    return isinstance(proper, AnyType) and proper.type_of_any == TypeOfAny.unannotated


def is_asynchronous(signature: CallableType) -> bool:
    """Return whether a call returns something that must be awaited."""
    if _result(signature) in _AWAITED:
        return True
    function = _definition(signature)
    by_body = function is not None and (function.is_coroutine or function.is_async_generator)
    return by_body and is_unannotated(signature.ret_type)


def is_generator(signature: CallableType) -> bool:
    """Return whether a call returns a generator, whose body does not run yet."""
    function = _definition(signature)
    by_body = function is not None and function.is_generator
    return by_body and (is_unannotated(signature.ret_type) or _result(signature) in _ITERATED)


def _result(signature: CallableType) -> str:
    """Return the full name of the class of what a call returns; empty for other types."""
    result = get_proper_type(signature.ret_type)
    return result.type.fullname if isinstance(result, Instance) else ""


def _definition(signature: CallableType) -> FuncDef | None:
    """Return the function behind a signature; a decorator may have replaced what its body does."""
    node = signature.definition.func if isinstance(signature.definition, Decorator) else signature.definition
    return node if isinstance(node, FuncDef) else None


def _rest_of_partial(signature: CallableType) -> CallableType:
    """Return what a `functools.partial` takes: parameters after one bound by name need their names too."""
    kinds = list(signature.arg_kinds)
    first_named = next((i for i, kind in enumerate(kinds) if kind.is_named()), len(kinds))
    named = {ARG_POS: ARG_NAMED, ARG_OPT: ARG_NAMED_OPT}
    kinds[first_named:] = [named.get(kind, kind) for kind in kinds[first_named:]]
    return signature.copy_modified(arg_kinds=kinds)
