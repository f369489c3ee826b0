"""Checks that handlers do not synchronise with the device in every step."""

from collections.abc import Iterator
from typing import Final

from mypy.nodes import (
    AssertStmt,
    CallExpr,
    ComparisonExpr,
    ConditionalExpr,
    DictionaryComprehension,
    Expression,
    GeneratorExpr,
    IfStmt,
    MatchStmt,
    MemberExpr,
    NameExpr,
    Node,
    OpExpr,
    RefExpr,
    StrExpr,
    UnaryExpr,
    WhileStmt,
)
from mypy.types import UnionType, get_proper_type

from d9d.mypy import names
from d9d.mypy.control_flow import Guard, Guards, reached
from d9d.mypy.diagnostics import HOST_SYNC
from d9d.mypy.events import find_moment
from d9d.mypy.handler_bodies import HandlerBody
from d9d.mypy.host_values import is_declared_on_device, is_on_host, is_tensor, runs_in_every_step
from d9d.mypy.syntax import descend

_METHODS: Final = frozenset({"item", "tolist", "cpu", "numpy"})
_CONVERSIONS: Final = {"builtins.float": "float", "builtins.int": "int", "builtins.bool": "bool"}
_KEEP_ON_DEVICE: Final = 'keep the tensor on the device with ".detach()"'
_COMPARE_WITH_NONE: Final = 'write "is not None" if you mean that'
_TRUTH: Final = "tests whether a tensor is true"
_HARMLESS_DECORATORS: Final = ("builtins.", "typing.", "typing_extensions.", "abc.", "torch.", names.SUBSCRIBE)
"""Prefixes of decorators that call the handler every time; others may call it once in a while."""


def check_host_sync(body: HandlerBody) -> None:
    """Check the handler of an event that happens in every step.

    Args:
        body: The handler.
    """
    heard = (listening.event for listening in body.listenings if listening.hears_every_trigger)
    event = next((event for event in heard if _fires_in_every_step(event, body)), None)
    if event is None or not all(map(_is_harmless, body.decorators)):
        return
    with body.typed():
        for node, guards in reached(body.function.body):
            for where, what in _waits(node, guards, body):
                means_none = what == _TRUTH and _is_optional(where, body)
                body.fail(
                    f"{body.subject(event)} {what} in every step, so each step waits for the device: do it only every "
                    'N steps, as under "if ctx.stepper.is_due(N):", or '
                    f"{_COMPARE_WITH_NONE if means_none else _KEEP_ON_DEVICE}",
                    where,
                    HOST_SYNC,
                )


def _fires_in_every_step(event: Expression, body: HandlerBody) -> bool:
    moment = find_moment(body.name_event(event).full_name, body.api.modules, body.indexes)
    return moment is not None and moment.fires_in_every_step


def _is_harmless(decorator: Expression) -> bool:
    name = decorator.callee if isinstance(decorator, CallExpr) else decorator
    return isinstance(name, RefExpr) and name.fullname.startswith(_HARMLESS_DECORATORS)


def _waits(node: Node, guards: Guards, body: HandlerBody) -> Iterator[tuple[Expression, str]]:
    """Yield the expressions that make the host wait in every step, each with what it does."""
    if isinstance(node, CallExpr) and (what := _what_waits(node, body)) and runs_in_every_step(guards, body):
        yield node, what
    for test in _tests(node):
        decisive, conditions = _decisive(test)
        if _is_awaited(decisive, body) and runs_in_every_step((*guards, *conditions), body):
            yield decisive, _TRUTH


def _what_waits(call: CallExpr, body: HandlerBody) -> str:
    """Return what a call does that makes the host wait; empty if it does not."""
    match call.callee:
        case MemberExpr(name=name, expr=tensor) if name in _METHODS and _is_awaited(tensor, body):
            return f'calls ".{name}()" on a tensor'
        case NameExpr(fullname="builtins.print") if any(
            _is_awaited(shown, body) for argument in call.args for shown in _shown(argument)
        ):
            return "prints a tensor"
        case NameExpr(fullname=name) if name in _CONVERSIONS and any(_is_awaited(each, body) for each in call.args):
            return f'calls "{_CONVERSIONS[name]}()" on a tensor'
    return ""


def _is_awaited(expression: Expression, body: HandlerBody) -> bool:
    if is_declared_on_device(expression, body):
        return True
    return is_tensor(body.type_of(expression)) and not is_on_host(expression, body)


def _shown(argument: Expression) -> Iterator[Expression]:
    """Yield what is printed for an argument: itself, or the expressions in an f-string."""
    yield argument
    if isinstance(argument, CallExpr) and isinstance(argument.callee, MemberExpr):
        for node in descend(argument):
            if isinstance(node, CallExpr) and isinstance(node.callee, MemberExpr) and node.callee.name == "format":
                yield from node.args[:1] if isinstance(node.callee.expr, StrExpr) else ()


def _tests(node: Node) -> Iterator[Expression]:
    """Yield the expressions whose truth a statement or an expression tests."""
    match node:
        case IfStmt():
            yield from node.expr
        case WhileStmt() | AssertStmt() | UnaryExpr(op="not"):
            yield node.expr
        case ConditionalExpr():
            yield node.cond
        case OpExpr(op="and" | "or"):
            yield node.left
        case ComparisonExpr() if len(node.operators) > 1:
            yield from node.operands[:2]  # the first comparison decides whether there is a second
        case MatchStmt():
            yield from (guard for guard in node.guards if guard is not None)
        case GeneratorExpr() | DictionaryComprehension():
            yield from (test for tests in node.condlists for test in tests)


def _decisive(test: Expression) -> tuple[Expression, Guards]:
    """Return the part of a test that is evaluated last, and the conditions under which it is."""
    if isinstance(test, OpExpr) and test.op in {"and", "or"}:
        decisive, conditions = _decisive(test.right)
        return decisive, (Guard(test.left, holds=test.op == "and"), *conditions)
    return test, ()


def _is_optional(expression: Expression, body: HandlerBody) -> bool:
    return isinstance(get_proper_type(body.type_of(expression)), UnionType)
