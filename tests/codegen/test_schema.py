"""The JSON Schema, by which editors complete and check a catalogue, agrees with the compiler."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from d9d_codegen.lint import RULES

from .workspace import SMALL, TWO_LOOPS, Workspace

PROJECT = Path(__file__).parents[2]
CASES = Path(__file__).parent
CATALOGUES = [PROJECT / "catalogue.yaml", PROJECT / "examples/subscriber/catalogue.yaml", *CASES.glob("good/*.yaml")]
REJECTED = [
    "bad-id",
    "bad-package",
    "empty-doc",
    "missing-key",
    "unknown-key",
    "unknown-stability",
    "unknown-version",
    "wrong-kind",
]
REFERENCES = ["crossed-pair", "duplicate-id", "half-pair", "unknown-context", "unknown-phase", "unused-context"]


def diagnostics(catalogue: str) -> list[str]:
    """Return where a catalogue differs from the schema, as paths of keys."""
    schema = json.loads((PROJECT / "docs/catalogue.schema.json").read_text(encoding="utf-8"))
    validator: Any = importlib.import_module("jsonschema").Draft202012Validator  # it comes without types
    validator.check_schema(schema)
    errors = validator(schema).iter_errors(yaml.safe_load(catalogue))
    return sorted("/".join(map(str, error.absolute_path)) for error in errors)


def test_the_committed_schema_is_what_the_compiler_prints(empty: Workspace) -> None:
    """`docs/catalogue.schema.json` is the output of `d9d-catalogue schema`."""
    expected = (PROJECT / "docs/catalogue.schema.json").read_text(encoding="utf-8")
    assert empty.run("schema") == (0, expected)


@pytest.mark.parametrize("path", CATALOGUES[:2], ids=["d9d", "subscriber"])
def test_the_first_line_of_a_catalogue_names_the_schema(path: Path) -> None:
    """Editors find the schema from the catalogue itself."""
    head, _, named = path.read_text(encoding="utf-8").partition("\n")[0].partition("$schema=")
    assert head == "# yaml-language-server: "
    assert (path.parent / named).resolve() == PROJECT / "docs/catalogue.schema.json"


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_good_catalogues_are_valid(path: Path) -> None:
    """What the compiler accepts, the schema accepts."""
    assert diagnostics(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("case", REJECTED)
def test_bad_catalogues_are_invalid_where_a_schema_can_tell(case: str) -> None:
    """Unknown and missing keys, wrong kinds and misspelt ids are shown while one types."""
    assert diagnostics((CASES / "bad" / f"{case}.yaml").read_text(encoding="utf-8")) != []


@pytest.mark.parametrize("case", REFERENCES)
def test_what_entries_say_of_each_other_is_left_to_the_compiler(case: str) -> None:
    """No schema can follow a name."""
    assert case in RULES
    assert diagnostics((CASES / "bad" / f"{case}.yaml").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("right", "wrong", "place"),
    [
        ("id: sale.opened", "id: Sale", "modules/sale/events/EVENT_SALE_OPENED/id"),
        ("phase: opening", "phase: [opening]", "modules/sale/events/EVENT_SALE_OPENED/phase"),
        ("repeats: true", "repeats: often", "modules/sale/phases/serving/repeats"),
        ("type: int, ", "", "modules/common/contexts/EventStepContext/fields/step"),
        ("type: int", "typ: int", "modules/common/contexts/EventStepContext/fields/step"),
        ("      opening:", "      Opening!:", "modules/sale/phases"),
    ],
)
def test_the_position_of_an_error_is_known(right: str, wrong: str, place: str) -> None:
    """Each error is shown at the entry that contains it."""
    assert place in diagnostics(SMALL.replace(right, wrong, 1))


def test_every_key_has_a_description() -> None:
    """Editors have something to show wherever one points."""

    def undescribed(entry: dict[str, Any], path: str) -> list[str]:
        found = [] if "description" in entry else [path]
        for name, child in entry.get("properties", {}).items():
            found += undescribed(child, f"{path}/{name}")
        inner = entry.get("additionalProperties")
        return found + (undescribed({"description": "", **inner}, f"{path}/*") if inner else [])

    assert undescribed(json.loads((PROJECT / "docs/catalogue.schema.json").read_text(encoding="utf-8")), "") == []


def test_a_catalogue_of_two_loops_is_valid() -> None:
    """Any number of modules may follow each other."""
    assert diagnostics(TWO_LOOPS) == []
