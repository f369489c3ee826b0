"""What mypy asks the plugin, and the tables that say which checks answer."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from mypy.nodes import FuncBase
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
from mypy.typeanal import TypeAnalyser
from mypy.types import FunctionLike, Type

from d9d.mypy import attributes, facts, handlers, names, uses
from d9d.mypy.bodies import of_decorated, of_subscribed
from d9d.mypy.checks import (
    collective,
    context,
    deprecated,
    dropped,
    emitter,
    event_id,
    handler,
    host_sync,
    order,
    pair,
    scope,
    unregistered,
)
from d9d.mypy.class_check import ClassCheck
from d9d.mypy.crash import CrashTold
from d9d.mypy.index import Indexes
from d9d.mypy.installation import project_folders
from d9d.mypy.module_check import ModuleCheck, ModuleWatch

TCallContext = TypeVar("TCallContext", MethodContext, FunctionContext)

METHOD_SIGNATURES: Final[dict[str, Callable[[MethodSigContext, Indexes], FunctionLike]]] = {
    names.SUBSCRIPTION_CALL: handler.check_decorated,
    names.EVENT_BUS_SUBSCRIBE: handler.check_subscribed,
    names.EVENT_BUS_TRIGGER: context.check_triggered,
    names.EVENT_BUS_BOUNDED: pair.check_sides,
}
"""Checks that report in mypy's place, and so say what signature it shall go on with."""

BESIDE_SIGNATURES: Final[dict[str, tuple[Callable[[MethodSigContext, Indexes], None], ...]]] = {
    names.SUBSCRIPTION_CALL: (of_decorated(host_sync.check_host_sync), of_decorated(collective.check_collectives)),
}
"""Checks beside those, which say nothing about the signature; mypy mutes what is reported of an overload later on."""

METHODS: Final[dict[str, tuple[Callable[[MethodContext, Indexes], None], ...]]] = {
    names.EVENT_BUS_BOUNDED: (pair.check_block,),
    names.EVENT_BUS_EMITTER: (emitter.check_use,),
    names.EVENT_BUS_SUBSCRIBE: (of_subscribed(host_sync.check_host_sync), of_subscribed(collective.check_collectives)),
}
"""Checks of calls of methods, after mypy's own."""

FUNCTIONS: Final[dict[str, tuple[Callable[[FunctionContext, Indexes], None], ...]]] = {
    names.EVENT: (event_id.check_event,),
}
"""Checks of calls of functions and classes, after mypy's own."""

CLASSES: Final[tuple[Callable[[ClassCheck], None], ...]] = (
    scope.check_scope,
    unregistered.check_unregistered,
    dropped.check_dropped,
    order.check_order,
)
"""Checks of class definitions, once all names are bound and before any type is inferred."""

MODULES: Final[tuple[Callable[[ModuleCheck, Indexes], None], ...]] = (deprecated.check_names,)
"""Checks of whole modules, once all names are bound."""

_AFTER_ALL_PATCHES: Final = 100


