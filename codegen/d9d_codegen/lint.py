"""Lint."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from d9d_codegen.catalogue import Catalogue, Suppression, load
from d9d_codegen.diagnostic import Diagnostic, DiagnosticError, Diagnostics, Source, Span, Text, Violation, suggestion
from d9d_codegen.project import find_project
from d9d_codegen.read import read
from d9d_codegen.resolve import Environment
from d9d_codegen.rules import deprecation, names, order, references, types


class Reading:
    """A catalogue as far as it can be read.

    Attributes:
        path: The catalogue's path, as the user named it.
        diagnostics: What is wrong with it.
        catalogue: Its model; nothing where the text is no readable YAML.
    """

    def __init__(self, path: Path) -> None:
        """Read the catalogue.

        Raises:
            DiagnosticError: There is no text to read.
        """
        source = read(path)
        self.path = path
        self.diagnostics = Diagnostics(source)
        self.catalogue = load(source, self.diagnostics)

    def in_environment(self, readings: Mapping[Path, "Reading"]) -> Catalogue | None:
        """Return the model with what lies around it.

        Args:
            readings: The catalogues that are read already, by their paths.

        Raises:
            DiagnosticError: The project cannot be read.
        """
        if self.catalogue is None:
            return None
        project = find_project(self.path)
        neighbours, earlier, is_past = [], [], False
        for path in project.catalogues:
            if path.absolute() == self.path.absolute():
                is_past = True
                continue
            neighbour = _model(path, readings)
            if neighbour is not None:
                neighbours.append(neighbour.as_sibling)
                earlier += [] if is_past else [neighbour.as_sibling]
        around = Environment(project.root, self.catalogue.package, neighbours, earlier)
        return replace(self.catalogue, environment=around)


def _model(path: Path, readings: Mapping[Path, Reading]) -> Catalogue | None:
    """Return another catalogue of the project; nothing where it cannot be read, which is told when it is examined."""
    if path in readings:
        return readings[path].catalogue
    with suppress(DiagnosticError):
        return Reading(path).catalogue
    return None


# The rules that are about taste, tidiness and promises. Without any other one the generated code would not work, a run
# would have no order, or two catalogues would claim one name.
SUPPRESSIBLE: Final = frozenset({"empty-phase", "half-pair", "less-stable", "name-style", "unused-context"})


class _Nest:
    """The suppressions from one rule; of two entries one lies within the other, or they share no place."""

    def __init__(self, suppressions: Iterable[Suppression]) -> None:
        by_start = {suppression.start: suppression for suppression in reversed([*suppressions])}
        self._starts = sorted(by_start)
        self._around: dict[tuple[int, int], Suppression | None] = {}
        self._by_start = by_start
        around: list[Suppression] = []
        for start in self._starts:
            while around and around[-1].end <= start:
                around.pop()
            self._around[start] = around[-1] if around else None
            around.append(by_start[start])

    def innermost(self, place: Span) -> Suppression | None:
        """Return the suppression of the smallest entry around a place, if there is one."""
        at = bisect_right(self._starts, (place.line, place.column))
        suppression = self._by_start[self._starts[at - 1]] if at else None
        while suppression and not suppression.covers(place):
            suppression = self._around[suppression.start]
        return suppression


class Suppressions:
    """The suppressions of one catalogue.

    Args:
        suppressions: As declared.
        rules: The names of all rules.
    """

    def __init__(self, suppressions: Collection[Suppression], rules: Collection[str]) -> None:
        self._suppressions = suppressions
        self._rules = rules
        self._used: set[Span] = set()
        self._nests = {rule: _Nest(each for each in suppressions if each.rule == rule) for rule in SUPPRESSIBLE}

    def excuse(self, rule: str, at: Text | Span) -> bool:
        """Return whether a rule may find something at a place; the innermost entry that allows it is the one used."""
        if rule not in SUPPRESSIBLE:
            return False
        place = at.span if isinstance(at, Text) else at
        innermost = self._nests[rule].innermost(place)
        if innermost is None:
            return False
        self._used.add(innermost.rule.span)
        return True

    def bad(self) -> Iterator[Violation]:
        """Yield the suppressions from what is no rule, and from rules without which nothing would work."""
        for suppression in self._suppressions:
            if suppression.rule in SUPPRESSIBLE:
                continue
            message = f'{suppression.owner} is exempted from "{suppression.rule}", which is no rule'
            remedy = suggestion(suppression.rule, SUPPRESSIBLE, f"name one of {', '.join(sorted(SUPPRESSIBLE))}")
            if suppression.rule in self._rules:
                message = f'nothing can be exempted from "{suppression.rule}": what is generated rests on it'
                remedy = "take it out, and mend what the rule finds"
            yield Violation(suppression.rule, message, remedy)

    def unused(self) -> Iterator[Violation]:
        """Yield the suppressions from rules that find nothing in the entry anyway; to be asked last."""
        for suppression in self._suppressions:
            if suppression.rule in SUPPRESSIBLE and suppression.rule.span not in self._used:
                message = f'{suppression.owner} is exempted from "{suppression.rule}", which finds nothing in it'
                yield Violation(suppression.rule, message, "take the suppression out")


RULES: Final[dict[str, Callable[[Catalogue], Iterator[Violation]]]] = {
    "bad-context": references.bad_context,
    "bad-default": types.bad_default,
    "bad-id": names.bad_id,
    "bad-name": names.bad_name,
    "bad-package": names.bad_package,
    "bad-type": types.bad_type,
    "crossed-pair": order.crossed_pair,
    "duplicate-id": names.duplicate_id,
    "duplicate-name": names.duplicate_name,
    "empty-phase": references.empty_phase,
    "foreign-id": names.foreign_id,
    "half-pair": order.half_pair,
    "hidden-name": types.hidden_name,
    "import-cycle": references.import_cycle,
    "less-stable": deprecation.less_stable,
    "name-style": names.name_style,
    "not-a-context": types.not_a_context,
    "owned-namespace": names.owned_namespace,
    "owned-package": names.owned_package,
    "phase-order": order.phase_order,
    "reserved-name": names.reserved_name,
    "uneven-pair": order.uneven_pair,
    "uneven-replacement": deprecation.uneven_replacement,
    "unknown-context": references.unknown_context,
    "unknown-module": types.unknown_module,
    "unknown-name": types.unknown_name,
    "unknown-phase": references.unknown_phase,
    "unknown-replacement": deprecation.unknown_replacement,
    "unknown-type": types.unknown_type,
    "unreachable-phase": order.unreachable_phase,
    "unused-context": references.unused_context,
}


def lint_file(path: Path) -> Catalogue:
    """Read a catalogue and hold it against its shape and every rule.

    Raises:
        DiagnosticError: It has diagnostics; they are in file order.
    """
    return lint_all([path])[0]


def lint_all(paths: Iterable[Path]) -> list[Catalogue]:
    """Read catalogues and hold each against its shape, every rule, and the other catalogues of its project.

    Raises:
        DiagnosticError: They have diagnostics; those of each catalogue are in file order.
    """
    found: list[Diagnostic] = []
    readings: dict[Path, Reading] = {}
    for path in paths:
        try:
            readings[path] = Reading(path)
        except DiagnosticError as refused:
            found += refused.diagnostics
    examined = []
    for reading in readings.values():
        catalogue = reading.in_environment(readings)
        if catalogue is not None:
            _hold_to_rules(catalogue, reading.diagnostics)
            examined.append(catalogue)
        found += reading.diagnostics.in_file_order()
    if found:
        raise DiagnosticError(found)
    return examined


def lint_text(source: Source, earlier: Sequence[Catalogue] = ()) -> Catalogue:
    """Hold the text of a catalogue against its shape and every rule, beside what is installed here.

    Args:
        source: The text; no file need hold it.
        earlier: Catalogues of the same project.

    Raises:
        DiagnosticError: It has diagnostics; they are in file order.
    """
    diagnostics = Diagnostics(source)
    catalogue = load(source, diagnostics)
    if catalogue is not None:
        neighbours = [other.as_sibling for other in earlier]
        around = Environment(source.path.parent, catalogue.package, neighbours, neighbours)
        _hold_to_rules(replace(catalogue, environment=around), diagnostics)
    if catalogue is None or diagnostics:
        raise DiagnosticError(diagnostics.in_file_order())
    return catalogue


def _hold_to_rules(catalogue: Catalogue, diagnostics: Diagnostics) -> None:
    suppressions = Suppressions(catalogue.suppressions, RULES)
    for rule, find in RULES.items():
        for violation in find(catalogue):
            if not suppressions.excuse(rule, violation.at):
                diagnostics.add(rule, *violation)
    for violation in suppressions.bad():
        diagnostics.add("bad-suppression", *violation)
    for violation in suppressions.unused():
        diagnostics.add("unused-suppression", *violation)
