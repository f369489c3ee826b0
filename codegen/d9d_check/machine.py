"""What the parts of the interpreter use of each other: the interpreter as its helpers see it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from d9d_check.catalogues import Catalogues
from d9d_check.facts import Facts, Frame, Watcher
from d9d_check.lower import Node
from d9d_check.values import Container, Scope, Site, Value, Values


class Machine(Protocol):
    """Runs a program.

    Attributes:
        facts: What it has found.
        catalogues: The declared events.
        watcher: What rules want to see.
    """

    facts: Facts
    catalogues: Catalogues
    watcher: Watcher

    def module_keys(self) -> list[str]:
        """Return the keys of the modules that can be run."""

    def run_module(self, key: str) -> Scope:
        """Run a module, if it has not been run, and return its names."""

    def lookup(self, name: str, scope: Scope) -> Values:
        """Return what a name stands for."""

    def annotated(self, annotation: Node | None, scope: Scope) -> Values:
        """Return what an annotation describes."""

    def get_attribute(self, owner: Value, name: str, frame: Frame, site: Site) -> Values:
        """Return what an attribute stands for."""

    def set_attribute(self, owner: Value, name: str, values: Values, frame: Frame, site: Site) -> None:
        """Assign an attribute."""

    def call_all(
        self, callees: Values, arguments: list[Values], named: Mapping[str, Values], frame: Frame, site: Site
    ) -> Values:
        """Call each of the values that a callee may stand for."""

    def call_special(
        self, values: Values, names: Sequence[str], arguments: list[Values], frame: Frame, site: Site
    ) -> Values:
        """Call the first of some special methods that the class of each object has, as Python does by itself."""

    def new_container(self, kind: str, site: Site, frame: Frame, items: Sequence[Values], rest: Values) -> Values:
        """Return a new container."""

    def add_to(self, container: Container, values: Values) -> None:
        """Add what some items of a container may be."""

    def forget(self, container: Container) -> None:
        """Forget what the items of a container are; their number stays."""

    def elements(self, values: Values) -> Values:
        """Return what the items of containers may be; nothing where that is not known."""

    def iterated(self, source: Values) -> list[Values]:
        """Return the items of an iterable one by one, or all of them as one where they are not known."""

    def keep(self, owner: Value, name: str, values: Values) -> None:
        """Add what is assigned to an attribute or a key."""

    def all_kept(self, owner: Value) -> dict[str, Values]:
        """Return everything that has been assigned to attributes or keys."""

    def kept(self, owner: Value, name: str) -> Values:
        """Return what has been assigned to an attribute or a key."""

    def escape(self, value: Value, frame: Frame) -> None:
        """Record that a value leaves the program: code that is not in view may do anything with it."""

    def escape_all(self, values: Iterable[Value], frame: Frame) -> None:
        """Record that values leave the program."""
