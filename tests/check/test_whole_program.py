"""What can only be seen across files, and what the interpreter follows on the way."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from d9d_check.check import check
from d9d_check.report import Diagnostic

_HEAD = """
from contextlib import ExitStack
from d9d.loop.control import RegisterTaskEventsContext, TrainTask
from d9d.loop.event import Event, EventBus, subscribe, subscribe_annotated
from d9d.loop.event.catalogue.common import EventStepContext
from d9d.loop.event.catalogue.train import EVENT_TRAIN_STEP_POST
"""
Checker = Callable[..., list[Diagnostic]]


@pytest.fixture
def check_files(tmp_path: Path) -> Checker:
    """Write files, and return what is reported for them; notes are left out unless asked for."""

    def run(files: Mapping[str, str], *, notes: bool = False) -> list[Diagnostic]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        found = check([tmp_path], use_cache=False).diagnostics
        return [each for each in found if notes or each.severity == "error"]

    return run


def codes(found: list[Diagnostic]) -> list[str]:
    return [each.code for each in found]


def test_two_events_with_one_id_on_one_bus(check_files: Checker) -> None:
    """In two modules, where no type checker sees both."""
    one = f"{_HEAD}SAVED = Event[int](id='user.saved')\n"
    use = f"{_HEAD}import one, other\ndef run(a: EventBus, b: EventBus):\n    a.trigger(one.SAVED, 1)\n"
    same, apart = (f"{use}    {bus}.trigger(other.SAVED, 1)\n" for bus in ("a", "b"))

    assert codes(check_files({"one.py": one, "other.py": one, "use.py": apart})) == []
    assert codes(check_files({"use.py": same})) == ["d9d-event-id"]


def test_marks_are_seen_through_imports(check_files: Checker) -> None:
    """Of functions, and of methods that a class of a further module overrides."""
    marked = "from d9d import collective as on_all_ranks\nclass Store:\n    @on_all_ranks\n"
    marked += "    def flush(self) -> None: ...\n"
    marked += "@on_all_ranks\ndef meet() -> None: ...\n"
    use = f"{_HEAD}import torch.distributed as dist\nfrom tools import meet as wait, stores\n"
    use += "class Disk(stores.Store):\n    def flush(self) -> None: ...\nclass Task(TrainTask):\n"
    use += "    def register_events(self, ctx: RegisterTaskEventsContext) -> None:\n"
    use += "        subscribe_annotated(ctx.event_bus, self)\n    @subscribe(EVENT_TRAIN_STEP_POST)\n"
    use += "    def on_step(self, ctx: EventStepContext) -> None:\n"
    use += "        if dist.get_rank() == 0:\n            {call}\n"

    files = {"tools/__init__.py": "from .stores import meet\n", "tools/stores.py": marked}
    assert codes(check_files({**files, "use.py": use.format(call="wait()")})) == ["d9d-collective"]
    assert codes(check_files({"use.py": use.format(call="Disk().flush()")})) == ["d9d-collective"]
    assert codes(check_files({"use.py": use.format(call="print(wait)")})) == []


def test_a_package_that_re_exports_handlers_has_none_itself(check_files: Checker) -> None:
    """`subscribe_annotated` takes a module's own functions only."""
    handlers = f"{_HEAD}@subscribe(EVENT_TRAIN_STEP_POST)\ndef on_step(ctx: EventStepContext) -> None: ...\n"
    package = "from hooks.handlers import on_step\n"
    use = "{head}import hooks\nfrom hooks import handlers\ndef run(bus: EventBus):\n"
    use += "    subscribe_annotated(bus, {target})\n"

    files = {"hooks/__init__.py": package, "hooks/handlers.py": handlers}
    assert codes(check_files({**files, "use.py": use.format(head=_HEAD, target="handlers")})) == []
    assert codes(check_files({"use.py": use.format(head=_HEAD, target="hooks")})) == ["d9d-target"]


