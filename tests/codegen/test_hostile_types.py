"""Whatever types and names a catalogue has: if `lint` accepts it, its modules import with the declared fields."""

import importlib
import json
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d9d_codegen.imported import differences
from d9d_codegen.lint import lint_file
from d9d_codegen.verify import declared_types

from .workspace import Workspace

MODULES = {
    "hostile/__init__.py": "import typing\nfrom .inner import *\nfrom . import names\n",
    "hostile/inner.py": (
        "import dataclasses\nimport typing\n"
        "from dataclasses import InitVar as Made\nfrom typing import ClassVar as Kept\n"
        "from typing import TYPE_CHECKING, Generic, TypeVar\n\nT = TypeVar('T')\nSpecial = typing.ClassVar\n"
        "Again = Special\nMarker = dataclasses.KW_ONLY\nAlias = dict[str, int]\n\n\nclass Plain: ...\n\n\n"
        "class Box(Generic[T]):\n    class Inner: ...\n\n\nclass Gone: ...\n\n\ndel Gone\n\n"
        "if TYPE_CHECKING:\n    class Unseen: ...\n"
    ),
    "hostile/names.py": (
        "class Event: ...\n\n\nclass Final: ...\n\n\nclass deprecated: ...\n\n\nclass dataclasses: ...\n\n\n"
        "class EventOwnContext: ...\n\n\nclass Any: ...\n\n\nclass list: ...\n\n\nclass ElementTree: ...\n"
    ),
    "hostile/stub.py": "class Real: ...\n",
    "hostile/stub.pyi": "class Real: ...\n\n\nclass Fake: ...\n",
    "hostile/only.pyi": "class Only: ...\n",
    "hostile/renamed.py": (
        "from .inner import Kept as Held\nfrom . import inner\nimport hostile.inner as other\n\n"
        "Stored = inner.Made\nShown = Stored\nFar = other.Special\n"
    ),
    "hostile/lazy.py": (
        "def __getattr__(name):\n    if name == 'Late':\n        return int\n    raise AttributeError(name)\n"
    ),
    "hostile/Capital.py": "class Inside: ...\n",
}
TYPES = [
    "int", "None", "object", "type", "type[int]", "list", "list[int]", "dict[str, list[int]]", "tuple[()]",
    "tuple[int, ...]", "int | None", "None | int", "None | None", "int[str]", "list[int, str]", "dict[int]",
    "set[frozenset[bytes]]", "typing.Any", "typing.Optional", "typing.Optional[int]", "typing.Optional[int, str]",
    "typing.Union[int, None]", "typing.Union", "typing.List[int]", "typing.Dict[int]", "typing.Callable[[int], str]",
    "typing.Callable[int]", "collections.abc.Callable[..., int]", "collections.abc.Callable[int]",
    "collections.abc.Sequence[int]", "typing.Literal['a', 1, None]", "typing.Literal['typing.ClassVar']",
    "typing.Annotated[int, 'ClassVar']", "typing.Annotated[int]", "typing.Generic", "typing.Generic[int]",
    "typing.Protocol", "typing.Self", "typing.NoReturn", "typing.ClassVar", "typing.ClassVar[int]",
    "list[typing.ClassVar[int]]", "typing.Final", "typing.Final[int]", "typing.Required[int]", "typing.TypeVar",
    "typing.NamedTuple", "typing.TypedDict", "typing.Unpack[tuple[int]]", "dataclasses.InitVar",
    "dataclasses.InitVar[int]", "dataclasses.KW_ONLY", "dataclasses.Field", "dataclasses.MISSING", "'ClassVar[int]'",
    "'int'", "ClassVar", "InitVar[int]", "KW_ONLY", "hostile.Kept[int]", "hostile.Made[int]", "hostile.Special[int]",
    "hostile.Again", "hostile.inner.Again[int]", "hostile.inner.Marker", "hostile.Alias", "hostile.Plain",
    "hostile.inner.Plain | None", "hostile.Box[int]", "hostile.Box.Inner", "hostile.Gone", "hostile.Unseen",
    "hostile.stub.Real", "hostile.stub.Fake", "hostile.only.Only", "hostile.renamed.Held[int]",
    "hostile.renamed.Stored[int]", "hostile.renamed.Shown[int]", "hostile.renamed.Far[int]", "hostile.renamed.Held",
    "hostile.lazy.Late", "hostile.Capital.Inside", "hostile.names.Event", "hostile.names.Final",
    "hostile.names.deprecated", "hostile.names.dataclasses", "hostile.names.EventOwnContext", "hostile.names.Any",
    "hostile.names.list", "hostile.names.ElementTree", "hostile.names.Event | hostile.names.Any",
    "xml.etree.ElementTree.Element", "os.PathLike[str]", "os.getcwd", "os.getcwd | None", "os.environ",
    "decimal.Decimal", "decimal.localcontext.Inner", "datetime.datetime", "datetime.datetime.max", "pathlib.Path",
    "re.Pattern[str]", "EventOwnContext", "list[EventOwnContext]", "EventOwnContext | None", "EventLaterContext",
    "dict[str, EventLaterContext]", "EventLaterContext[int]", "hostile.events.common.EventLaterContext",
]  # fmt: skip
NAMES = [
    "a", "b", "c", "int", "list", "dict", "set", "tuple", "frozenset", "type", "object", "dataclasses", "typing",
    "hostile", "field", "self", "cls", "property", "deprecated", "d9d", "annotations", "os", "decimal", "xml", "none",
    "name",
]  # fmt: skip
DEFAULTS = [None, None, None, "1", "None", "[]", "{}", "set()", "()", "[set()]", "(set(), [])", "{1: {2}}", "'text'"]
FIELDS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(TYPES), st.sampled_from(DEFAULTS)),
    min_size=1,
    max_size=6,
    unique_by=lambda field: field[0],
)
HEAD = """\
version: 1
package: hostile_events.made
modules:
  common:
    doc: Contexts.
    contexts:
      EventOwnContext:
        doc: A context with fields.
        fields:
"""
TAIL = """\
      EventLaterContext: {doc: A later one.}
  loop:
    doc: A loop.
    phases: {step: {doc: A step.}}
    events:
      EVENT_LOOP_STEPPED: {id: loop.stepped, phase: step, context: EventOwnContext, doc: A step was made.}
      EVENT_LOOP_LATE: {id: loop.late, phase: step, context: EventLaterContext, doc: It was late.}
"""


