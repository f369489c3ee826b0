"""Checks that the catalogues whose events a module imports have an index."""

from mypy.nodes import Import, ImportAll, ImportFrom

from d9d.mypy.diagnostics import INDEX, CheckedModule


def check_index(check: CheckedModule) -> None:
    """Check the catalogues of the modules that a module imports, as far as the project or a distribution names them.

    Without its index, much of what events promise cannot be verified.

    Args:
        check: The module.
    """
    for node in check.tree.imports:
        if isinstance(node, Import):
            imported = [name for name, _ in node.ids]
        elif isinstance(node, ImportFrom | ImportAll):
            imported = [node.id]
        else:
            continue
        known = [check.api.modules[name] for name in imported if name in check.api.modules]
        for problem in {check.indexes.problem_next_to(module.path) for module in known} - {None}:
            check.report(str(problem), node, INDEX, is_note=False)
