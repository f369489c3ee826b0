"""A rename breaks no subscriber: what is deprecated and replaced is an alias that works, and warns."""

import importlib
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from d9d_codegen.lifecycle import Lifecycle
from d9d_codegen.lint import lint_file

from .workspace import Workspace

GOOD = Path(__file__).parent / "good"
PROJECT = Path(__file__).parents[2]
# Written before `renamed.yaml` renamed a context, a field of it, and a constant with its id.
OLD_SUBSCRIBER = """\
from d9d.loop.event import EventBus, subscribe, subscribe_annotated

from renamed.events.fit import EVENT_TRAIN_LOADER_READY, EVENT_TRAIN_STEP_BEGIN, EventStepContext


class Report:
    @subscribe(EVENT_TRAIN_LOADER_READY)
    def on_loader(self, ctx: EventStepContext) -> None:
        print("loader", ctx.stepper + 1)


def on_begin(ctx: EventStepContext) -> None:
    print("begin", ctx.stepper)


def register(bus: EventBus) -> None:
    subscribe_annotated(bus, Report())
    bus.subscribe(EVENT_TRAIN_STEP_BEGIN, on_begin)
"""
NEW_TRIGGER = """\
from d9d.loop.event import EventBus
from renamed.events.fit import EVENT_TRAIN_STEP_PRE, EVENT_TRAIN_STREAM_READY, EventMomentContext

import old

bus = EventBus()
old.register(bus)
bus.trigger(EVENT_TRAIN_STREAM_READY, EventMomentContext(schedule=6))
bus.trigger(EVENT_TRAIN_STEP_PRE, EventMomentContext(schedule=8))
"""


@pytest.fixture(name="train")
def _train(empty: Workspace, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of renamed events, imported afresh."""
    shutil.copy(GOOD / "renamed.yaml", empty.root)
    empty.run("generate", "--catalogue", "renamed.yaml")
    monkeypatch.syspath_prepend(empty.root)
    for name in [name for name in sys.modules if name.partition(".")[0] == "renamed"]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("renamed.events.fit")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("EVENT_TRAIN_STEP_BEGIN", "EVENT_TRAIN_STEP_PRE"),
        ("EVENT_TRAIN_LOADER_READY", "EVENT_TRAIN_STREAM_READY"),
        ("EventStoredContext", "EventSavedContext"),
        ("EventStepContext", "EventMomentContext"),
    ],
    ids=["the id stayed", "the id changed", "context", "context of common"],
)
def test_an_old_name_is_the_very_object_of_the_new_one(train: ModuleType, old: str, new: str) -> None:
    """Whether or not its id changed, an alias is the object that it stands for, and each use of it warns once."""
    with pytest.warns(DeprecationWarning, match=f"^{old} is deprecated since 0.[34]; use {new} instead.") as caught:
        assert getattr(train, old) is getattr(train, new)
    assert [warned.filename for warned in caught] == [__file__]


def test_an_import_of_an_old_name_warns_at_the_import(train: ModuleType) -> None:
    """`from … import` warns once, at the line that imports."""
    with pytest.warns(DeprecationWarning, match="EVENT_TRAIN_STEP_BEGIN is deprecated") as caught:
        exec("from renamed.events.fit import EVENT_TRAIN_STEP_BEGIN")  # noqa: S102 -- the statement is the test
    assert [warned.filename for warned in caught] == ["<string>"]


def test_an_old_field_reads_the_new_one_and_warns(train: ModuleType) -> None:
    """The property of a renamed field returns the field, and warns where it is read."""
    context = train.EventMomentContext(schedule=3)
    with pytest.warns(DeprecationWarning, match=r"EventMomentContext.stepper is deprecated since 0\.3") as caught:
        assert context.stepper == 3
    assert [warned.filename for warned in caught] == [__file__]


def test_an_old_field_is_no_keyword_of_the_constructor(train: ModuleType) -> None:
    """The old name of a renamed field works for reading, but not as a keyword of the constructor."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'stepper'"):
        train.EventMomentContext(stepper=3)


