"""Every rule that a catalogue has to live up to, and the reading of a catalogue with all of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from d9d_codegen.exemption import Exemptions
from d9d_codegen.load import load, read
from d9d_codegen.model import Catalogue
from d9d_codegen.problem import Finding, Problems, RefusedError
from d9d_codegen.rules import cycles, evolution, ids, names, order, references, types
from d9d_codegen.source import Source

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
    "phase-order": order.phase_order,
    "reserved-name": names.reserved_name,
    "uneven-pair": order.uneven_pair,
    "uneven-replacement": evolution.uneven_replacement,
    "unknown-context": references.unknown_context,
    "unknown-name": types.unknown_name,
    "unknown-phase": references.unknown_phase,
    "unknown-replacement": evolution.unknown_replacement,
    "unreachable-phase": order.unreachable_phase,
    "unused-context": references.unused_context,
}


def examine(path: Path) -> Catalogue:
    """Reads a catalogue and holds it against its shape and every rule.

    Raises:
        RefusedError: It has problems; they are in file order.
    """
    return judge(read(path))


def judge(source: Source) -> Catalogue:
    """Holds the text of a catalogue against its shape and every rule.

    Raises:
        RefusedError: It has problems; they are in file order.
    """
    problems = Problems(source)
    catalogue = load(source, problems)
    if catalogue is not None:
        exemptions = Exemptions(catalogue.exemptions, RULES)
        for rule, find in RULES.items():
            for finding in find(catalogue):
                if not exemptions.excuse(rule, finding.at):
                    problems.add(rule, *finding)
        for finding in exemptions.bad():
            problems.add("bad-exemption", *finding)
        for finding in exemptions.unused():
            problems.add("unused-exemption", *finding)
    if catalogue is None or problems:
        raise RefusedError(problems.in_file_order())
    return catalogue
