"""The generated Python: what it looks like, that tools accept it as it is, and that it works."""

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import typing
from pathlib import Path
from types import ModuleType

import pytest

from d9d.loop.event import Event

from .workspace import SMALL, Workspace

GOOD = Path(__file__).parent / "good"
PROJECT = Path(__file__).parents[2]
CASES = sorted(path.stem for path in GOOD.glob("*.yaml"))
LINE_LENGTH = "\n[tool.ruff]\nline-length = 120\n"
OTHER = (
    '"""A module of somebody else."""\n\n\n'
    'class Path:\n    """A path."""\n\n\n'
    'class ForeignContext:\n    """A context of another catalogue."""\n'
)


def generate(case: str, workspace: Workspace) -> None:
    """Compile `good/CASE.yaml` in a project whose lines are as long as those of this one."""
    shutil.copy(GOOD / f"{case}.yaml", workspace.root)
    workspace.write(OTHER, "other.py")
    workspace.write('[tool.d9d]\ndocs = "docs/events"\n' + LINE_LENGTH, "pyproject.toml")
    assert workspace.run("generate", "--catalogue", f"{case}.yaml") == (0, "wrote 7 of 7 files\n")


def imported(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, *names: str) -> list[ModuleType]:
    """Import generated modules afresh."""
    monkeypatch.syspath_prepend(workspace.root)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("awkward", "renamed", "shop", "other")]:
        monkeypatch.delitem(sys.modules, name)
    return [importlib.import_module(name) for name in names]


@pytest.mark.parametrize("case", CASES)
def test_every_output_is_exactly_as_expected(empty: Workspace, case: str) -> None:
    """`good/NAME.yaml` becomes the files in `good/NAME/`; Python has `.txt` appended there, to keep tools away."""
    generate(case, empty)
    written = {path: content for path, content in empty.files().items() if path.startswith((case, "docs"))}
    del written[f"{case}.yaml"]
    expected = {
        path.relative_to(GOOD / case).as_posix().removesuffix(".txt"): path.read_bytes()
        for path in (GOOD / case).rglob("*.*")
    }
    assert written == expected


@pytest.mark.parametrize("case", CASES)
def test_generated_modules_please_the_formatter_and_the_linter(empty: Workspace, case: str) -> None:
    """Generated modules pass ruff with the settings of this project, as they are."""
    generate(case, empty)
    shutil.copy(PROJECT / "pyproject.toml", empty.root)
    (empty.root / "other.py").unlink()  # not part of this project, so a module must not find it in its folder
    for command in (["format", "--check"], ["check"]):
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", case], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr


def test_generated_modules_please_a_strict_type_checker(empty: Workspace) -> None:
    """Generated modules pass `mypy --strict`, as they are."""
    empty.write(OTHER, "other.py")
    for case in CASES:
        shutil.copy(GOOD / f"{case}.yaml", empty.root)
        empty.run("generate", "--catalogue", f"{case}.yaml")
    # The types of torch take long to read, and none of these modules needs them: mypy reaches them through d9d.
    options = ["--strict", "--explicit-package-bases", "--no-site-packages", "--follow-imports=silent"]
    command = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir=/dev/null", *options, *CASES]
    environment = {**os.environ, "MYPYPATH": f"{PROJECT}:."}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.startswith("Success: no issues found in 9 source files"), result.stdout


def test_lines_are_as_long_as_the_project_wants_them(small: Workspace) -> None:
    """Docstrings are wrapped at ruff's line length, by default 88."""
    words = "word " * 30
    small.write(SMALL.replace("Triggered when the door opens.", words))
    for settings, length in (("", 88), ("\n[tool.ruff]\nline-length = 60\n", 60)):
        small.write(settings, "pyproject.toml")
        small.run("generate")
        longest = max(len(line) for line in small.read("shop/events/sale.py").splitlines() if "word" in line)
        assert length - len("word ") <= longest <= length


def test_modules_go_below_src_where_the_project_has_one(small: Workspace) -> None:
    """A package that is not below the root goes below `src`, if there is such a folder."""
    (small.root / "src").mkdir()
    small.run("generate")
    assert (small.root / "src/shop/events/sale.py").is_file()
    assert not (small.root / "shop").exists()