def test_names_that_stay_warn_of_nothing(train: ModuleType) -> None:
    """Neither a new name nor one that is deprecated without a replacement warns; a misspelt one is as usual."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train.EVENT_TRAIN_SAVED.id == "fit.saved"
        assert train.EVENT_TRAIN_STEP_PRE.id == "fit.step.pre"
    with pytest.raises(AttributeError, match=r"module 'renamed.events.fit' has no attribute 'EVENT_TRAIN_STEP'"):
        _ = train.EVENT_TRAIN_STEP


def test_an_alias_is_no_moment_of_a_run(empty: Workspace) -> None:
    """Nothing triggers an alias: its id is not in the lifecycle."""
    shutil.copy(GOOD / "renamed.yaml", empty.root)
    _, train = lint_file(empty.root / "renamed.yaml").modules
    assert list(Lifecycle.of(train).followers) == [
        "",
        "fit.stream",
        "fit.step.pre",
        "fit.step.post",
        "fit.saved",
    ]


def test_an_old_subscriber_runs_and_is_warned(train: ModuleType, empty: Workspace) -> None:
    """Code with only old names handles the new events, and is warned about each name."""
    empty.write(OLD_SUBSCRIBER, "old.py")
    empty.write(NEW_TRIGGER, "new.py")
    command = [sys.executable, "-W", "always::DeprecationWarning", "new.py"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "loader 7\nbegin 8\n"
    warned = [line.partition("old.py:")[2] for line in result.stderr.splitlines() if "DeprecationWarning: " in line]
    warned = [line.replace("DeprecationWarning: ", "") for line in warned]
    field = 'EventMomentContext.stepper is deprecated since 0.3; use schedule instead. It means "the same".'
    assert warned == [
        "3: EVENT_TRAIN_LOADER_READY is deprecated since 0.3; use EVENT_TRAIN_STREAM_READY instead.",
        "3: EVENT_TRAIN_STEP_BEGIN is deprecated since 0.3; use EVENT_TRAIN_STEP_PRE instead.",
        "3: EventStepContext is deprecated since 0.3; use EventMomentContext instead.",
        f"9: {field}",
        f"13: {field}",
    ]


def test_an_old_subscriber_passes_the_type_checker(train: ModuleType, empty: Workspace) -> None:
    """Old code passes strict mypy; the plugin reports deprecated names, and still finds errors."""
    empty.write(OLD_SUBSCRIBER, "old.py")
    # The types of torch take long to read, and this needs none of them: mypy reaches them through d9d.
    fast = f"mypy_path = {Path(__file__).parents[2]}\nno_site_packages = True\n[mypy-d9d.*]\nignore_errors = True\n"
    empty.write(f"[mypy]\nplugins = d9d.mypy\nstrict = True\n{fast}", "mypy.ini")

    def mypy(*options: str) -> list[str]:
        command = [sys.executable, "-m", "mypy", "--no-error-summary", f"--cache-dir={empty.root / 'cache'}"]
        run = subprocess.run([*command, *options, "old.py"], capture_output=True, text=True, check=False)
        lines = run.stdout.splitlines()
        assert run.returncode == any(": error: " in line for line in lines)
        return lines

    assert mypy("--disable-error-code=d9d-deprecated") == []
    told = mypy()
    assert {line.partition(": ")[0] for line in told} == {f"old.py:{number}" for number in (7, 8, 9, 12, 13, 18)}
    assert all("is deprecated since 0.3: use " in line and line.endswith("[d9d-deprecated]") for line in told)
    assert mypy("--report-deprecated-as-note", "--cache-dir=/dev/null") == [
        line.removesuffix("  [d9d-deprecated]").replace(": error: ", ": note: ") for line in told
    ]
    assert [line.partition(": ")[0] for line in mypy("--enable-error-code=deprecated") if "[deprecated]" in line] == [
        "old.py:9",
        "old.py:13",
    ]
    empty.write(
        OLD_SUBSCRIBER.replace("on_begin(ctx: EventStepContext)", "on_begin(ctx: str)").replace(".stepper)", ")"),
        "old.py",
    )
    [mistake] = mypy("--disable-error-code=d9d-deprecated")
    assert 'Handler "on_begin" of EVENT_TRAIN_STEP_BEGIN ("fit.step.pre") takes "str"' in mistake
