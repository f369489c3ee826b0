"""`coverage`: which events source triggers and handles, and in which order."""

import ast
import itertools
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from .workspace import SMALL, Workspace, rules

PROJECT = Path(__file__).parents[2]
IMPORTS = "from shop.events.sale import *\n"
WHOLE_DAY = """\
    bus.trigger(EVENT_SALE_OPENED, day)
    for step in steps:
        with bus.bounded(EVENT_SALE_CUSTOMER_PRE, EVENT_SALE_CUSTOMER_POST, step):
            serve(step)
    bus.trigger(EVENT_SALE_CLOSED, day)
"""


def said(workspace: Workspace, *bodies: str, head: str = IMPORTS) -> tuple[int, list[str]]:
    """Judge a file with a function for each body; return the exit status and each diagnostic's rule and message."""
    functions = "".join(
        f"\n\ndef part{number}(bus, day, step, steps, late):\n{body}" for number, body in enumerate(bodies)
    )
    workspace.write(head + functions, "shop/loop.py")
    status, output = workspace.run("coverage", "shop", "--format", "json")
    return status, [f"{diagnostic['rule']}: {diagnostic['message']}" for diagnostic in json.loads(output)]


def test_source_that_triggers_everything_in_order_passes(small: Workspace) -> None:
    """All events triggered, in the declared order, ends with 0."""
    assert said(small, WHOLE_DAY) == (0, [])
    assert small.run("coverage", "shop") == (0, "4 of 4 events are triggered, 0 are handled\n")


def test_an_event_that_is_never_triggered_is_reported_at_its_declaration(small: Workspace) -> None:
    """The catalogue's line is shown, and the handlers that are never called."""
    small.write("from shop.events.sale import *\n\n\n@subscribe(EVENT_SALE_CLOSED)\ndef go(ctx): ...\n", "home.py")
    small.write(IMPORTS + "\n\ndef part(bus, day, step, steps):\n" + WHOLE_DAY.rpartition("    bus")[0], "loop.py")
    status, output = small.run("coverage", "loop.py", "home.py")
    assert status == 1
    assert output == (
        "catalogue.yaml:36:7: error[never-triggered]: "
        'the given source never triggers EVENT_SALE_CLOSED ("sale.closed")\n'
        "   36 |       EVENT_SALE_CLOSED:\n"
        "      |       ^^^^^^^^^^^^^^^^^\n"
        "home.py:4:12: the module handles it\n"
        "   trigger it, name the source that does, or remove it\n"
        "home.py:4:12: warning[never-called]: "
        "a handler subscribes to EVENT_SALE_CLOSED, which the given source never triggers\n"
        "    4 | @subscribe(EVENT_SALE_CLOSED)\n"
        "      |            ^^^^^^^^^^^^^^^^^\n"
        "   also name the source that triggers it, if there is any\n"
        "3 of 4 events are triggered, 1 are handled\n"
    )


@pytest.mark.parametrize(
    "head",
    [
        "from shop.events.sale import EVENT_SALE_OPENED as X\n",
        "import shop.events.sale\nX = shop.events.sale.EVENT_SALE_OPENED\n",
        "import shop.events.sale as sale\nX = sale.EVENT_SALE_OPENED\n",
        "from shop.events import sale\nX = sale.EVENT_SALE_OPENED\n",
        "from shop.events.sale import *\nX = EVENT_SALE_OPENED\n",
        "from .events.sale import EVENT_SALE_OPENED as X\n",
        "from .names import Opened as X\n",
        "from .everything import EVENT_SALE_OPENED as X\n",
        "try:\n    from shop.events.sale import EVENT_SALE_OPENED as X\nexcept ImportError:\n    raise\n",
    ],
)
@pytest.mark.parametrize("call", ["bus.trigger(X, day)", "self.bus.trigger(event=X, context=day)"])
def test_an_event_is_known_by_whatever_name_it_was_imported(small: Workspace, head: str, call: str) -> None:
    """Imports, aliases, attributes of modules, relative imports, re-exports and stars are followed."""
    small.write("", "shop/__init__.py")
    small.write("from shop.events.sale import EVENT_SALE_OPENED as Opened\n", "shop/names.py")
    small.write("from shop.events.sale import *\n", "shop/everything.py")
    _, diagnostics = said(small, f"    {call}\n", head=head)
    assert not any("EVENT_SALE_OPENED" in diagnostic for diagnostic in diagnostics)
    assert len(diagnostics) == 3


