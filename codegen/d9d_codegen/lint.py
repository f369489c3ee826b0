"""Every rule that a catalogue has to live up to, and the reading of a catalogue with all of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from d9d_codegen.exemption import Exemptions
from d9d_codegen.load import load
from d9d_codegen.model import Catalogue
from d9d_codegen.problem import Finding, Problem, Problems, RefusedError
from d9d_codegen.reading import Reading
from d9d_codegen.rules import cycles, evolution, ids, importing, names, order, ownership, references, types
from d9d_codegen.source import Source
from d9d_codegen.surroundings import Surroundings

RULES: Final[dict[str, Callable[[Catalogue], Iterator[Finding]]]] = {
    "bad-context": references.bad_context,
    "bad-default": types.bad_default,
    "bad-id": ids.bad_id,
    "bad-name": names.bad_name,
    "bad-package": names.bad_package,
    "bad-type": types.bad_type,
    "crossed-pair": order.crossed_pair,
    "duplicate-id": ids.duplicate_id,
    "duplicate-name": names.duplicate_name,
    "empty-phase": references.empty_phase,
    "foreign-id": ids.foreign_id,
    "half-pair": order.half_pair,
    "hidden-name": types.hidden_name,
    "import-cycle": cycles.import_cycle,
    "less-stable": evolution.less_stable,
    "name-style": names.name_style,
    "not-a-context": importing.not_a_context,
    "owned-namespace": ownership.owned_namespace,
    "owned-package": ownership.owned_package,
    "phase-order": order.phase_order,
    "reserved-name": names.reserved_name,
    "uneven-pair": order.uneven_pair,
    "uneven-replacement": evolution.uneven_replacement,
    "unknown-context": references.unknown_context,
    "unknown-module": importing.unknown_module,
    "unknown-name": types.unknown_name,
    "unknown-phase": references.unknown_phase,
    "unknown-replacement": evolution.unknown_replacement,
    "unknown-type": importing.unknown_type,
    "unreachable-phase": order.unreachable_phase,
    "unused-context": references.unused_context,
}


def examine(path: Path) -> Catalogue:
    """Read a catalogue and hold it against its shape and every rule.

    Raises:
        RefusedError: It has problems; they are in file order.
    """
    return examine_all([path])[0]


def examine_all(paths: Iterable[Path]) -> list[Catalogue]:
    """Read catalogues and hold each against its shape, every rule, and the other catalogues of its project.

    Raises:
        RefusedError: They have problems; those of each catalogue are in file order.
    """
    found: list[Problem] = []
    readings: dict[Path, Reading] = {}
    for path in paths:
        try:
            readings[path] = Reading(path)
        except RefusedError as refused:
            found += refused.problems
    examined = []
    for reading in readings.values():
        catalogue = reading.surrounded(readings)
        if catalogue is not None:
            _hold_to_rules(catalogue, reading.problems)
            examined.append(catalogue)
        found += reading.problems.in_file_order()
    if found:
        raise RefusedError(found)
    return examined


def judge(source: Source, earlier: Sequence[Catalogue] = ()) -> Catalogue:
    """Hold the text of a catalogue against its shape and every rule, beside what is installed here.

    Args:
        source: The text; no file need hold it.
        earlier: Catalogues of the same project.

    Raises:
        RefusedError: It has problems; they are in file order.
    """
    problems = Problems(source)
    catalogue = load(source, problems)
    if catalogue is not None:
        neighbours = [other.as_neighbour for other in earlier]
        around = Surroundings(source.path.parent, catalogue.package, neighbours, neighbours)
        _hold_to_rules(replace(catalogue, surroundings=around), problems)
    if catalogue is None or problems:
        raise RefusedError(problems.in_file_order())
    return catalogue


def _hold_to_rules(catalogue: Catalogue, problems: Problems) -> None:
    exemptions = Exemptions(catalogue.exemptions, RULES)
    for rule, find in RULES.items():
        for finding in find(catalogue):
            if not exemptions.excuse(rule, finding.at):
                problems.add(rule, *finding)
    for finding in exemptions.bad():
        problems.add("bad-exemption", *finding)
    for finding in exemptions.unused():
        problems.add("unused-exemption", *finding)
