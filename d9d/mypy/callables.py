"""What can be called with a context, seen through mypy's types."""

from mypy.nodes import ARG_NAMED, ARG_NAMED_OPT, ARG_OPT, ARG_POS, ARG_STAR, Decorator, FuncDef, LambdaExpr
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

from d9d.mypy import names


def signatures(handler: Type) -> list[CallableType]:
    """Return the ways in which an object can be called.

    Args:
        handler: The type of the object: a function, a bound method, a `functools.partial`, a class, or anything with
            a `__call__`.

    Returns:
        One signature, several where they are overloaded, or none where mypy knows none.
    """
    kind = get_proper_type(handler)
    if isinstance(kind, CallableType):
        return [] if kind.param_spec() is not None else [kind]
    if isinstance(kind, Overloaded):
        return list(kind.items)
    if isinstance(kind, TypeVarType):
        return signatures(kind.upper_bound)
    if not isinstance(kind, Instance):
        return []
    if kind.extra_attrs and names.PARTIAL_SIGNATURE in kind.extra_attrs.attrs:
        return [_rest_of_partial(rest) for rest in signatures(kind.extra_attrs.attrs[names.PARTIAL_SIGNATURE])]
    call = find_member("__call__", kind, kind, is_operator=True)
    return [] if call is None else signatures(call)


def shape_of_lambda(handler: LambdaExpr, context: Type, fallback: Instance) -> CallableType:
    """Return what mypy shall infer a lambda from: its own parameters, the last that it requires being the context.

    mypy alone infers a lambda only from a signature of equal length, and so refuses `lambda ctx, name=name: ...`.

    Args:
        handler: The lambda.
        context: What the lambda is called with, perhaps after `self`.
        fallback: The type `builtins.function`.

    Returns:
        A signature that takes the context where it can, anything elsewhere, and returns nothing.
    """
    kinds, anything = handler.arg_kinds, AnyType(TypeOfAny.special_form)
    shape = CallableType([anything] * len(kinds), kinds, list(handler.arg_names), NoneType(), fallback)
    required = [i for i, kind in enumerate(kinds) if kind == ARG_POS]
    position = required[-1] if required else context_position(shape)
    return shape.copy_modified(arg_types=[context if i == position else anything for i in range(len(kinds))])


def bind(signature: CallableType) -> CallableType:
    """Return the signature of a method as seen on an object: without `self` or `cls`."""
    if not signature.arg_kinds or not signature.arg_kinds[0].is_positional():
        return signature
    return signature.copy_modified(
        arg_types=signature.arg_types[1:], arg_kinds=signature.arg_kinds[1:], arg_names=signature.arg_names[1:]
    )


def accepts_self(signature: CallableType, method: FuncDef) -> bool:
    """Say whether the first parameter of a method can be its object, which mypy reports if it cannot."""
    if not signature.arg_types:
        return False
    owner = fill_typevars(method.info)
    self_type = TypeType.make_normalized(owner) if method.is_class else owner
    return is_subtype(self_type, erase_to_bound(signature.arg_types[0]), ignore_type_params=True)


def context_position(signature: CallableType) -> int | None:
    """Return the index of the parameter that receives a single positional argument, if there is one."""
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
    """Say whether a parameter is `Any` for want of an annotation, and not because its author wrote so."""
    proper = get_proper_type(kind)
    return isinstance(proper, AnyType) and proper.type_of_any == TypeOfAny.unannotated


def is_asynchronous(signature: CallableType) -> bool:
    """Say whether a call makes something to be awaited."""
    if _result(signature) in names.ASYNCHRONOUS:
        return True
    function = _definition(signature)
    by_body = function is not None and (function.is_coroutine or function.is_async_generator)
    return by_body and is_unannotated(signature.ret_type)


def is_generator(signature: CallableType) -> bool:
    """Say whether a call makes a generator, whose body has not begun to run."""
    function = _definition(signature)
    by_body = function is not None and function.is_generator
    return by_body and (is_unannotated(signature.ret_type) or _result(signature) in names.GENERATORS)


def _result(signature: CallableType) -> str:
    """Return the full name of the class that a call makes an instance of; nothing for other types."""
    result = get_proper_type(signature.ret_type)
    return result.type.fullname if isinstance(result, Instance) else ""


def _definition(signature: CallableType) -> FuncDef | None:
    """Return the function behind a signature; a decorator may have made something else of what its body does."""
    node = signature.definition.func if isinstance(signature.definition, Decorator) else signature.definition
    return node if isinstance(node, FuncDef) else None


def _rest_of_partial(signature: CallableType) -> CallableType:
    """Return what a `functools.partial` takes: a parameter after one that was bound by its name needs its name too."""
    kinds = list(signature.arg_kinds)
    first_named = next((i for i, kind in enumerate(kinds) if kind.is_named()), len(kinds))
    named = {ARG_POS: ARG_NAMED, ARG_OPT: ARG_NAMED_OPT}
    kinds[first_named:] = [named.get(kind, kind) for kind in kinds[first_named:]]
    return signature.copy_modified(arg_kinds=kinds)