def test_a_name_that_is_something_else_is_no_event(small: Workspace) -> None:
    """Parameters hide events, and calls with other arguments mean other things."""
    body = "    def inner(EVENT_SALE_OPENED):\n        bus.trigger(EVENT_SALE_OPENED, day)\n    alarm.trigger('x')\n"
    _, diagnostics = said(small, body)
    assert len([diagnostic for diagnostic in diagnostics if diagnostic.startswith("never-triggered")]) == 4


@pytest.mark.parametrize(
    "subscription",
    [
        "@subscribe(EVENT_SALE_OPENED)\ndef hear(ctx): ...\n",
        "from d9d.loop.event import subscribe as on\n@on(EVENT_SALE_OPENED)\ndef hear(ctx): ...\n",
        "import d9d.loop.event as e\nclass A:\n    @e.subscribe(EVENT_SALE_OPENED)\n    def hear(self, ctx): ...\n",
        "def start(bus):\n    bus.subscribe(EVENT_SALE_OPENED, print)\n",
    ],
)
def test_handlers_are_found_however_they_subscribe(small: Workspace, subscription: str) -> None:
    """Decorators, methods of the bus and aliases of both are handlers."""
    small.write(f"{IMPORTS}{subscription}", "shop/handlers.py")
    status, output = small.run("coverage", "shop/handlers.py")
    assert status == 1
    assert "warning[never-called]: a handler subscribes to EVENT_SALE_OPENED" in output


def test_a_handler_of_another_catalogue_is_never_called_only_as_a_warning(small: Workspace) -> None:
    """Events of elsewhere may be triggered by source that is not in view."""
    head = f"{IMPORTS}from other.events import EVENT_OTHER\n"
    status, diagnostics = said(small, WHOLE_DAY, "    bus.subscribe(EVENT_OTHER, print)\n", head=head)
    assert status == 0
    assert diagnostics == ["never-called: a handler subscribes to EVENT_OTHER, which the given source never triggers"]


def test_an_event_that_is_triggered_in_two_places_is_a_warning(small: Workspace) -> None:
    """Two functions may trigger one event; that is said, and passes."""
    assert said(small, WHOLE_DAY, "    bus.trigger(EVENT_SALE_CLOSED, day)\n") == (
        0,
        ["triggered-twice: EVENT_SALE_CLOSED is triggered in 2 places"],
    )


CLOSED_FIRST = "out-of-order: EVENT_SALE_OPENED is triggered after EVENT_SALE_CLOSED, but declared before it"
CLOSE, OPEN = "bus.trigger(EVENT_SALE_CLOSED, day)", "bus.trigger(EVENT_SALE_OPENED, day)"


@pytest.mark.parametrize(
    "body",
    [
        f"    {CLOSE}\n    {OPEN}\n",
        f"    if late:\n        {CLOSE}\n    {OPEN}\n",
        f"    for step in steps:\n        {CLOSE}\n    {OPEN}\n",
        f"    try:\n        {CLOSE}\n    finally:\n        {OPEN}\n",
        f"    try:\n        {CLOSE}\n    except ValueError:\n        {OPEN}\n",
        f"    with {CLOSE}:\n        {OPEN}\n",
        f"    match late:\n        case 1:\n            {CLOSE}\n    {OPEN}\n",
        f"    while late:\n        {CLOSE}\n        break\n    {OPEN}\n",
        f"    {CLOSE}\n    part1(bus, day)\n\n\ndef part1(bus, day):\n    {OPEN}\n",
        f"    part1(bus)\n    {OPEN}\n\n\ndef part1(bus, day=1):\n    {CLOSE}\n",
        f"    ({CLOSE} if late else 0, {OPEN})\n",
    ],
)
def test_triggers_out_of_order_are_found_on_every_way_through_a_function(small: Workspace, body: str) -> None:
    """Branches, loops, handlers of exceptions and calls within the file are followed."""
    status, diagnostics = said(small, body)
    assert status == 1
    assert CLOSED_FIRST in diagnostics


