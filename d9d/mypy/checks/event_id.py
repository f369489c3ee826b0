"""Checks that an event has a well-formed id of its own, and a context type."""

import re
from collections.abc import Iterator
from typing import Final

from mypy.checker import TypeChecker
from mypy.constant_fold import constant_fold_expr
from mypy.nodes import AssignmentStmt, CallExpr, Expression, FuncDef, IndexExpr, LambdaExpr, MypyFile, NameExpr, RefExpr
from mypy.plugin import FunctionContext
from mypy.types import AnyType, Instance, LiteralType, TypeOfAny, get_proper_type

from d9d.mypy import errors, names
from d9d.mypy.errors import Mistake
from d9d.mypy.events import EventName
from d9d.mypy.index import Indexes
from d9d.mypy.namespaces import owner_of
from d9d.mypy.tree import descend

ID: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
"""The grammar of ids; the compiler of catalogues has the same, and a test holds the two together."""


def check(ctx: FunctionContext, indexes: Indexes) -> None:
    """Check a call of `Event`.

    Args:
        ctx: The call.
        indexes: The indexes of all catalogues.
    """
    api = ctx.api
    if not (isinstance(api, TypeChecker) and ctx.args and len(ctx.args[0]) == 1):
        return
    if indexes.beside(api.path).describes(api.tree.fullname):
        return  # the compiler of its catalogue has checked it
    mistake = _mistake_of_id(ctx, api, indexes) or _mistake_of_context(ctx, api)
    if mistake is not None:
        api.fail(mistake.message, ctx.context, code=mistake.code)


def _mistake_of_id(ctx: FunctionContext, api: TypeChecker, indexes: Indexes) -> Mistake | None:
    constant = _constant_of(ctx.context, api.tree)
    event_id = _value(ctx.args[0][0], api)
    if event_id is None:
        return None if _is_told_by_mypy(ctx) else _no_literal(constant)
    event = EventName(constant, event_id)
    if not ID.fullmatch(event_id):
        return _malformed(event)
    definitions = [call for call in _definitions(api.tree) if call is ctx.context or _has_id(call, event_id, api)]
    first = definitions[0] if ctx.context in definitions else ctx.context
    if isinstance(first, CallExpr) and first is not ctx.context:
        return _used_twice(event, _constant_of(first, api.tree), first.line)
    namespace = event_id.partition(".")[0]
    owner = owner_of(namespace, api.path, indexes)
    return _owned(event, namespace, owner) if owner else None


def _mistake_of_context(ctx: FunctionContext, api: TypeChecker) -> Mistake | None:
    """Return whether a bare `Event` as the declared type leaves the context open; in strict settings mypy tells it."""
    kind = get_proper_type(ctx.default_return_type)
    if api.options.disallow_any_generics or not isinstance(kind, Instance) or not kind.args:
        return None
    context = get_proper_type(kind.args[0])
    if not isinstance(context, AnyType):
        return None
    origin = context.source_any or context
    if origin.type_of_any != TypeOfAny.from_omitted_generics:
        return None
    return _without_context(EventName(_constant_of(ctx.context, api.tree), _value(ctx.args[0][0], api)))


def _value(expression: Expression, api: TypeChecker) -> str | None:
    """Return the text of an id, if the source says it: a literal, a constant, or several of them joined by `+`."""
    value = constant_fold_expr(expression, api.tree.fullname)
    if isinstance(value, str):
        return value
    kind = get_proper_type(api.get_expression_type(expression))
    known = kind.last_known_value if isinstance(kind, Instance) else kind
    return known.value if isinstance(known, LiteralType) and isinstance(known.value, str) else None


def _is_told_by_mypy(ctx: FunctionContext) -> bool:
    """Say whether the argument is no text at all."""
    kind = get_proper_type(ctx.arg_types[0][0])
    return not (isinstance(kind, AnyType) or (isinstance(kind, Instance) and kind.type.fullname == "builtins.str"))


def _has_id(call: CallExpr, event_id: str, api: TypeChecker) -> bool:
    arguments = zip(call.arg_names, call.args, strict=True)
    return any(name == "id" and _value(value, api) == event_id for name, value in arguments)


def _definitions(tree: MypyFile) -> Iterator[CallExpr]:
    """Yield the calls of `Event` and `Event[Context]` that run when a module is imported, in the order of the source.

    Those within functions are left out: what they make may live on buses that never meet.
    """
    for node in descend(tree, lambda node: not isinstance(node, FuncDef | LambdaExpr)):
        if isinstance(node, CallExpr):
            callee = node.callee.base if isinstance(node.callee, IndexExpr) else node.callee
            if isinstance(callee, RefExpr) and callee.fullname == names.EVENT:
                yield node


def _constant_of(call: object, tree: MypyFile) -> str:
    """Return the full name of the constant that a call of `Event` is assigned to, if there is one."""
    for node in descend(tree):
        if isinstance(node, AssignmentStmt) and node.rvalue is call and isinstance(node.lvalues[0], NameExpr):
            return node.lvalues[0].fullname or node.lvalues[0].name
    return ""


def _no_literal(constant: str) -> Mistake:
    """Say that nobody can look the id up."""
    return Mistake(
        errors.EVENT_ID,
        f"The id of {EventName(constant)} is computed, so no checker and no reader can tell which event it is: write "
        'it out, such as "user.saved", and pass the event itself to code that is generic',
    )


def _malformed(event: EventName) -> Mistake:
    """Say that the id does not follow the grammar."""
    return Mistake(
        errors.EVENT_ID,
        f'The id of {event} is not made of lower-case segments joined by dots: write one such as "user.saved"',
    )


def _used_twice(event: EventName, first: str, line: int) -> Mistake:
    """Say that another event of the module has the id."""
    return Mistake(
        errors.EVENT_ID,
        f"The id of {event} is that of {EventName(first)} in line {line} already, and a bus refuses to listen to both: "
        "give it an id of its own, or use the first",
    )


def _owned(event: EventName, namespace: str, owner: str) -> Mistake:
    """Say that a catalogue owns the namespace."""
    return Mistake(
        errors.EVENT_ID,
        f'The id of {event} is in the namespace "{namespace}", which the catalogue of {owner} owns: declare the event '
        'there, or begin its id with a word of your own, such as "user"',
    )


def _without_context(event: EventName) -> Mistake:
    """Say that the event carries anything."""
    return Mistake(
        errors.EVENT_ID,
        f"{event} has no context type, so none of its handlers is checked: declare it as Event[...] with the context "
        "that it carries",
    )
