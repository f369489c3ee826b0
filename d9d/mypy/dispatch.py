"""The plugin's hooks, and the tables that say which checks mypy's questions lead to."""

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from mypy.checker import TypeChecker
from mypy.checker_state import checker_state
from mypy.errorcodes import ErrorCode
from mypy.nodes import GDEF, FuncBase, Import, MypyFile, SymbolTableNode, Var
from mypy.options import Options
from mypy.plugin import (
    AnalyzeTypeContext,
    AttributeContext,
    ClassDefContext,
    FunctionContext,
    FunctionSigContext,
    MethodContext,
    MethodSigContext,
    Plugin,
    ReportConfigContext,
)
from mypy.semanal import SemanticAnalyzer
from mypy.server.trigger import make_trigger
from mypy.typeanal import TypeAnalyser
from mypy.types import FunctionLike, Type

from d9d.mypy import diagnostics, names
from d9d.mypy.catalogues import Indexes
from d9d.mypy.checks import (
    context,
    deprecated,
    event_id,
    filters,
    handler,
    index,
    registration,
)
from d9d.mypy.diagnostics import CheckedClass, CheckedModule, run_check
from d9d.mypy.program import ProgramFindings, absolute
from d9d_check.report import Diagnostic
from d9d_check.store import digest_of_checker

_SignatureCheck: TypeAlias = Callable[[MethodSigContext, Indexes], FunctionLike]

SIGNATURES: Final[dict[str, _SignatureCheck]] = {
    names.SUBSCRIBE_DECORATOR_CALL: handler.check_decorated,
    names.EVENT_BUS_SUBSCRIBE: handler.check_subscribed,
    names.EVENT_BUS_TRIGGER: context.check_triggered,
    names.EVENT_BUS_BOUNDED: context.check_triggered,
    names.EMITTER_CALL: context.check_emitted,
}
"""Checks of the arguments of a method, before mypy's own. They return the signature with which mypy continues."""

CALLS: Final[dict[str, Callable[[MethodContext, Indexes], None]]] = {
    names.EVENT_BUS_SUBSCRIBE: filters.check_filter,
}
"""Checks of the call of a method, after mypy's own."""

FUNCTIONS: Final[dict[str, tuple[Callable[[FunctionContext, Indexes], None], ...]]] = {
    names.EVENT: (event_id.check_event,),
    names.SUBSCRIBE: (handler.check_bare, filters.check_filter),
}
"""Checks of the call of a function or a class, after mypy's own."""

MODULES: Final[tuple[tuple[ErrorCode, Callable[[CheckedModule], None]], ...]] = (
    (diagnostics.DEPRECATED, deprecated.check_names),
    (diagnostics.INDEX, index.check_index),
)
"""Checks of whole modules, once all names are bound."""

_AFTER_ALL_PATCHES: Final = 100