@pytest.mark.parametrize(
    "body",
    [
        f"    if late:\n        {CLOSE}\n    else:\n        {OPEN}\n",
        f"    if late:\n        {CLOSE}\n        return\n    {OPEN}\n",
        f"    if late:\n        {CLOSE}\n        raise ValueError\n    {OPEN}\n",
        f"    later = lambda: {CLOSE}\n    {OPEN}\n",
        f"    def later():\n        {CLOSE}\n    {OPEN}\n",
        f"    {CLOSE} if late else {OPEN}\n",
        f"    match late:\n        case 1:\n            {CLOSE}\n        case _:\n            {OPEN}\n",
        f"    for step in steps:\n        if late:\n            {CLOSE}\n            return\n    {OPEN}\n",
        f"    with part1():\n        {OPEN}\n\n\n@contextmanager\ndef part1(bus, day):\n    yield\n    {CLOSE}\n",
        f"    task = create_task(part1(bus, day))\n    {OPEN}\n\n\nasync def part1(bus, day):\n    {CLOSE}\n",
    ],
)
def test_triggers_on_different_ways_are_in_no_order(small: Workspace, body: str) -> None:
    """What cannot come after another trigger is not held against it."""
    _, diagnostics = said(small, body)
    assert not any(diagnostic.startswith("out-of-order") for diagnostic in diagnostics)


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("from shop.door import shut", "shut(bus, day)"),
        ("from .door import shut as bolt", "bolt(bus, day)"),
        ("import shop.door", "shop.door.shut(bus, day)"),
        ("from shop import door", "door.shut(bus, day)"),
        ("from shop.everything import shut", "shut(bus, day)"),
    ],
)
def test_calls_of_functions_in_other_files_are_followed(small: Workspace, imports: str, call: str) -> None:
    """The triggers of an imported function count where it is called; the position in the other file is reported."""
    small.write("", "shop/__init__.py")
    small.write("from shop.door import shut\n", "shop/everything.py")
    small.write(f"{IMPORTS}\n\ndef shut(bus, day):\n    {CLOSE}\n", "shop/door.py")
    _, diagnostics = said(small, f"    {call}\n    {OPEN}\n", head=f"{IMPORTS}{imports}\n")
    assert CLOSED_FIRST in diagnostics
    assert "shop/door.py:5:17: EVENT_SALE_CLOSED, in shut" in small.run("coverage", "shop")[1]


def test_a_coroutine_that_is_awaited_is_followed(small: Workspace) -> None:
    """It runs where it is awaited, as a function where it is called."""
    body = f"    async def later():\n        await shut(bus, day)\n        {OPEN}\n\n\n"
    _, diagnostics = said(small, f"{body}async def shut(bus, day):\n    {CLOSE}\n")
    assert CLOSED_FIRST in diagnostics


def test_scripts_of_one_name_keep_their_own_names(small: Workspace) -> None:
    """Two files that are no modules of a package may be called alike, and each is read by its own imports."""
    small.write(f"{IMPORTS}\n\ndef main(bus, day, step, steps):\n{WHOLE_DAY}", "one/run.py")
    small.write(f"import os\n\n\ndef main(bus):\n    {OPEN}\n", "two/run.py")
    assert small.run("coverage", "one", "two") == (0, "4 of 4 events are triggered, 0 are handled\n")


@pytest.mark.parametrize(
    "source", ["x = " + " + ".join(["1"] * 2_500), "if 1: pass\n" + "elif 2: pass\n" * 600], ids=["sum", "elif"]
)
def test_source_may_be_nested_as_deeply_as_python_allows(small: Workspace, source: str) -> None:
    """Long sums and chains of conditions are deep trees, and are read like any other."""
    small.write(source, "shop/deep.py")
    assert said(small, WHOLE_DAY) == (0, [])


