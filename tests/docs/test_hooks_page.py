"""The page about hooks of other frameworks names events that exist, and leaves no hook of theirs out."""

import re

from documents import ROOT

from d9d.loop.event import Event
from d9d.loop.event.catalogue import inference, train

PAGE = (ROOT / "docs/events/hooks.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (`.*?) \| (.*) \|$", flags=re.MULTILINE)


def test_each_event_on_the_page_exists() -> None:
    """Under the name that is printed."""
    events = {name for module in (train, inference) for name, value in vars(module).items() if isinstance(value, Event)}

    assert set(re.findall(r"EVENT_[A-Z_]+", PAGE)) <= events


def test_each_hook_has_an_event_or_a_reason() -> None:
    """Or the method or argument that takes its place."""
    answers = [answer for _, answer in ROW.findall(PAGE)]

    assert len(answers) > 90
    assert [answer for answer in answers if not re.match(r"`|none[:,] .{20}|the ", answer)] == []


def test_each_hook_has_one_row() -> None:
    """In the table of its framework."""
    for table in PAGE.split("\n## ")[1:]:
        hooks = [hook for cell, _ in ROW.findall(table) for hook in re.findall(r"`([^`]+)`", cell)]
        assert len(hooks) == len(set(hooks)) > 10
