"""What mypy asks the plugin, and the tables that say which checks answer."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from mypy.nodes import Context
from mypy.options import Options
from mypy.plugin import (
    ClassDefContext,
    FunctionContext,
    MethodContext,
    MethodSigContext,
    Plugin,
    ReportConfigContext,
)
from mypy.semanal import SemanticAnalyzer
from mypy.types import FunctionLike, Type

from d9d.mypy import handlers, names
from d9d.mypy.checks import handler
from d9d.mypy.class_check import ClassCheck
from d9d.mypy.index import Indexes

TCallContext = TypeVar("TCallContext", MethodContext, FunctionContext)

METHOD_SIGNATURES: Final[dict[str, Callable[[MethodSigContext, Indexes], FunctionLike]]] = {
    names.SUBSCRIPTION_CALL: handler.check_decorated,
    names.EVENT_BUS_SUBSCRIBE: handler.check_subscribed,
}
"""Checks that report in mypy's place, and so say what signature it shall go on with."""

METHODS: Final[dict[str, tuple[Callable[[MethodContext, Indexes], None], ...]]] = {}
"""Checks of calls of methods, after mypy's own."""

FUNCTIONS: Final[dict[str, tuple[Callable[[FunctionContext, Indexes], None], ...]]] = {}
"""Checks of calls of functions and classes, after mypy's own."""

CLASSES: Final[tuple[Callable[[ClassCheck], None], ...]] = ()
"""Checks of class definitions, once all names are bound and before any type is inferred."""

_AFTER_ALL_PATCHES: Final = 100


class D9dPlugin(Plugin):
    """Verifies statically what the Event Bus would refuse, or silently ignore, when the program runs."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._indexes = Indexes()

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        """Return the check that decides on the signature of a call."""
        check = METHOD_SIGNATURES.get(fullname)
        return None if check is None else functools.partial(_answer, check, self._indexes)

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        """Return the checks of a method's call."""
        checks = METHODS.get(fullname)
        return None if checks is None else functools.partial(_observe, checks, self._indexes)

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        """Return the checks of a function's call."""
        checks = FUNCTIONS.get(fullname)
        return None if checks is None else functools.partial(_observe, checks, self._indexes)

    def get_customize_class_mro_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:  # noqa: ARG002 -- mypy passes it
        """Return what has a class checked once its module is bound; no other hook is asked for every class."""
        return self._check_later

    def report_config_data(self, ctx: ReportConfigContext) -> Any:
        """Return what, when it changes, makes mypy check a module and its users again.

        The rules belong to the one module that every subscriber imports, and an index to the modules of its catalogue:
        an edit of either leaves the rest of the cache alone.
        """
        if ctx.id == names.EVENT_PACKAGE:
            return digest_of_rules()
        index = self._indexes.beside(ctx.path)
        return index.digest if index.describes(ctx.id) else None

    def _check_later(self, ctx: ClassDefContext) -> None:
        api, definition = ctx.api, ctx.cls
        if not isinstance(api, SemanticAnalyzer) or api.is_stub_file:
            return
        module, options = api.cur_mod_node, api.options

        def check() -> None:
            with api.file_context(module, options):
                handlers.own_handlers(definition.info)  # remembered, for those who find the class in the cache
                for each in CLASSES:
                    with _CrashTold(each, api.note, definition):
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
    check: Callable[[MethodSigContext, Indexes], FunctionLike], indexes: Indexes, ctx: MethodSigContext
) -> FunctionLike:
    """Run a check that decides on a signature; mypy's own is the answer where there is none."""
    with _CrashTold(check, ctx.api.msg.note, ctx.context):
        return check(ctx, indexes)
    return ctx.default_signature


def _observe(checks: Sequence[Callable[[TCallContext, Indexes], None]], indexes: Indexes, ctx: TCallContext) -> Type:
    """Run checks that leave the type of a call as it is."""
    for check in checks:
        with _CrashTold(check, ctx.api.msg.note, ctx.context):
            check(ctx, indexes)
    return ctx.default_return_type


class _CrashTold:
    """Tells a fault of a check as a note: it says nothing about the checked code, and would stop mypy for all files."""

    def __init__(self, check: Callable[..., object], note: Callable[[str, Context], object], where: Context) -> None:
        self._check = check
        self._note = note
        self._where = where

    def __enter__(self) -> None:
        """Begin to watch the check."""

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> bool:
        """Tell the fault, if there is one."""
        if not isinstance(error, Exception):
            return False
        name = f"{self._check.__module__}.{self._check.__name__}"
        raised = f"{type(error).__name__}: {error}"
        self._note(f"d9d.mypy could not check this: {name} raised {raised}. Please report it.", self._where)
        return True