def test_a_block_that_is_pushed_is_never_begun(check_files: Checker) -> None:
    """`ExitStack.push` calls only what ends it."""
    program = f"""{_HEAD}
PRE = Event[int](id="user.block.pre")
POST = Event[int](id="user.block.post")
def run(bus: EventBus):
    with ExitStack() as stack:
        stack.METHOD(bus.bounded(PRE, POST, 1))
"""
    assert codes(check_files({"a.py": program.replace("METHOD", "enter_context")})) == []
    assert codes(check_files({"a.py": program.replace("METHOD", "push")})) == ["d9d-pair"]


def test_private_names_of_two_classes_differ(check_files: Checker) -> None:
    """`__on_step` of a subclass is no override."""
    program = f"""{_HEAD}
class Parent(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        subscribe_annotated(ctx.event_bus, self)
    @subscribe(EVENT_TRAIN_STEP_POST)
    def NAME(self, ctx: EventStepContext) -> None: ...
class Child(Parent):
    def NAME(self, ctx: EventStepContext) -> None: ...
"""
    assert codes(check_files({"a.py": program.replace("NAME", "__on_step")})) == []
    assert codes(check_files({"a.py": program.replace("NAME", "on_step")})) == ["d9d-dropped"]


def test_relative_and_star_imports_are_followed(check_files: Checker) -> None:
    """And circles of imports end."""
    files = {
        "pack/__init__.py": "from .task import *\n",
        "pack/events.py": (
            "from d9d.loop.event.catalogue.train import *\nfrom . import task\nSTEP = EVENT_TRAIN_STEP_POST\n"
        ),
        "pack/task.py": (
            f"{_HEAD}from .events import STEP as MOMENT\nclass Task(TrainTask):\n"
            "    @subscribe(MOMENT)\n    def on_step(self, ctx): ...\n"
        ),
        "main.py": "import pack\nclass Mine(pack.Task): ...\n",
    }
    (found,) = check_files(files)

    assert found.code == "d9d-unregistered"
    assert "EVENT_TRAIN_STEP_POST" in found.message


def test_what_is_not_in_view_is_a_note(check_files: Checker) -> None:
    """A base class, a decorator, code that gets both the object and the bus, a call chain without end."""
    program = f"""{_HEAD}
import third_party
class OfOthers(third_party.Task, TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...
@third_party.registered
class Decorated(TrainTask):
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...
class HandsOn(TrainTask):
    def register_events(self, ctx: RegisterTaskEventsContext) -> None:
        third_party.register(ctx, self)
    @subscribe(EVENT_TRAIN_STEP_POST)
    def on_step(self, ctx: EventStepContext) -> None: ...
"""
    assert check_files({"a.py": program}) == []

    notes = check_files({"a.py": program}, notes=True)
    assert codes(notes) == ["d9d-unchecked"] * 3
    named = zip(["OfOthers", "Decorated", "HandsOn"], notes, strict=True)
    assert all(f'"{name}"' in note.message for name, note in named)


def test_an_unreadable_index_is_an_error_that_names_the_command(check_files: Checker) -> None:
    """What is not known about events cannot be checked in silence."""
    files = {
        "pyproject.toml": '[tool.d9d]\ncatalogues = ["events.yaml"]\n',
        "events.yaml": "package: lab.events\n",
        "lab/events/index.json": "[" * 100_000,
        "a.py": "",
    }
    (found,) = check_files(files)

    assert found.code == "d9d-index"
    assert "run d9d-catalogue generate" in found.message


def test_an_entry_point_cannot_name_a_path(check_files: Checker) -> None:
    """Only the name of a package is looked up."""
    found = check_files(
        {"pyproject.toml": '[tool.d9d]\ncatalogues = ["e.yaml"]\n', "e.yaml": "package: ..etc\n", "a.py": ""}
    )

    assert codes(found) == ["d9d-index"]


def test_contexts_that_types_hide_are_found_by_their_names() -> None:
    """The cases of the mypy plugin have no report there."""
    cases = Path(__file__).parents[1] / "mypy" / "cases"

    found = check([cases / "hidden_types.py"], use_cache=False).diagnostics

    assert [each.code for each in found] == ["d9d-handler", "d9d-context"]