def test_a_phase_that_repeats_may_begin_again(small: Workspace) -> None:
    """From the end of a repeating phase to its beginning is no disorder; back within one is."""
    customer = "    with bus.bounded(EVENT_SALE_CUSTOMER_PRE, EVENT_SALE_CUSTOMER_POST, step):\n        pass\n"
    _, diagnostics = said(small, customer + customer)
    assert not any(diagnostic.startswith("out-of-order") for diagnostic in diagnostics)
    _, diagnostics = said(small, "    bus.trigger(EVENT_SALE_CUSTOMER_PRE, 1)\n" * 2)
    assert "out-of-order: EVENT_SALE_CUSTOMER_PRE is triggered again, but does not repeat" in diagnostics


OPENED, PRE, POST, CLOSED = (
    f"bus.trigger(EVENT_SALE_{name}, day)" for name in ("OPENED", "CUSTOMER_PRE", "CUSTOMER_POST", "CLOSED")
)


def spelled(body: str) -> str:
    """Return a body in which names stand for triggers."""
    for name, call in (("OPENED", OPENED), ("PRE", PRE), ("POST", POST), ("CLOSED", CLOSED)):
        body = re.sub(rf"^( *){name}$", rf"\1{call}", body, flags=re.MULTILINE)
    return "".join(f"    {line}\n" for line in body.strip().split("\n"))


SWAPPED = """
OPENED
for step in steps:
    POST
    PRE
CLOSED
"""
HALF = """
OPENED
for step in steps:
    PRE
POST
CLOSED
"""
SOMETIMES_HALF = """
OPENED
for step in steps:
    PRE
    if late:
        POST
CLOSED
"""
CONTINUED = """
OPENED
for step in steps:
    PRE
    if late:
        continue
    POST
CLOSED
"""
BROKEN = """
OPENED
while steps:
    PRE
    if late:
        break
    POST
CLOSED
"""
WITHOUT_FIRST = """
if late:
    OPENED
for step in steps:
    PRE
    POST
CLOSED
"""
LATE_FIRST = """
for step in steps:
    PRE
    POST
OPENED
CLOSED
"""
AGAIN = "out-of-order: EVENT_SALE_CUSTOMER_PRE is triggered again, but does not repeat"
UNCLOSED = (
    "out-of-order: EVENT_SALE_CLOSED is triggered right after EVENT_SALE_CUSTOMER_PRE, before EVENT_SALE_CUSTOMER_POST"
)
UNOPENED = (
    "out-of-order: EVENT_SALE_CUSTOMER_POST is triggered right after EVENT_SALE_OPENED, "
    "without EVENT_SALE_CUSTOMER_PRE before it"
)
FIRST = "missing-event: EVENT_SALE_CUSTOMER_PRE is triggered first; the catalogue expects EVENT_SALE_OPENED"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (SWAPPED, UNOPENED),
        (HALF, AGAIN),
        (SOMETIMES_HALF, UNCLOSED),
        (CONTINUED, AGAIN),
        (BROKEN, UNCLOSED),
        (WITHOUT_FIRST, FIRST),
        (LATE_FIRST, FIRST),
    ],
    ids=["swapped", "half", "sometimes-half", "continue", "break", "without-first", "late-first"],
)
def test_what_is_missing_on_some_path_is_found(small: Workspace, body: str, expected: str) -> None:
    """Swapped and half pairs, jumps between two sides, and a first event that a path leaves out."""
    status, diagnostics = said(small, spelled(body))
    assert status == 1
    assert expected in diagnostics


SKIPPED = """
OPENED
for step in steps:
    if late:
        continue
    PRE
    POST
CLOSED
"""
ONCE = """
for step in steps:
    if step == 0:
        OPENED
    PRE
    POST
CLOSED
"""
CAUGHT = """
OPENED
try:
    PRE
    POST
except ValueError:
    pass
CLOSED
"""
ENDLESS = """
OPENED
while True:
    if late:
        break
    PRE
    POST
CLOSED
"""
UNKNOWN = """
OPENED
for step in steps:
    PRE
    late.go()
    POST
CLOSED
"""


@pytest.mark.parametrize("body", [SKIPPED, ONCE, CAUGHT, ENDLESS, UNKNOWN])
def test_paths_that_leave_nothing_out_pass(small: Workspace, body: str) -> None:
    """Jumps around both sides, what only one pass of a loop triggers, and handlers of exceptions are no errors."""
    assert said(small, spelled(body)) == (0, [])