class D9dPlugin(Plugin):
    """Verifies statically what the Event Bus would refuse, or silently ignore, when the program runs."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._indexes = Indexes(project_folders(options))
        self._watch = ModuleWatch(self._check_module)
        self._resumed = ""

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        """Return the check that decides on the signature of a call."""
        self._watch.asked()
        check = METHOD_SIGNATURES.get(fullname)
        beside = BESIDE_SIGNATURES.get(fullname, ())
        return None if check is None else functools.partial(_answer, check, beside, self._indexes)

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        """Return the checks of a method's call."""
        checks = METHODS.get(fullname)
        return None if checks is None else functools.partial(_observe, checks, self._indexes)

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        """Return the checks of a function's call."""
        checks = FUNCTIONS.get(fullname)
        return None if checks is None else functools.partial(_observe, checks, self._indexes)

    def get_function_signature_hook(self, fullname: str) -> Callable[[FunctionSigContext], FunctionLike] | None:  # noqa: ARG002 -- mypy passes it
        """Return nothing; mypy asks for each call of a function."""
        self._watch.asked()
        return None

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        """Return the check of an attribute that a catalogue deprecates."""
        self._watch.asked()
        return functools.partial(self._check_field, fullname) if self._is_deprecated(fullname) else None

    def get_type_analyze_hook(self, fullname: str) -> Callable[[AnalyzeTypeContext], Type] | None:
        """Return the check of an annotation that names what a catalogue deprecates."""
        if fullname == self._resumed:
            self._resumed = ""
            return None
        return functools.partial(self._check_type, fullname) if self._is_deprecated(fullname) else None

    def get_customize_class_mro_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:  # noqa: ARG002 -- mypy passes it
        """Return what has a class checked once its module is bound; no other hook is asked for every class."""
        return self._check_later

    def report_config_data(self, ctx: ReportConfigContext) -> Any:
        """Return what, when it changes, makes mypy check a module and its users again.

        The rules, and who owns which namespace, belong to the one module that every subscriber imports, and an index to
        the modules of its catalogue: an edit of any of them leaves the rest of the cache alone.
        """
        if ctx.id == names.EVENT_PACKAGE:
            return [digest_of_rules(), dict(self._indexes.owners)]
        index = self._indexes.beside(ctx.path)
        return index.digest if index.describes(ctx.id) else None

    def _is_deprecated(self, fullname: str) -> bool:
        return self._indexes.that_deprecates(fullname, self._modules or {}) is not None

    def _check_field(self, fullname: str, ctx: AttributeContext) -> Type:
        with CrashTold(deprecated.check_field, ctx.api.msg.note, ctx.context):
            deprecated.check_field(fullname, ctx, self._indexes)
        return ctx.default_attr_type

    def _check_type(self, fullname: str, ctx: AnalyzeTypeContext) -> Type:
        if isinstance(ctx.api, TypeAnalyser):
            with CrashTold(deprecated.check_type, ctx.api.note, ctx.context):
                deprecated.check_type(fullname, ctx, self._indexes)
        self._resumed = fullname  # mypy asks again for what it now analyses by itself
        return ctx.api.analyze_type(ctx.type)

    def _check_module(self, module: ModuleCheck) -> None:
        for each in MODULES:
            with CrashTold(each, module.api.note, module.tree):
                each(module, self._indexes)

    def _check_later(self, ctx: ClassDefContext) -> None:
        api, definition = ctx.api, ctx.cls
        if not isinstance(api, SemanticAnalyzer):
            return
        self._watch.class_seen(api)
        if api.is_stub_file:
            return
        module, options, around = api.cur_mod_node, api.options, api.scope.function

        def check() -> None:
            with api.file_context(module, options), _within(around, api):
                # Remembered, for those who find the class in the cache.
                handlers.own_handlers(definition.info)
                uses.own_uses(definition.info)
                attributes.own_assigned(definition.info)
                attributes.own_mentioned(definition.info)
                module.module_refs.update(handlers.modules_behind(definition.info))
                facts.publish(definition.info, api.named_type("builtins.str"))
                for trigger in facts.triggers(definition.info):
                    api.add_plugin_dependency(trigger, module.fullname)
                for each in CLASSES:
                    with CrashTold(each, api.note, definition):
                        each(ClassCheck(definition.info, api, self._indexes))

        api.schedule_patch(_AFTER_ALL_PATCHES, check)


@functools.cache
def digest_of_rules() -> str:
    """Return what tells two states of this plugin apart; mypy itself looks at its entry alone.

    It is that of the sources when the process first asked, which are those that it has imported.
    """
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _answer(
    check: Callable[[MethodSigContext, Indexes], FunctionLike],
    beside: Sequence[Callable[[MethodSigContext, Indexes], None]],
    indexes: Indexes,
    ctx: MethodSigContext,
) -> FunctionLike:
    """Run a check that decides on a signature, and those beside it; mypy's own is the answer where there is none."""
    for other in beside:
        with CrashTold(other, ctx.api.msg.note, ctx.context):
            other(ctx, indexes)
    with CrashTold(check, ctx.api.msg.note, ctx.context):
        return check(ctx, indexes)
    return ctx.default_signature


def _observe(checks: Sequence[Callable[[TCallContext, Indexes], None]], indexes: Indexes, ctx: TCallContext) -> Type:
    """Run checks that leave the type of a call as it is."""
    for check in checks:
        with CrashTold(check, ctx.api.msg.note, ctx.context):
            check(ctx, indexes)
    return ctx.default_return_type


def _within(function: FuncBase | None, api: SemanticAnalyzer) -> contextlib.AbstractContextManager[None]:
    """Return a block whose errors are those of a function: the daemon keeps them until that is checked again."""
    return contextlib.nullcontext() if function is None else api.scope.function_scope(function)
