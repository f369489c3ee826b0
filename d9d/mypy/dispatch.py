"""What mypy asks the plugin, and the tables that say which check answers."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mypy.options import Options
from mypy.plugin import MethodSigContext, Plugin, ReportConfigContext
from mypy.types import FunctionLike

from d9d.mypy import names
from d9d.mypy.checks import handler
from d9d.mypy.index import Indexes

METHOD_SIGNATURES: Final[dict[str, Callable[[MethodSigContext, Indexes], FunctionLike]]] = {
    names.SUBSCRIPTION_CALL: handler.check_decorated,
    names.EVENT_BUS_SUBSCRIBE: handler.check_subscribed,
}


class D9dPlugin(Plugin):
    """Verifies statically what the Event Bus would refuse, or silently ignore, when the program runs."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._indexes = Indexes()

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        """Return the check of a call."""
        check = METHOD_SIGNATURES.get(fullname)
        return None if check is None else functools.partial(_answer, check, self._indexes)

    def report_config_data(self, ctx: ReportConfigContext) -> Any:
        """Return what, when it changes, makes mypy check a module and its users again.

        The rules belong to the one module that every subscriber imports, and an index to the modules of its catalogue:
        an edit of either leaves the rest of the cache alone.
        """
        if ctx.id == names.EVENT_PACKAGE:
            return digest_of_rules()
        index = self._indexes.beside(ctx.path)
        return index.digest if index.describes(ctx.id) else None


def digest_of_rules() -> str:
    """Return what tells two states of this plugin apart; mypy itself looks at its entry alone."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _answer(
    check: Callable[[MethodSigContext, Indexes], FunctionLike], indexes: Indexes, ctx: MethodSigContext
) -> FunctionLike:
    """Run a check; a fault of its own is told as a note, since it says nothing about the checked code."""
    try:
        return check(ctx, indexes)
    except Exception as error:  # noqa: BLE001 - mypy would stop, and give no result for any file
        ctx.api.msg.note(
            f"d9d.mypy could not check this: {check.__module__}.{check.__name__} raised "
            f"{type(error).__name__}: {error}. Please report it.",
            ctx.context,
        )
        return ctx.default_signature