def test_what_other_code_may_have_triggered_is_not_missed(small: Workspace) -> None:
    """A function that nothing calls may be called after another one; an unknown call may run another one."""
    opened, served, closed = f"    {OPENED}\n", f"    {PRE}\n    late.go()\n    {CLOSED}\n", f"    {POST}\n"
    assert said(small, opened, served, closed) == (0, [])
    status, diagnostics = said(small, opened, served.replace("    late.go()\n", ""), closed)
    assert status == 1
    assert any(diagnostic.startswith("out-of-order: EVENT_SALE_CLOSED") for diagnostic in diagnostics)


HELPER = """\
    if day.is_open:
        bus.trigger(event, step)
"""


def test_a_helper_that_triggers_under_a_condition_may_do_so_for_the_second_side_of_a_pair(small: Workspace) -> None:
    """The condition that held for the first side may hold for the second one."""
    steps = "".join(f"    tell(bus, day, EVENT_SALE_CUSTOMER_{side}, step)\n" for side in ("PRE", "POST"))
    head = f"{IMPORTS}\n\ndef tell(bus, day, event, step):\n{HELPER}"
    body, closed = f"    {OPENED}\n{steps}", f"    {CLOSED}\n"
    assert said(small, body, closed, head=head) == (0, [])

    one, two = "EVENT_SALE_CUSTOMER_PRE", "EVENT_SALE_CUSTOMER_POST"
    status, _ = said(small, body.replace(one, "SWAP").replace(two, one).replace("SWAP", two), closed, head=head)
    assert status == 1


def test_an_event_from_a_container_is_known(small: Workspace) -> None:
    """Each item of a sequence is followed."""
    body = f"""    {OPENED}
    for step in steps:
        for event in (EVENT_SALE_CUSTOMER_PRE, EVENT_SALE_CUSTOMER_POST):
            bus.trigger(event, step)
    {CLOSED}
"""
    _, diagnostics = said(small, body)
    assert not any(diagnostic.startswith("never-triggered") for diagnostic in diagnostics)


LATER = """\
    bus.trigger(EVENT_SALE_OPENED, day)
    while steps:
        serve(step)
        BEFORE

        def leave():
            AFTER

        serve(leave)
    bus.trigger(EVENT_SALE_CLOSED, day)
"""


def test_a_function_within_a_function_is_not_called_before_it_is_made(small: Workspace) -> None:
    """The function that receives it may call it at any later time."""
    assert said(small, LATER.replace("BEFORE", PRE).replace("AFTER", POST)) == (0, [])

    status, diagnostics = said(small, LATER.replace("BEFORE", POST).replace("AFTER", PRE))
    assert (status, diagnostics) == (1, [UNOPENED])


OBJECTS = """class Base:
    opened: object

    def __init__(self, bus):
        self.bus = bus
        self._closed = bus.emitter(EVENT_SALE_CLOSED)

    def run(self, steps):
        with self.day():
            for step in self.customers(steps):
                self.announce(EVENT_SALE_CUSTOMER_POST, step)

    @contextlib.contextmanager
    def day(self):
        self.bus.trigger(self.opened, 1)
        yield
        if self._closed.handlers:
            self._closed.call(1)

    def customers(self, steps):
        for step in steps:
            self.greet(step)
            yield step

    def greet(self, step):
        raise NotImplementedError

    def announce(self, event, step):
        self.bus.trigger(event, step)


class Shop(Base):
    opened = EVENT_SALE_OPENED

    def greet(self, step):
        self.announce(EVENT_SALE_CUSTOMER_PRE, step)
"""


def objects(small: Workspace, source: str) -> tuple[int, list[str]]:
    """Judge a file with classes."""
    small.write(f"import contextlib\n{IMPORTS}\n\n{source}", "shop/loop.py")
    status, output = small.run("coverage", "shop", "--format", "json")
    return status, [f"{diagnostic['rule']}: {diagnostic['message']}" for diagnostic in json.loads(output)]


