"""Checks that no code uses what a catalogue deprecates: an event, a context, or a field of one."""

from collections.abc import Iterator

from mypy import errorcodes
from mypy.checker import TypeChecker
from mypy.nodes import AssignmentStmt, Context, FuncDef, Node, RefExpr
from mypy.plugin import AnalyzeTypeContext, AttributeContext
from mypy.semanal import SemanticAnalyzer
from mypy.typeanal import TypeAnalyser

from d9d.mypy.catalogues import Index, Indexes
from d9d.mypy.diagnostics import DEPRECATED, CheckedModule
from d9d.mypy.events import EventName
from d9d.mypy.syntax import descend


def check_names(module: CheckedModule) -> None:
    """Check the names that a module evaluates. An import or a re-export of a name is not a use.

    Args:
        module: The module.
    """
    indexes = module.indexes
    if indexes.next_to(module.tree.path).describes(module.tree.fullname):
        return  # the module of a catalogue, which defines what is deprecated
    for reference in _evaluated(module):
        name = reference.fullname
        index = indexes.that_deprecates(name, module.api.modules)
        if index is not None:
            is_note = module.options.report_deprecated_as_note
            module.report(_message(name, index), reference, DEPRECATED, is_note=is_note)


def check_field(name: str, ctx: AttributeContext, indexes: Indexes) -> None:
    """Check that a deprecated field is not read.

    Args:
        name: The full name of the field.
        ctx: Where it is read.
        indexes: The indexes of all catalogues.
    """
    api = ctx.api
    # mypy has no position to report where it compares a type with a protocol.
    if not isinstance(api, TypeChecker) or ctx.context.line < 0:
        return
    index = indexes.that_deprecates(name, api.modules)
    if index is None or indexes.next_to(api.tree.path).describes(api.tree.fullname):
        return
    # mypy itself reports a field that is an alias of another, which has a decorator for that.
    if name not in index.aliases or not api.errors.is_error_code_enabled(errorcodes.DEPRECATED):
        _report(_message(name, index), ctx.context, api)


def check_type(name: str, ctx: AnalyzeTypeContext, indexes: Indexes) -> None:
    """Check that no annotation names a deprecated context.

    Args:
        name: The full name of the context.
        ctx: Where it is named.
        indexes: The indexes of all catalogues.
    """
    api = ctx.api.api if isinstance(ctx.api, TypeAnalyser) else None
    if not isinstance(api, SemanticAnalyzer):
        return
    index = indexes.that_deprecates(name, api.modules)
    if index is not None and not indexes.next_to(api.cur_mod_node.path).describes(api.cur_mod_id):
        _report(_message(name, index), ctx.context, api)


def _report(message: str, where: Context, api: SemanticAnalyzer | TypeChecker) -> None:
    """Report a use as mypy does for PEP 702: as an error, or as a note if the user has asked for notes."""
    (api.note if api.options.report_deprecated_as_note else api.fail)(message, where, code=DEPRECATED)


def _evaluated(module: CheckedModule) -> Iterator[RefExpr]:
    """Yield the names that a module reads, in code that mypy checks."""

    def enters(node: Node) -> bool:
        return module.options.check_untyped_defs or not (isinstance(node, FuncDef) and node.is_dynamic())

    targets: set[int] = set()
    for node in descend(module.tree, enters):
        if isinstance(node, AssignmentStmt):
            targets.update(map(id, node.lvalues))
        elif isinstance(node, RefExpr) and id(node) not in targets:
            yield node


def _message(name: str, index: Index) -> str:
    """Return what is deprecated, since when, and what to use instead."""
    status = index.deprecated[name]
    entry = index.aliases.get(name) or index.events.get(name) or {}
    owner, _, own_name = name.rpartition(".")
    field_of = f"{owner.rpartition('.')[2]}." if owner in index.contexts else ""
    subject = EventName(own_name, entry.get("id"))
    replacement, note = status.get("replaced_by"), " ".join(str(status.get("note") or "").split())
    remedy = f"use {replacement} instead" if replacement else "there is no replacement"
    return f"{field_of}{subject} is deprecated since {status.get('since')}: {remedy}{f'. {note}' if note else ''}"