def test_constants_are_events_with_the_declared_ids(empty: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each constant is an event of the bus."""
    generate("shop", empty)
    (sale,) = imported(empty, monkeypatch, "shop.events.sale")
    assert isinstance(sale.EVENT_SALE_OPENED, Event)
    assert sale.EVENT_SALE_OPENED.id == "sale.opened"
    assert sale.EVENT_SALE_CUSTOMER_POST.id == "sale.customer.post"


def test_contexts_are_frozen_and_take_keywords_only(empty: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context takes keywords, has new defaults for each instance, and cannot be changed."""
    generate("shop", empty)
    (sale,) = imported(empty, monkeypatch, "shop.events.sale")
    till = sale.EventTillContext()
    assert (till.total, till.notes, till.sum) == (None, [], 0)
    assert sale.EventTillContext().notes is not till.notes
    with pytest.raises(dataclasses.FrozenInstanceError):
        till.sum = 1
    with pytest.raises(TypeError, match="positional argument"):
        sale.EventTillContext(None)


def test_contexts_of_common_are_exported_by_the_modules_that_use_them(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that a handler needs can be imported from one module."""
    generate("shop", empty)
    common, sale = imported(empty, monkeypatch, "shop.events.common", "shop.events.sale")
    assert "EventStepContext" in sale.__all__
    assert sale.EventStepContext is common.EventStepContext
    assert all(hasattr(sale, name) for name in sale.__all__)


def test_types_can_be_resolved_at_run_time(empty: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """`typing.get_type_hints` works on every context, even one that names itself or a later one."""
    generate("awkward", empty)
    (common,) = imported(empty, monkeypatch, "awkward.events.common")
    hints = typing.get_type_hints(common.Forward)
    assert hints["own"] == common.Forward | None
    assert typing.get_args(hints["later"]) == (common.Later,)
    assert hints["path"].__module__ == "other"
    assert hints["literal"] == typing.Literal["a", "b'", -1]


def test_the_index_says_what_a_type_checker_needs(small: Workspace) -> None:
    """`index.json` lists events in the order of the loop, with their contexts and pairs, and the contexts' fields."""
    small.run("generate")
    index = json.loads(small.read("shop/events/index.json"))
    assert (index["version"], index["package"]) == (1, "shop.events")
    assert list(index["events"]) == [
        "shop.events.sale.EVENT_SALE_OPENED",
        "shop.events.sale.EVENT_SALE_CUSTOMER_PRE",
        "shop.events.sale.EVENT_SALE_CUSTOMER_POST",
        "shop.events.sale.EVENT_SALE_CLOSED",
    ]
    assert index["events"]["shop.events.sale.EVENT_SALE_CUSTOMER_PRE"] == {
        "id": "sale.customer.pre",
        "module": "sale",
        "phase": "serving",
        "context": "shop.events.common.EventStepContext",
        "pair": "shop.events.sale.EVENT_SALE_CUSTOMER_POST",
        "repeats": False,
        "optional": False,
        "in_step": False,
    }
    assert index["contexts"]["shop.events.common.EventStepContext"] == {"fields": {"step": "int"}}
    assert index["modules"]["sale"]["phases"][1] == {
        "name": "serving",
        "repeats": True,
        "optional": True,
        "anytime": False,
        "terminal": False,
    }


def test_a_module_that_looks_like_a_class_is_imported_whole(small: Workspace) -> None:
    """Where its name clashes with that of a class, `import` names the module itself, not its package alone."""
    small.write("class ElementTree: ...\n", "other.py")
    fields = "step: {type: xml.etree.ElementTree.Element, doc: x}\n          two: {type: other.ElementTree, doc: x}"
    small.write(SMALL.replace("step: {type: int, doc: The step's index.}", fields))
    small.run("generate")
    text = small.read("shop/events/common.py")
    assert "import xml.etree\nimport xml.etree.ElementTree\n" in text
    assert "    step: xml.etree.ElementTree.Element\n    two: other.ElementTree\n" in text


IN_STEPS = """\
version: 1
package: shop.events
modules:
  sale:
    doc: Events of a sale.
    phases:
      opening: {doc: The shop opens.}
      serving: {doc: A customer is served., repeats: true, optional: true}
      between: {doc: Between two customers., around: serving, repeats: true, any_order: true}
    contexts:
      EventCountedContext:
        doc: Context of a counted moment.
        fields: {stepper: {type: d9d.core.stepper.Stepper, doc: The customers.}}
      EventBareContext: {doc: Context without a stepper.}
    events:
      EVENT_SALE_OPENED: {id: sale.opened, phase: opening, context: EventCountedContext, doc: Triggered at first.}
      EVENT_SALE_WAITED: {id: sale.waited, phase: serving, context: EventCountedContext, doc: Triggered before.}
      EVENT_SALE_PRE: {id: sale.customer.pre, phase: serving, context: EventCountedContext, doc: Triggered then.}
      EVENT_SALE_PAID: {id: sale.paid, phase: serving, context: EventCountedContext, doc: Triggered in it.}
      EVENT_SALE_TOLD: {id: sale.told, phase: serving, context: EventBareContext, doc: Triggered in it.}
      EVENT_SALE_POST: {id: sale.customer.post, phase: serving, context: EventCountedContext, doc: Triggered at last.}
      EVENT_SALE_LEFT: {id: sale.left, phase: serving, context: EventCountedContext, doc: Triggered after.}
      EVENT_SALE_REST_PRE: {id: sale.rest.pre, phase: between, context: EventCountedContext, doc: Triggered then.}
      EVENT_SALE_REST_POST: {id: sale.rest.post, phase: between, context: EventCountedContext, doc: Triggered then.}
"""


def test_events_between_the_sides_of_a_step_lie_in_it(empty: Workspace) -> None:
    """If their context has the stepper. The index says so too."""
    empty.write(IN_STEPS)
    assert empty.run("generate", "--catalogue", "catalogue.yaml")[0] == 0

    index = json.loads(empty.read("shop/events/index.json"))
    in_index = [entry["id"] for entry in index["events"].values() if entry["in_step"]]

    assert in_index == ["sale.customer.pre", "sale.paid", "sale.customer.post"]
    assert empty.read("shop/events/sale.py").count("    in_step=True,\n") == len(in_index)
