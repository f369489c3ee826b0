"""What a check of a whole module is given, and when it is run: mypy has no hook for a module."""

import dataclasses
from collections.abc import Callable
from typing import Final

from mypy.checker import TypeChecker
from mypy.checker_state import checker_state
from mypy.nodes import Context, MypyFile
from mypy.options import Options
from mypy.semanal import SemanticAnalyzer

from d9d.mypy.errors import Mistake

_AFTER_ALL_PATCHES: Final = 100


@dataclasses.dataclass(frozen=True)
class ModuleCheck:
    """A module whose names are bound, all bodies of its functions included.

    Attributes:
        tree: The module.
        options: What the user wants mypy to do in it.
        api: The pass of mypy that is at work; it knows all modules.
    """

    tree: MypyFile
    options: Options
    api: SemanticAnalyzer | TypeChecker

    def report(self, mistake: Mistake, where: Context, *, is_note: bool) -> None:
        """Report a mistake at a line of the module, as an error or as a note; of equal reports mypy shows one."""
        watchers = self.api.errors._watchers  # noqa: SLF001 -- mypy may be trying something out, and would drop the report
        set_aside = list(watchers)
        watchers.clear()
        try:
            (self.api.note if is_note else self.api.fail)(mistake.message, where, code=mistake.code)
        finally:
            watchers.extend(set_aside)


class ModuleWatch:
    """Has each module checked as a whole, at whatever mypy asks of the plugin in it.

    That is about each class while names are bound, and about each call and each attribute while types are inferred. A
    module that has nothing of the kind, but lists or renames what it imports, goes unchecked.
    """

    def __init__(self, run: Callable[[ModuleCheck], None]) -> None:
        """Construct a watch.

        Args:
            run: What checks a module. It may be run again on the same one.
        """
        self._run = run
        self._scheduled: set[str] = set()
        self._last: object = None

    def class_seen(self, api: SemanticAnalyzer) -> None:
        """Have the module that is being bound checked after that."""
        tree, options = api.cur_mod_node, api.options
        if tree.fullname in self._scheduled or _is_muted(tree, api):
            return
        self._scheduled.add(tree.fullname)

        def check() -> None:
            self._scheduled.discard(tree.fullname)
            self._last = tree
            with api.file_context(tree, options):
                self._run(ModuleCheck(tree, options, api))

        api.schedule_patch(_AFTER_ALL_PATCHES, check)

    def asked(self) -> None:
        """Check the module whose types are being inferred, unless that is done: mypy asks very often."""
        api = checker_state.type_checker
        if api is self._last or not isinstance(api, TypeChecker) or api.tree is self._last:
            return
        self._last = api
        if not _is_muted(api.tree, api):
            self._run(ModuleCheck(api.tree, api.options, api))


def _is_muted(tree: MypyFile, api: SemanticAnalyzer | TypeChecker) -> bool:
    """Say whether mypy reports nothing in a module, as in all that is installed."""
    return api.options.ignore_errors or tree.path in api.errors.ignored_files