def test_triggers_of_classes_are_followed(small: Workspace) -> None:
    """Attributes with events and emitters, parameters, base classes, generators and context managers are understood."""
    assert objects(small, OBJECTS) == (0, [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "        self.bus.trigger(self.opened, 1)\n        yield\n",
            "        yield\n        self.bus.trigger(self.opened, 1)\n",
        ),
        (
            "            self.greet(step)\n            yield step\n",
            "            yield step\n            self.greet(step)\n",
        ),
        ("EVENT_SALE_CUSTOMER_POST, step", "EVENT_SALE_CLOSED, step"),
        ("opened = EVENT_SALE_OPENED", "opened = EVENT_SALE_CUSTOMER_POST"),
    ],
    ids=["manager", "generator", "parameter", "attribute"],
)
def test_mistakes_in_classes_are_found(small: Workspace, old: str, new: str) -> None:
    """Each change of the order through objects is an error."""
    assert old in OBJECTS
    status, _ = objects(small, OBJECTS.replace(old, new))
    assert status == 1


def test_a_variable_with_the_name_of_a_method_hides_no_mistake(small: Workspace) -> None:
    """Only the method could run at another time, and the variable is not the method."""
    source = OBJECTS.replace("steps", "day").replace("self.customers(day)", "self.customers(list(day))")
    assert objects(small, source) == (0, [])

    status, _ = objects(small, source.replace("EVENT_SALE_CUSTOMER_POST, step", "EVENT_SALE_CLOSED, step"))
    assert status == 1


def test_an_emitter_of_an_attribute_may_get_the_name_of_a_variable(small: Workspace) -> None:
    """A call of the variable triggers the event, in order, whatever the attribute is called."""
    source = OBJECTS.replace("_closed", "emitter").replace(
        "        if self.emitter.handlers:\n            self.emitter.call(1)\n",
        "        closed = self.emitter\n        if closed.handlers:\n            closed.call(1)\n",
    )
    assert "closed.call(1)" in source
    assert objects(small, source) == (0, [])


def test_calls_may_be_nested_deeply(small: Workspace) -> None:
    """A chain of hundreds of functions, and functions that call each other, are read without an end."""
    chain = "".join(f"def f{number}(bus, day):\n    f{number + 1}(bus, day)\n\n\n" for number in range(400))
    circle = "def f400(bus, day):\n    f0(bus, day)\n    bus.trigger(EVENT_SALE_CLOSED, day)\n\n\n"
    small.write(f"{IMPORTS}\n\n{chain}{circle}def part(bus, day, step, steps):\n{WHOLE_DAY}", "shop/loop.py")
    status, output = small.run("coverage", "shop", "--format", "json")
    assert status == 0
    assert [diagnostic["rule"] for diagnostic in json.loads(output)] == ["triggered-twice"]


def test_an_emitter_in_an_attribute_that_is_only_asked_for_handlers_triggers_nothing(small: Workspace) -> None:
    """Reading `handlers` is no trigger."""
    source = OBJECTS.replace("            self._closed.call(1)\n", "            pass\n")
    assert objects(small, source) == (
        1,
        ['never-triggered: the given source never triggers EVENT_SALE_CLOSED ("sale.closed")'],
    )


def test_a_block_between_events_that_are_no_pair_is_refused(small: Workspace) -> None:
    """`bounded` takes the two sides of one moment."""
    _, diagnostics = said(
        small, "    with bus.bounded(EVENT_SALE_CUSTOMER_PRE, EVENT_SALE_CLOSED, step):\n        pass\n"
    )
    assert (
        "not-a-pair: EVENT_SALE_CUSTOMER_PRE and EVENT_SALE_CLOSED do not begin and end the same block" in diagnostics
    )


EMITTED = """\
    opened, closed = bus.emitter(EVENT_SALE_OPENED), bus.emitter(EVENT_SALE_CLOSED)
    pre = bus.emitter(EVENT_SALE_CUSTOMER_PRE)
    post = bus.emitter(event=EVENT_SALE_CUSTOMER_POST)
    opened(day)
    for step in steps:
        pre(step)
        post(step)
    closed(day)
"""


def test_a_call_of_an_emitter_triggers_its_event(small: Workspace) -> None:
    """The order of the calls counts, not the order in which emitters are made."""
    assert said(small, EMITTED) == (0, [])