def catalogue(fields: list[tuple[str, str, str | None]]) -> str:
    """Return a catalogue with the fields, a line each."""
    lines = [
        f"          {name}: {{type: {json.dumps(kind)}, doc: x{f', default: {json.dumps(value)}' if value else ''}}}\n"
        for name, kind, value in fields
    ]
    return HEAD + ("".join(lines) or "          only: {type: int, doc: x}\n") + TAIL


def import_what_lint_accepts(workspace: Workspace, fields: list[tuple[str, str, str | None]]) -> None:
    """Take out the fields that `lint` refuses, generate the rest, and compare it with what is imported."""
    while True:
        workspace.write(catalogue(fields))
        status, output = workspace.run("lint", "--format", "json")
        if status == 0:
            break
        lines = {diagnostic["line"] - 1 - HEAD.count("\n") for diagnostic in json.loads(output)}
        assert lines & {*range(len(fields))}, output
        fields = [field for at, field in enumerate(fields) if at not in lines]
    assert workspace.run("generate")[0] == 0
    for name in [name for name in sys.modules if name.partition(".")[0] == "hostile_events"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    checked = lint_file(workspace.root / "catalogue.yaml")
    declared = {f"{checked.package}.{module.name}": declared_types(checked, module) for module in checked.modules}
    names = {name for name, _, _ in fields} or {"only"}
    assert declared["hostile_events.made.common"]["EventOwnContext"].keys() == names
    assert list(differences(declared)) == [], fields


@pytest.fixture
def hostile(empty: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A project with modules that look like something else."""
    for path, text in MODULES.items():
        empty.write(text, path)
    monkeypatch.syspath_prepend(empty.root)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # modules of one name change within a second
    for name in [name for name in sys.modules if name.partition(".")[0] in ("hostile", "hostile_events")]:
        monkeypatch.delitem(sys.modules, name)
    return empty


def test_each_type_alone(hostile: Workspace) -> None:
    """Every type of the list, ten fields at a time."""
    for start in range(0, len(TYPES), 10):
        import_what_lint_accepts(hostile, [(f"f{at}", kind, None) for at, kind in enumerate(TYPES[start : start + 10])])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(FIELDS)
def test_a_catalogue_that_lint_accepts_imports_as_declared(
    hostile: Workspace, fields: list[tuple[str, str, str | None]]
) -> None:
    """Types, names and defaults in any combination."""
    import_what_lint_accepts(hostile, fields)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(FIELDS)
def test_hundreds_of_catalogues_that_lint_accepts_import_as_declared(
    hostile: Workspace, fields: list[tuple[str, str, str | None]]
) -> None:
    """The same, far more often."""
    import_what_lint_accepts(hostile, fields)
