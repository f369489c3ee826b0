"""Checks that handlers do not make every step wait for the device."""

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

from d9d.mypy import errors, names
from d9d.mypy.bodies import HandlerBody
from d9d.mypy.errors import Mistake
from d9d.mypy.guards import Guard, Guards, reached
from d9d.mypy.lifecycle import Moment
from d9d.mypy.steadiness import runs_in_every_step
from d9d.mypy.tensors import is_on_host, is_tensor
from d9d.mypy.tree import descend

_METHODS: Final = frozenset({"item", "tolist", "cpu", "numpy"})
_CONVERSIONS: Final = {"builtins.float": "float", "builtins.int": "int", "builtins.bool": "bool"}
_KEEP_ON_DEVICE: Final = 'keep the tensor on the device with ".detach()"'
_ASK_FOR_NONE: Final = 'write "is not None" if that is meant'
_TRUTH: Final = "asks whether a tensor is true"
_HARMLESS_DECORATORS: Final = ("builtins.", "typing.", "typing_extensions.", "abc.", "torch.", names.SUBSCRIBE)
"""Others may well call the handler once in a while."""


def check_host_sync(body: HandlerBody) -> None:
    """Check the handler of an event that fires in every step.

    Args:
        body: The handler.
    """
    event = next((event for event in body.events if _fires_in_every_step(event, body)), None)
    if event is None or not body.is_asked(errors.HOST_SYNC) or not all(map(_is_harmless, body.decorators)):
        return
    with body.typed():
        for node, guards in reached(body.function.body):
            for where, what in _waits(node, guards, body):
                asks_for_none = what == _TRUTH and _is_optional(where, body)
                alternative = _ASK_FOR_NONE if asks_for_none else _KEEP_ON_DEVICE
                body.fail(_waits_for_device(body.subject(event), what, alternative), where)


def _fires_in_every_step(event: Expression, body: HandlerBody) -> bool:
    moment = Moment.of(body.name_event(event).full_name, body.api.modules, body.indexes)
    return moment is not None and moment.fires_in_every_step


def _is_harmless(decorator: Expression) -> bool:
    name = decorator.callee if isinstance(decorator, CallExpr) else decorator
    return isinstance(name, RefExpr) and name.fullname.startswith(_HARMLESS_DECORATORS)


def _waits(node: Node, guards: Guards, body: HandlerBody) -> Iterator[tuple[Expression, str]]:
    """Yield the expressions for which the host waits in every step, each with what they do."""
    if isinstance(node, CallExpr) and (what := _what_waits(node, body)) and runs_in_every_step(guards, body):
        yield node, what
    for test in _tests(node):
        decisive, conditions = _decisive(test)
        if _is_awaited(decisive, body) and runs_in_every_step((*guards, *conditions), body):
            yield decisive, _TRUTH


def _what_waits(call: CallExpr, body: HandlerBody) -> str:
    """Return what a call does for which the host waits; nothing, if it does not."""
    match call.callee:
        case MemberExpr(name=name, expr=tensor) if name in _METHODS and _is_awaited(tensor, body):
            return f'calls ".{name}()" of a tensor'
        case NameExpr(fullname="builtins.print") if any(
            _is_awaited(shown, body) for argument in call.args for shown in _shown(argument)
        ):
            return "prints a tensor"
        case NameExpr(fullname=name) if name in _CONVERSIONS and any(_is_awaited(each, body) for each in call.args):
            return f'calls "{_CONVERSIONS[name]}()" of a tensor'
    return ""


def _is_awaited(expression: Expression, body: HandlerBody) -> bool:
    return is_tensor(body.type_of(expression)) and not is_on_host(expression, body)


def _shown(argument: Expression) -> Iterator[Expression]:
    """Yield what is printed for an argument: itself, or what stands in the braces of an f-string."""
    yield argument
    if isinstance(argument, CallExpr) and isinstance(argument.callee, MemberExpr):
        for node in descend(argument):
            if isinstance(node, CallExpr) and isinstance(node.callee, MemberExpr) and node.callee.name == "format":
                yield from node.args[:1] if isinstance(node.callee.expr, StrExpr) else ()


def _tests(node: Node) -> Iterator[Expression]:
    """Yield what a statement or an expression asks the truth of."""
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
    """Return the part of a test whose truth is asked last, and under which conditions: the parts before ask first."""
    if isinstance(test, OpExpr) and test.op in {"and", "or"}:
        decisive, conditions = _decisive(test.right)
        return decisive, (Guard(test.left, holds=test.op == "and"), *conditions)
    return test, ()


def _is_optional(expression: Expression, body: HandlerBody) -> bool:
    return isinstance(get_proper_type(body.type_of(expression)), UnionType)


def _waits_for_device(subject: str, what: str, alternative: str) -> Mistake:
    """Say that the host waits for the device in every step."""
    return Mistake(
        errors.HOST_SYNC,
        f"{subject} {what} in every step, and the host waits until the device has computed it: do so only in some "
        f'steps, as under "if ctx.stepper.is_due(period_steps):", or {alternative}',
    )
