"""Under which conditions the code of a function runs."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

from mypy.nodes import (
    AssertStmt,
    Block,
    BreakStmt,
    ConditionalExpr,
    ContinueStmt,
    Decorator,
    DictionaryComprehension,
    Expression,
    ForStmt,
    GeneratorExpr,
    IfStmt,
    LambdaExpr,
    ListExpr,
    MatchStmt,
    Node,
    OpExpr,
    RaiseStmt,
    ReturnStmt,
    Statement,
    TryStmt,
    TupleExpr,
    WhileStmt,
    WithStmt,
)

from d9d.mypy.syntax import children, is_scope


@dataclasses.dataclass(frozen=True)
class Guard:
    """A condition for code to run.

    Attributes:
        test: What is tested; `None` if the code runs before or after an exception.
        holds: Whether the code runs if the test is true, and not if it is false.
    """

    test: Expression | None
    holds: bool


Guards = tuple[Guard, ...]

_EXCEPTION: Final = Guard(None, holds=True)


def reached(block: Block, guards: Guards = ()) -> Iterator[tuple[Node, Guards]]:
    """Yield all statements and expressions that may run when a block does, each with its conditions.

    An early return, `continue` or `break` is a condition for what follows. Functions and classes inside the block do
    not run with it, and are skipped.

    Args:
        block: The body of a function, or a part of it.
        guards: The conditions for the block itself.
    """
    if block.body and isinstance(block.body[-1], RaiseStmt):
        guards = (*guards, _EXCEPTION)
    for statement in block.body:
        yield from _statement(statement, guards)
        guards = (*guards, *_exits(statement))


def _statement(node: Statement, guards: Guards) -> Iterator[tuple[Node, Guards]]:
    yield node, guards
    match node:
        case IfStmt():
            yield from _branches(node.expr, node.body, node.else_body, guards)
        case WhileStmt() | ForStmt():
            yield from _loop(node, guards)
        case WithStmt():
            yield from _expressions([*node.expr, *node.target], guards)
            yield from reached(node.body, guards)
        case TryStmt():
            yield from reached(node.body, guards)
            yield from _blocks(node.handlers, (*guards, _EXCEPTION))
            yield from _blocks([node.else_body, node.finally_body], guards)
        case MatchStmt():
            yield from _cases(node, guards)
        case AssertStmt():
            yield from _expressions([node.expr], guards)
            yield from _expressions([node.msg], (*guards, Guard(node.expr, holds=False)))
        case RaiseStmt():
            yield from _expressions([node.expr, node.from_expr], (*guards, _EXCEPTION))
        case Block():
            yield from reached(node, guards)
        case _ if not (is_scope(node) or isinstance(node, Decorator)):
            yield from _expressions(list(children(node)), guards)


def _loop(node: WhileStmt | ForStmt, guards: Guards) -> Iterator[tuple[Node, Guards]]:
    if isinstance(node, WhileStmt):
        yield from _branches([node.expr], [node.body], None, guards)
    else:
        yield from _expressions([node.expr, node.index], guards)
        yield from reached(node.body, (*guards, *_has_items(node.expr)))
    yield from _blocks([node.else_body], guards)


def _has_items(iterable: Expression) -> Iterator[Guard]:
    """Yield the condition in `items if condition else []`, under which there is something to iterate over."""
    if isinstance(iterable, ConditionalExpr):
        for branch, holds in ((iterable.if_expr, False), (iterable.else_expr, True)):
            if isinstance(branch, ListExpr | TupleExpr) and not branch.items:
                yield Guard(iterable.cond, holds)


def _branches(
    tests: Sequence[Expression], bodies: Sequence[Block], else_body: Block | None, guards: Guards
) -> Iterator[tuple[Node, Guards]]:
    for test, body in zip(tests, bodies, strict=True):
        yield from _expressions([test], guards)
        yield from reached(body, (*guards, Guard(test, holds=True)))
        guards = (*guards, Guard(test, holds=False))
    yield from _blocks([else_body], guards)


def _cases(node: MatchStmt, guards: Guards) -> Iterator[tuple[Node, Guards]]:
    yield from _expressions([node.subject], guards)
    for number, (condition, body) in enumerate(zip(node.guards, node.bodies, strict=True)):
        case = (*guards, Guard(node.subject, holds=number == 0))
        yield from _expressions([condition], case)
        yield from reached(body, case if condition is None else (*case, Guard(condition, holds=True)))


def _blocks(blocks: Sequence[Block | None], guards: Guards) -> Iterator[tuple[Node, Guards]]:
    for block in blocks:
        if block is not None:
            yield from reached(block, guards)


def _expressions(nodes: Sequence[Node | None], guards: Guards) -> Iterator[tuple[Node, Guards]]:
    for node in nodes:
        if node is not None:
            yield from _expression(node, guards)


def _expression(node: Node, guards: Guards) -> Iterator[tuple[Node, Guards]]:
    yield node, guards
    match node:
        case LambdaExpr():
            return
        case OpExpr(op="and" | "or"):
            yield from _expressions([node.left], guards)
            yield from _expressions([node.right], (*guards, Guard(node.left, holds=node.op == "and")))
        case ConditionalExpr():
            yield from _expressions([node.cond], guards)
            yield from _expressions([node.if_expr], (*guards, Guard(node.cond, holds=True)))
            yield from _expressions([node.else_expr], (*guards, Guard(node.cond, holds=False)))
        case GeneratorExpr() | DictionaryComprehension():
            tests = [test for tests in node.condlists for test in tests]
            yield from _expressions(node.sequences, guards)
            guards = (*guards, *(guard for items in node.sequences for guard in _has_items(items)))
            for test in tests:
                yield from _expressions([test], guards)
                guards = (*guards, Guard(test, holds=True))
            made = [node.left_expr] if isinstance(node, GeneratorExpr) else [node.key, node.value]
            yield from _expressions(made, guards)
        case _:
            yield from _expressions(list(children(node)), guards)


def _exits(node: Statement, *, loops: bool = True) -> Iterator[Guard]:
    """Yield the conditions that a statement puts on what follows it."""
    if isinstance(node, IfStmt):
        for test, body in zip_longest(node.expr, [*node.body, node.else_body]):
            if body is not None and _leaves(body, loops=loops):
                # The last one is the `else`: what follows runs if the test before it is true.
                yield Guard(node.expr[-1], holds=True) if test is None else Guard(test, holds=False)
    elif isinstance(node, MatchStmt):
        leaving = [_leaves(body, loops=loops) for body in node.bodies]
        if any(leaving):
            yield Guard(node.subject, holds=not leaving[0])
    for inner in _inner_statements(node):
        yield from _exits(inner, loops=loops and not _is_loop(node))


def _leaves(node: Node, *, loops: bool) -> bool:
    """Return whether a statement may leave the block, so that what follows does not run."""
    if isinstance(node, ReturnStmt) or (loops and isinstance(node, BreakStmt | ContinueStmt)):
        return True
    return any(_leaves(inner, loops=loops and not _is_loop(node)) for inner in _inner_statements(node))


def _is_loop(node: Node) -> bool:
    return isinstance(node, ForStmt | WhileStmt)


def _inner_statements(node: Node) -> Iterator[Statement]:
    if not (is_scope(node) or isinstance(node, Decorator)):
        yield from (child for child in children(node) if isinstance(child, Statement))
