"""Checks that nobody uses what a catalogue deprecates: an event, a context, or a field of one."""

from collections.abc import Iterator

from mypy import errorcodes
from mypy.checker import TypeChecker
from mypy.nodes import AssignmentStmt, Context, FuncDef, Node, RefExpr
from mypy.plugin import AnalyzeTypeContext, AttributeContext
from mypy.semanal import SemanticAnalyzer
from mypy.typeanal import TypeAnalyser

from d9d.mypy import errors
from d9d.mypy.errors import Mistake
from d9d.mypy.events import EventName
from d9d.mypy.index import Index, Indexes
from d9d.mypy.module_check import ModuleCheck
from d9d.mypy.tree import descend


def check_names(module: ModuleCheck, indexes: Indexes) -> None:
    """Check the names that a module evaluates. To import one, or to hand it on, is no use of it yet.

    Args:
        module: The module.
        indexes: The indexes of all catalogues.
    """
    if indexes.beside(module.tree.path).describes(module.tree.fullname):
        return  # generated, with what is deprecated in it
    for reference in _evaluated(module):
        name = reference.fullname
        index = indexes.that_deprecates(name, module.api.modules)
        if index is not None:
            is_note = module.options.report_deprecated_as_note
            module.report(_deprecated(name, index), reference, is_note=is_note)


def check_field(name: str, ctx: AttributeContext, indexes: Indexes) -> None:
    """Check that a deprecated field is not read.

    Args:
        name: The full name of the field.
        ctx: Where it is read.
        indexes: The indexes of all catalogues.
    """
    api = ctx.api
    # mypy has no place to show where it compares the type with a protocol.
    if not isinstance(api, TypeChecker) or ctx.context.line < 0:
        return
    index = indexes.that_deprecates(name, api.modules)
    if index is None or indexes.beside(api.tree.path).describes(api.tree.fullname):
        return
    # A field that is but another name of one is marked as mypy knows it.
    if name not in index.aliases or not api.errors.is_error_code_enabled(errorcodes.DEPRECATED):
        _report(_deprecated(name, index), ctx.context, api)


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
    if index is not None and not indexes.beside(api.cur_mod_node.path).describes(api.cur_mod_id):
        _report(_deprecated(name, index), ctx.context, api)


def _report(mistake: Mistake, where: Context, api: SemanticAnalyzer | TypeChecker) -> None:
    """Report a use as mypy reports those of what PEP 702 marks: as a note, where its user wants no more."""
    (api.note if api.options.report_deprecated_as_note else api.fail)(mistake.message, where, code=mistake.code)


def _evaluated(module: ModuleCheck) -> Iterator[RefExpr]:
    """Yield the names in a module that mypy checks, but for those that are assigned to."""

    def enters(node: Node) -> bool:
        return module.options.check_untyped_defs or not (isinstance(node, FuncDef) and node.is_dynamic())

    targets: set[int] = set()
    for node in descend(module.tree, enters):
        if isinstance(node, AssignmentStmt):
            targets.update(map(id, node.lvalues))
        elif isinstance(node, RefExpr) and id(node) not in targets:
            yield node


def _deprecated(name: str, index: Index) -> Mistake:
    """Say that something will go, and what to use instead."""
    status = index.deprecated[name]
    entry = index.aliases.get(name) or index.events.get(name) or {}
    owner, _, own_name = name.rpartition(".")
    field_of = f"{owner.rpartition('.')[2]}." if owner in index.contexts else ""
    subject = EventName(own_name, entry.get("id"))
    replacement, note = status.get("replaced_by"), " ".join(str(status.get("note") or "").split())
    remedy = f"use {replacement} instead" if replacement else "nothing replaces it"
    return Mistake(
        errors.DEPRECATED,
        f"{field_of}{subject} is deprecated since {status.get('since')}: {remedy}{f'. {note}' if note else ''}",
    )
