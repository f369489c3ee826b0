"""What becomes of the results of calls."""

from mypy.checker import TypeChecker
from mypy.nodes import GDEF, AssignmentStmt, CallExpr, ExpressionStmt, NameExpr

from d9d.mypy.tree import descend


def is_dropped(call: CallExpr, api: TypeChecker) -> bool:
    """Say whether the result of a call goes nowhere.

    Args:
        call: The call.
        api: What checks the module that it stands in.

    Returns:
        Whether it is a statement of its own, or kept under a local name that nothing reads.
    """
    for node in descend(api.tree):
        if isinstance(node, ExpressionStmt) and node.expr is call:
            return True
        if isinstance(node, AssignmentStmt) and node.rvalue is call:
            return all(isinstance(target, NameExpr) and not _is_read(target, api) for target in node.lvalues)
    return False


def _is_read(target: NameExpr, api: TypeChecker) -> bool:
    """Say whether a name is used anywhere but where it is assigned; one that other modules can see may well be."""
    if target.kind == GDEF:
        return True
    return any(
        isinstance(node, NameExpr) and node is not target and node.node is target.node for node in descend(api.tree)
    )
