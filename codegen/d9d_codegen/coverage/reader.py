"""Finds what files do with events, and holds the order of triggers in each function against the declared one."""

from collections.abc import Iterable

from d9d_codegen.coverage.flow import Flow
from d9d_codegen.coverage.lookup import Lookup
from d9d_codegen.coverage.names import Names
from d9d_codegen.coverage.order import Order
from d9d_codegen.coverage.python_file import PythonFile
from d9d_codegen.coverage.scope import FunctionNode, Scope, Summary
from d9d_codegen.coverage.site import Sites


class Reader:
    """Reads files.

    Args:
        files: The files.
        order: The declared order of events.
        sites: Takes what is found.
    """

    def __init__(self, files: Iterable[PythonFile], order: Order, sites: Sites) -> None:
        self._order = order
        self._sites = sites
        self._summaries: dict[FunctionNode, Summary | None] = {}
        names = Names(files, order.events)
        exported: dict[str, FunctionNode] = {}
        self._lookups = [Lookup(file, names, order, exported) for file in files]
        self._home = {function: lookup for lookup in self._lookups for function in lookup.functions()}
        for lookup in self._lookups:
            for path, function in lookup.exports():
                exported.setdefault(path, function)

    def read(self) -> None:
        """Note everything that the files do with events."""
        for lookup in self._lookups:
            self._flow(lookup, lookup.module).run(lookup.file.tree.body)
        for function in self._home:
            self._summary(function)

    def _summary(self, function: FunctionNode) -> Summary | None:
        """Return what a function does; nothing while that is being found out, as in a recursion."""
        if function not in self._summaries:
            self._summaries[function] = None
            lookup = self._home[function]
            self._summaries[function] = self._flow(lookup, lookup.scope(function)).run(function.body)
        return self._summaries[function]

    def _flow(self, lookup: Lookup, scope: Scope) -> Flow:
        return Flow(scope, lookup, self._summary, self._order, self._sites)