class D9dPlugin(Plugin):
    """Verifies statically what the Event Bus would refuse, or silently ignore, when the program runs."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._program = ProgramFindings(options)
        self._indexes = Indexes(lambda: self._program.catalogues)
        self._modules_seen = _ModuleWatch(self._check_module, self._program)
        self._resumed = ""

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        """Return the check of a method's arguments."""
        self._modules_seen.asked()
        check = SIGNATURES.get(fullname)
        return None if check is None else functools.partial(self._check_signature, check)

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        """Return the checks of a method's call."""
        check = CALLS.get(fullname)
        return None if check is None else functools.partial(self._check_call, check)

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        """Return the check of a call of a function or a class."""
        checks = FUNCTIONS.get(fullname)
        return None if checks is None else functools.partial(self._check_function, checks)

    def get_function_signature_hook(self, fullname: str) -> Callable[[FunctionSigContext], FunctionLike] | None:
        """Return the check of the arguments of a function."""
        self._modules_seen.asked()
        return self._check_event if fullname == names.SUBSCRIBE else None

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        """Return the check of an attribute that a catalogue deprecates."""
        self._modules_seen.asked()
        return functools.partial(self._check_field, fullname) if self._is_deprecated(fullname) else None

    def get_type_analyze_hook(self, fullname: str) -> Callable[[AnalyzeTypeContext], Type] | None:
        """Return the check of an annotation that names what a catalogue deprecates."""
        if fullname == self._resumed:
            self._resumed = ""
            return None
        return functools.partial(self._check_type, fullname) if self._is_deprecated(fullname) else None

    def get_customize_class_mro_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:  # noqa: ARG002 -- mypy passes it
        """Return what schedules the checks of a class; mypy calls no other hook for every class."""
        return self._check_class_later

    def get_additional_deps(self, file: MypyFile) -> list[tuple[int, str, int]]:
        """Read the program again if the file was edited since, and have mypy's daemon check again what that concerns.

        The daemon checks again what depends on a name that has changed. So the edited module gets a name that is new.
        """
        concerned = self._program.refresh(file.path, self._indexes.forget)
        others = {name for name, module in (self._modules or {}).items() if absolute(module.path) in concerned}
        if others:
            name = f"__d9d_{self._program.generation}__"
            variable = Var(name)
            variable._fullname = f"{file.fullname}.{name}"  # noqa: SLF001 -- mypy's own plugins set it, too
            file.names[name] = SymbolTableNode(GDEF, variable, module_public=False, plugin_generated=True)
            file.plugin_deps.setdefault(make_trigger(variable.fullname), set()).update(others - {file.fullname})
        return []

    def report_config_data(self, ctx: ReportConfigContext) -> Any:
        """Return data that makes mypy check a module and its users again when it changes.

        The rules and the owners of namespaces count for two packages, one of which every subscriber imports. An index
        counts for the modules of its catalogue, and what is found in the whole program for the module where it is. So
        an edit of any of them leaves the rest of the cache valid.
        """
        if ctx.id in names.EVENT_PACKAGES:
            return [digest_of_rules(), dict(self._indexes.owners)]
        found = self._indexes.next_to(ctx.path)
        data = found.digest if found.describes(ctx.id) else self._indexes.problem_next_to(ctx.path)
        findings = self._program.in_file(ctx.path)
        return [data, *([each.line, each.code, each.message] for each in findings)] if findings else data

    def _check_signature(self, check: _SignatureCheck, ctx: MethodSigContext) -> FunctionLike:
        return run_check(ctx.api.msg.note, ctx.context, check, ctx, self._indexes) or ctx.default_signature

    def _check_call(self, check: Callable[[MethodContext, Indexes], None], ctx: MethodContext) -> Type:
        run_check(ctx.api.msg.note, ctx.context, check, ctx, self._indexes)
        return ctx.default_return_type

    def _check_function(
        self, checks: tuple[Callable[[FunctionContext, Indexes], None], ...], ctx: FunctionContext
    ) -> Type:
        for check in checks:
            run_check(ctx.api.msg.note, ctx.context, check, ctx, self._indexes)
        return ctx.default_return_type

    def _check_event(self, ctx: FunctionSigContext) -> FunctionLike:
        return run_check(ctx.api.msg.note, ctx.context, handler.check_event, ctx, self._indexes) or (
            ctx.default_signature
        )

    def _is_deprecated(self, fullname: str) -> bool:
        return self._indexes.that_deprecates(fullname, self._modules or {}) is not None

    def _check_field(self, fullname: str, ctx: AttributeContext) -> Type:
        run_check(ctx.api.msg.note, ctx.context, deprecated.check_field, fullname, ctx, self._indexes)
        return ctx.default_attr_type

    def _check_type(self, fullname: str, ctx: AnalyzeTypeContext) -> Type:
        if isinstance(ctx.api, TypeAnalyser):
            run_check(ctx.api.note, ctx.context, deprecated.check_type, fullname, ctx, self._indexes)
        self._resumed = fullname  # mypy calls the hook again for the type that it now analyses itself
        return ctx.api.analyze_type(ctx.type)

    def _check_module(self, tree: MypyFile, options: Options, api: SemanticAnalyzer | TypeChecker) -> None:
        module = CheckedModule(tree, options, api, self._indexes)
        if self._program.problem and _uses_events(tree):
            api.note(self._program.problem, tree)
            self._program.problem = ""  # once is enough
        for code, check in MODULES:
            if api.errors.is_error_code_enabled(code):
                run_check(api.note, tree, check, module)

    def _check_class_later(self, ctx: ClassDefContext) -> None:
        api, definition = ctx.api, ctx.cls
        if not isinstance(api, SemanticAnalyzer):
            return
        self._modules_seen.class_seen(api)
        if not registration.is_registering(definition.info):
            return
        module, options, around = api.cur_mod_node, api.options, api.scope.function

        def check_class() -> None:
            with api.file_context(module, options), _within(around, api):
                if api.errors.is_error_code_enabled(diagnostics.UNTYPED_HANDLER):
                    checked = CheckedClass(definition.info, api, self._indexes)
                    run_check(api.note, definition, registration.check_annotated, checked)

        api.schedule_patch(_AFTER_ALL_PATCHES, check_class)