GUARDED = EMITTED
for name in ("opened", "pre", "post", "closed"):
    GUARDED = re.sub(
        rf"^( +){name}\((\w+)\)$", rf"\1if {name}.handlers:\n\1    {name}.call(\2)", GUARDED, flags=re.MULTILINE
    )


def test_an_emitter_may_be_called_only_if_it_has_handlers(small: Workspace) -> None:
    """`emitter.call(context)` triggers the event, and asking for its handlers does not."""
    assert said(small, GUARDED) == (0, [])
    assert said(small, GUARDED.replace("post.call(step)", "pass")) == (
        1,
        ['never-triggered: the given source never triggers EVENT_SALE_CUSTOMER_POST ("sale.customer.post")'],
    )


CALLS = ["opened(day)", "pre(step)", "post(step)", "closed(day)"]


@pytest.mark.parametrize("calls", [*itertools.combinations(CALLS, 2)])
def test_calls_of_emitters_that_change_places_are_found(small: Workspace, calls: tuple[str, str]) -> None:
    """The variable identifies the event."""
    one, two = calls
    status, diagnostics = said(small, EMITTED.replace(one, "SWAP").replace(two, one).replace("SWAP", two))
    assert status == 1
    assert any(diagnostic.startswith("out-of-order") for diagnostic in diagnostics)


@pytest.mark.parametrize("line", ["", "        post = None\n", "        late.post(step)\n"])
def test_an_emitter_that_is_never_called_triggers_nothing(small: Workspace, line: str) -> None:
    """Though it was made."""
    status, diagnostics = said(small, EMITTED.replace("        post(step)\n", line))
    assert status == 1
    assert [diagnostic for diagnostic in diagnostics if diagnostic.startswith("never-triggered")] == [
        'never-triggered: the given source never triggers EVENT_SALE_CUSTOMER_POST ("sale.customer.post")'
    ]


@pytest.mark.parametrize(
    "use",
    [
        "    day.post = bus.emitter(EVENT_SALE_CUSTOMER_POST)\n",
        "    return bus.emitter(EVENT_SALE_CUSTOMER_POST)\n",
        "    serve(bus.emitter(EVENT_SALE_CUSTOMER_POST))\n",
        "    post = bus.emitter(EVENT_SALE_CUSTOMER_POST)\n    serve(post)\n",
        "    post = bus.emitter(EVENT_SALE_CUSTOMER_POST)\n    def later():\n        post(step)\n",
    ],
)
def test_an_emitter_that_is_handed_on_may_be_called_at_any_time(small: Workspace, use: str) -> None:
    """In no order, but triggered."""
    begun = EMITTED.replace("        post(step)\n", "").replace(
        "    post = bus.emitter(event=EVENT_SALE_CUSTOMER_POST)\n", ""
    )
    assert said(small, begun, use) == (0, [])


def test_an_alias_of_an_event_need_not_be_triggered(small: Workspace) -> None:
    """A deprecated event that another replaces counts as that one."""
    alias = (
        "      EVENT_SALE_ENDED:\n        id: sale.ended\n        phase: closing\n        context: EventDayContext\n"
        '        doc: Ended.\n        deprecated: {since: "0.2", replaced_by: EVENT_SALE_CLOSED}\n'
    )
    small.write(SMALL + alias)
    assert said(small, WHOLE_DAY) == (0, [])
    assert said(small, WHOLE_DAY.replace("EVENT_SALE_CLOSED", "EVENT_SALE_ENDED")) == (0, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"def f(:\n", "bad-python"),
        (b"\xff\xfe", "bad-python"),
        (b"x = '\0'\n", "bad-python"),
        (b"(" * 10_000, "bad-python"),
        (None, "unreadable"),
    ],
)
def test_source_that_cannot_be_read_is_an_error(small: Workspace, content: bytes | None, message: str) -> None:
    """What is no Python source ends with 1 and is named, without a traceback."""
    if content is not None:
        (small.root / "loop.py").write_bytes(content)
    status, output = small.run("coverage", "loop.py")
    assert status == 1
    assert f"error[{message}]" in output.partition("\n")[0]


def test_a_folder_without_source_is_an_error(small: Workspace) -> None:
    """A folder without source is not a folder without errors."""
    assert rules(small.run("coverage", ".")[1]) == [".: error[no-source]"]


