"""The rules of a catalogue, which of them are suppressed where, and the check of catalogues against all of them."""

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
        path: The catalogue's path, as the user wrote it.
        diagnostics: What is wrong with it.
        catalogue: Its model; None where the text is not readable YAML.
    """

    def __init__(self, path: Path) -> None:
        """Read the catalogue.

        Raises:
            DiagnosticError: The file cannot be read.
        """
        source = read(path)
        self.path = path
        self.diagnostics = Diagnostics(source)
        self.catalogue = load(source, self.diagnostics)

    def in_environment(self, readings: Mapping[Path, "Reading"]) -> Catalogue | None:
        """Return the model with its environment.

        Args:
            readings: The catalogues that are already read, by path.

        Raises:
            DiagnosticError: The project's settings cannot be read.
        """
        if self.catalogue is None:
            return None
        project = find_project(self.path)
        siblings, earlier, is_past = [], [], False
        for path in project.catalogues:
            if path.absolute() == self.path.absolute():
                is_past = True
                continue
            other = _model(path, readings)
            if other is not None:
                siblings.append(other.as_sibling)
                earlier += [] if is_past else [other.as_sibling]
        environment = Environment(project.root, self.catalogue.package, siblings, earlier)
        return replace(self.catalogue, environment=environment)


def _model(path: Path, readings: Mapping[Path, Reading]) -> Catalogue | None:
    """Return another catalogue of the project; None where it cannot be read, which is reported on its own."""
    if path in readings:
        return readings[path].catalogue
    with suppress(DiagnosticError):
        return Reading(path).catalogue
    return None


# These rules are about style, tidiness and promises. Every other rule protects the generated code, the order of a run,
# or the ownership of a name.
SUPPRESSIBLE: Final = frozenset({"empty-phase", "half-pair", "less-stable", "name-style", "unused-context"})


class _SuppressionTree:
    """The suppressions of one rule. Entries nest: two of them share no position, or one contains the other."""

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

    def innermost(self, position: Span) -> Suppression | None:
        """Return the suppression of the smallest entry around a position, if there is one."""
        at = bisect_right(self._starts, (position.line, position.column))
        suppression = self._by_start[self._starts[at - 1]] if at else None
        while suppression and not suppression.covers(position):
            suppression = self._around[suppression.start]
        return suppression


class Suppressions:
    """The suppressions of one catalogue.

    Args:
        suppressions: As declared.
    """

    def __init__(self, suppressions: Collection[Suppression]) -> None:
        self._suppressions = suppressions
        self._used: set[Span] = set()
        self._trees = {
            rule: _SuppressionTree(each for each in suppressions if each.rule == rule) for rule in SUPPRESSIBLE
        }

    def covers(self, rule: str, at: Text | Span) -> bool:
        """Return whether a rule is suppressed at a position, and note that the innermost suppression is used."""
        if rule not in SUPPRESSIBLE:
            return False
        innermost = self._trees[rule].innermost(at.span if isinstance(at, Text) else at)
        if innermost is None:
            return False
        self._used.add(innermost.rule.span)
        return True

    def invalid(self) -> Iterator[Violation]:
        """Yield the suppressions of unknown rules, and of rules that cannot be suppressed."""
        for suppression in self._suppressions:
            if suppression.rule in SUPPRESSIBLE:
                continue
            message = f'{suppression.owner} suppresses "{suppression.rule}", which is not a rule'
            remedy = suggestion(suppression.rule, SUPPRESSIBLE, f"name one of {', '.join(sorted(SUPPRESSIBLE))}")
            if suppression.rule in RULES:
                message = f'the rule "{suppression.rule}" cannot be suppressed: the generated code depends on it'
                remedy = "remove it, and fix what the rule reports"
            yield Violation(suppression.rule, message, remedy)

    def unused(self) -> Iterator[Violation]:
        """Yield the suppressions that suppress nothing; call it last."""
        for suppression in self._suppressions:
            if suppression.rule in SUPPRESSIBLE and suppression.rule.span not in self._used:
                message = f'{suppression.owner} suppresses "{suppression.rule}", which reports nothing in it'
                yield Violation(suppression.rule, message, "remove the suppression")


RULES: Final[dict[str, Callable[[Catalogue], Iterator[Violation]]]] = {
    "bad-bracket": order.bad_bracket,
    "bad-context": references.bad_context,
    "bad-default": types.bad_default,
    "bad-id": names.bad_id,
    "bad-name": names.bad_name,
    "bad-package": names.bad_package,
    "bad-type": types.bad_type,
    "conflicting-flags": order.conflicting_flags,
    "crossed-pair": order.crossed_pair,
    "device-type": types.device_type,
    "duplicate-id": names.duplicate_id,
    "duplicate-name": names.duplicate_name,
    "empty-phase": references.empty_phase,
    "foreign-id": names.foreign_id,
    "half-pair": order.half_pair,
    "shadowed-name": types.shadowed_name,
    "import-cycle": references.import_cycle,
    "less-stable": deprecation.less_stable,
    "name-style": names.name_style,
    "not-a-context": types.not_a_context,
    "owned-namespace": names.owned_namespace,
    "owned-package": names.owned_package,
    "phase-order": order.phase_order,
    "reserved-name": names.reserved_name,
    "mismatched-pair": order.mismatched_pair,
    "incompatible-replacement": deprecation.incompatible_replacement,
    "unknown-context": references.unknown_context,
    "unknown-event": references.unknown_event,
    "unknown-module": types.unknown_module,
    "unknown-name": types.unknown_name,
    "unknown-phase": references.unknown_phase,
    "unknown-replacement": deprecation.unknown_replacement,
    "unknown-type": types.unknown_type,
    "unreachable-event": order.unreachable_event,
    "unreachable-phase": order.unreachable_phase,
    "unusable-type": types.unusable_type,
    "unused-context": references.unused_context,
}


def lint_file(path: Path) -> Catalogue:
    """Read one catalogue and check it against every rule.

    Raises:
        DiagnosticError: It is not valid; the diagnostics are in file order.
    """
    return lint_all([path])[0]


def lint_all(paths: Iterable[Path]) -> list[Catalogue]:
    """Read catalogues and check each against every rule and the other catalogues of its project.

    Raises:
        DiagnosticError: They are not valid; the diagnostics of each catalogue are in file order.
    """
    found: list[Diagnostic] = []
    readings: dict[Path, Reading] = {}
    for path in paths:
        try:
            readings[path] = Reading(path)
        except DiagnosticError as error:
            found += error.diagnostics
    linted = []
    for reading in readings.values():
        catalogue = reading.in_environment(readings)
        if catalogue is not None:
            _apply_rules(catalogue, reading.diagnostics)
            linted.append(catalogue)
        found += reading.diagnostics.in_file_order()
    if found:
        raise DiagnosticError(found)
    return linted


def lint_text(source: Source, earlier: Sequence[Catalogue] = ()) -> Catalogue:
    """Check the text of a catalogue against every rule, in the environment of the current Python.

    Args:
        source: The text; it need not be in a file.
        earlier: Other catalogues of the same project, named before it.

    Raises:
        DiagnosticError: It is not valid; the diagnostics are in file order.
    """
    diagnostics = Diagnostics(source)
    catalogue = load(source, diagnostics)
    if catalogue is not None:
        siblings = [other.as_sibling for other in earlier]
        environment = Environment(source.path.parent, catalogue.package, siblings, siblings)
        _apply_rules(replace(catalogue, environment=environment), diagnostics)
    if catalogue is None or diagnostics:
        raise DiagnosticError(diagnostics.in_file_order())
    return catalogue


def _apply_rules(catalogue: Catalogue, diagnostics: Diagnostics) -> None:
    suppressions = Suppressions(catalogue.suppressions)
    for rule, find in RULES.items():
        for violation in find(catalogue):
            if not suppressions.covers(rule, violation.at):
                diagnostics.add(rule, *violation)
    for violation in suppressions.invalid():
        diagnostics.add("bad-suppression", *violation)
    for violation in suppressions.unused():
        diagnostics.add("unused-suppression", *violation)