class _ModuleWatch:
    """Has each module checked as a whole. mypy has no hook for that, so any hook that it calls in the module serves.

    These are the hooks for each class while names are bound, and for each call and each attribute while types are
    inferred. A module without any of these, which only imports or renames, is not checked.

    Args:
        check: Checks a module. It may be called again for the same module.
        program: What is found in the whole program.
    """

    def __init__(
        self, check: Callable[[MypyFile, Options, SemanticAnalyzer | TypeChecker], None], program: ProgramFindings
    ) -> None:
        self._check = check
        self._program = program
        self._scheduled: set[str] = set()
        self._last: object = None
        self._generation = -1
        self._findings: list[Diagnostic] = []
        self._reports: tuple[object, object] = (None, None)

    def class_seen(self, api: SemanticAnalyzer) -> None:
        """Check the module whose names are being bound after that."""
        tree, options = api.cur_mod_node, api.options
        if tree.fullname in self._scheduled or _is_muted(tree, api):
            return
        self._scheduled.add(tree.fullname)

        def check() -> None:
            self._scheduled.discard(tree.fullname)
            self._last = tree
            with api.file_context(tree, options):
                self._check(tree, options, api)

        api.schedule_patch(_AFTER_ALL_PATCHES, check)

    def asked(self) -> None:
        """Check the module whose types are being inferred, unless that is done; mypy asks very often."""
        api = checker_state.type_checker
        if api is not self._last and isinstance(api, TypeChecker):
            is_checked = api.tree is self._last
            self._last, self._generation = api, -1
            if not is_checked and not _is_muted(api.tree, api):
                self._check(api.tree, api.options, api)
        if isinstance(api, TypeChecker):
            if self._generation != self._program.generation:
                self._findings = self._enabled(api)
            if self._findings:
                self._report(api)

    def _enabled(self, api: TypeChecker) -> list[Diagnostic]:
        """Return what the program's check has found in a module, as far as mypy is to report it."""
        self._generation, self._reports = self._program.generation, (None, None)
        if _is_muted(api.tree, api):
            return []
        found = self._program.in_file(api.path)
        return [each for each in found if api.errors.is_error_code_enabled(diagnostics.CODES[each.code])]

    def _report(self, api: TypeChecker) -> None:
        """Report what is found in a module, unless mypy's errors still hold it: the daemon drops and keeps some."""
        errors = api.errors
        if self._reports[0] is errors.error_info_map and self._reports[1] is errors.error_info_map.get(api.path):
            return
        watchers = errors._watchers  # noqa: SLF001 -- mypy may be trying something out, and would drop the reports
        set_aside = list(watchers)
        watchers.clear()
        # The reports belong to the module and not to the function that happens to be checked.
        errors.set_file(api.path, api.tree.fullname, api.options)
        try:
            for each in self._findings:
                errors.report(
                    each.line,
                    each.column - 1,
                    each.message,
                    diagnostics.CODES[each.code],
                    severity=each.severity,
                    end_line=each.end_line,
                    end_column=each.end_column - 1,
                )
        finally:
            errors.set_file(api.path, api.tree.fullname, api.options, scope=api.tscope)
            watchers.extend(set_aside)
        self._reports = (errors.error_info_map, errors.error_info_map.get(api.path))


@functools.cache
def digest_of_rules() -> str:
    """Return a hash of the sources of the plugin and of `d9d check`, for which it reports.

    mypy itself only looks at the entry file. The hash is computed once per process, for the sources that the process
    has imported.
    """
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    own = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return own + digest_of_checker()


def _uses_events(tree: MypyFile) -> bool:
    """Return whether a module imports d9d, so that mypy checks it again when the plugin has changed."""
    names_of = (each.ids if isinstance(each, Import) else [(getattr(each, "id", ""), None)] for each in tree.imports)
    return any(name.partition(".")[0] == "d9d" for ids in names_of for name, _ in ids)


def _is_muted(tree: MypyFile, api: SemanticAnalyzer | TypeChecker) -> bool:
    """Return whether mypy reports nothing in a module, as in installed packages."""
    return api.options.ignore_errors or tree.path in api.errors.ignored_files


def _within(function: FuncBase | None, api: SemanticAnalyzer) -> contextlib.AbstractContextManager[None]:
    """Return a block whose errors belong to a function: the daemon keeps them until it checks the function again."""
    return contextlib.nullcontext() if function is None else api.scope.function_scope(function)
