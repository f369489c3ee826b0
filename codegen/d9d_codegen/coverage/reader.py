"""Finds what a file does with events, and holds the order of triggers in each function against the declared one."""

from d9d_codegen.coverage.flow import Flow
from d9d_codegen.coverage.lookup import Lookup
from d9d_codegen.coverage.names import Names
from d9d_codegen.coverage.order import Order
from d9d_codegen.coverage.python_file import PythonFile
from d9d_codegen.coverage.scope import FunctionNode, Scope, Summary
from d9d_codegen.coverage.site import Sites


class Reader:
    """Reads one file.

    Args:
        file: The file.
        names: What the names of all files stand for.
        order: The declared order of events.
        sites: Takes what is found.
    """

    def __init__(self, file: PythonFile, names: Names, order: Order, sites: Sites) -> None:
        self._file = file
        self._order = order
        self._sites = sites
        self._lookup = Lookup(file, names, order)
        self._summaries: dict[FunctionNode, Summary | None] = {}

    def read(self) -> None:
        """Note everything that the file does with events."""
        self._flow(self._lookup.module).run(self._file.tree.body)
        for function in self._lookup.functions():
            self._summary(function)

    def _summary(self, function: FunctionNode) -> Summary | None:
        """Return what a function does; nothing while that is being found out, as in a recursion."""
        if function not in self._summaries:
            self._summaries[function] = None
            self._summaries[function] = self._flow(self._lookup.scope(function)).run(function.body)
        return self._summaries[function]

    def _flow(self, scope: Scope) -> Flow:
        return Flow(scope, self._lookup, self._summary, self._order, self._sites)