@pytest.fixture
def loops(empty: Workspace) -> Workspace:
    """A copy of the loops of this project, with its catalogue."""
    shutil.copytree(PROJECT / "d9d", empty.root / "d9d", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "catalogue.yaml", empty.root)
    return empty


@dataclass(frozen=True)
class Place:
    """A place in the loops that names an event to trigger it, now or later.

    Attributes:
        path: The file.
        event: The constant.
        start: Where the name begins in the text of the file.
        function: The function that it is in; empty in the body of a class.
    """

    path: str
    event: str
    start: int
    function: str

    def replaced(self, text: str, name: str) -> str:
        """Return the text of the file with another name here."""
        return text[: self.start] + name + text[self.start + len(self.event) :]


def places(workspace: Workspace) -> list[Place]:
    """Return the places of all events in the loops, but those that only remember the last one."""
    found = []
    for path in sorted((workspace.root / "d9d/loop/run").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        starts = [0, *itertools.accumulate(len(line) for line in text.splitlines(keepends=True))]
        tree = ast.parse(text)
        notes = [
            node for node in ast.walk(tree) if isinstance(node, ast.Assign) and "last" in ast.dump(node.targets[0])
        ]
        ignored = {id(node.value) for node in notes}
        inside = {
            id(node): function.name
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
        }
        found += [
            Place(
                str(path.relative_to(workspace.root)),
                node.id,
                starts[node.lineno - 1] + node.col_offset,
                inside.get(id(node), ""),
            )
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and node.id.startswith("EVENT_") and id(node) not in ignored
        ]
    return sorted(found, key=lambda place: (place.path, place.start))


def test_the_loops_of_this_project_trigger_what_they_declare(loops: Workspace) -> None:
    """All 45 events, each in one place, in order."""
    status, output = loops.run("coverage", "d9d")
    assert (status, output.partition(",")[0]) == (0, "45 of 45 events are triggered")


def test_deleting_the_triggers_of_any_event_of_the_loops_is_found(loops: Workspace) -> None:
    """Whichever event is no longer triggered, it is named."""
    for event, group in itertools.groupby(
        sorted(places(loops), key=lambda place: place.event), lambda each: each.event
    ):
        texts: dict[str, str] = {}
        for place in sorted(group, key=lambda place: place.start, reverse=True):
            texts.setdefault(place.path, loops.read(place.path))
            loops.write(place.replaced(loops.read(place.path), "None"), place.path)
        status, output = loops.run("coverage", "d9d/loop/run")
        for path, text in texts.items():
            loops.write(text, path)
        assert status == 1
        assert f"the given source never triggers {event}" in output


def pairs(loops: Workspace) -> list[tuple[Place, Place]]:
    """Return all pairs of places with different events in one function of the loops.

    `Trainer.evaluate` may run at any time, so that only a recorded run shows the order of its two events.
    """
    return [
        (one, two)
        for one, two in itertools.combinations(places(loops), 2)
        if (one.path, one.function) == (two.path, two.function)
        and one.function not in ("", "_evaluate")
        and one.event != two.event
    ]


def swap(loops: Workspace, one: Place, two: Place) -> None:
    """Let two events change places; one of the two must be named."""
    text = loops.read(one.path)
    loops.write(one.replaced(two.replaced(text, one.event), two.event), one.path)
    status, output = loops.run("coverage", "d9d/loop/run")
    loops.write(text, one.path)
    assert status == 1, (one.event, two.event)
    assert one.event in output or two.event in output


def test_swapping_two_events_of_a_function_of_the_loops_is_found(loops: Workspace) -> None:
    """A tenth of all pairs."""
    for one, two in pairs(loops)[::10]:
        swap(loops, one, two)


@pytest.mark.slow
def test_swapping_any_two_events_of_a_function_of_the_loops_is_found(loops: Workspace) -> None:
    """Whichever two of one function change places."""
    for one, two in pairs(loops):
        swap(loops, one, two)


def test_a_path_too_long_for_a_file_is_an_error(small: Workspace) -> None:
    """It names nothing that there is."""
    status, output = small.run("coverage", "x" * 5_000)
    assert status == 1
    assert "error[unreadable]: there is no such file or folder" in output
