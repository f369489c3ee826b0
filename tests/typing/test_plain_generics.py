"""What mypy refuses and accepts without the plugin, because of the signatures alone."""

import json
from pathlib import Path

import mypy.api
from type_checkers import MYPY_SETTINGS

PROGRAM = """
import dataclasses

from d9d.loop.event import Event, EventBus, subscribe

class Context: ...
class Detailed(Context): ...
class Other: ...

EVENT = Event[Context](id="user.moment")

class Target:
    @subscribe(EVENT)
    def method(self, ctx: Context) -> None: ...
    @subscribe(EVENT)
    def method_of_wider(self, ctx: object) -> None: ...
    @subscribe(EVENT)
    @subscribe(EVENT)
    def method_with_two(self, ctx: Context, scale: float = 1.0) -> None: ...
    @staticmethod
    @subscribe(EVENT)
    def static(ctx: Context) -> None: ...
    @classmethod
    @subscribe(EVENT)
    def of_class(cls, ctx: Context) -> None: ...
    @subscribe(EVENT)  # wrong
    def method_of_other(self, ctx: Other) -> None: ...
    @subscribe(EVENT)  # wrong
    def method_of_narrower(self, ctx: Detailed) -> None: ...
    @subscribe(EVENT)  # wrong
    def method_of_nothing(self) -> None: ...
    @subscribe(EVENT)  # wrong
    def method_of_more(self, ctx: Context, scale: float) -> None: ...
    @subscribe(EVENT)  # wrong
    async def asynchronous(self, ctx: Context) -> None: ...
    @staticmethod
    @subscribe(EVENT)  # wrong
    def static_of_other(ctx: Other) -> None: ...

@subscribe(EVENT)
def function(ctx: Context) -> None: ...
@subscribe(EVENT)  # wrong
def function_of_other(ctx: Other) -> None: ...

def register(bus: EventBus, target: Target) -> None:
    bus.subscribe(EVENT, target.method)
    bus.subscribe(EVENT, function)
    bus.subscribe(EVENT, lambda ctx: function(ctx))
    bus.subscribe(EVENT, function_of_other_without_a_tag)  # wrong
    bus.trigger(EVENT, Context())
    bus.trigger(EVENT, Detailed())
    bus.trigger(EVENT, Other())  # wrong
    with bus.bounded(EVENT, EVENT, Context()):
        pass
    bus.bounded(EVENT, Event[Other](id="user.other"), Context())  # wrong

def function_of_other_without_a_tag(ctx: Other) -> None: ...
"""


def test_generics_alone_refuse_wrong_handlers_and_accept_right_ones(tmp_path: Path) -> None:
    """Each line marked as wrong has one error, and no other line has one."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    settings = tmp_path / "mypy.ini"
    settings.write_text(f"[mypy]\nstrict = True\n{MYPY_SETTINGS}", encoding="utf-8")

    out, problems, _ = mypy.api.run(
        [f"--config-file={settings}", f"--cache-dir={tmp_path / 'cache'}", "--output=json", str(program)]
    )

    assert not problems
    reported = [json.loads(line)["line"] for line in out.splitlines() if line]
    assert reported == [number for number, line in enumerate(PROGRAM.splitlines(), start=1) if line.endswith("# wrong")]
