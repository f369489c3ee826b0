"""What running a program has found: who subscribes what on which bus, what triggers events, what leaves the program.

Also what a run looks like while it happens: the calls, the conditions, and what rules can watch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from d9d_check.values import (
    Bus,
    ClassDefinition,
    Definition,
    Differs,
    EventValue,
    Function,
    Instance,
    Scope,
    Site,
    Tag,
    Value,
    Values,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Guard:
    """A condition under which code runs.

    Attributes:
        test: The values of the condition.
        site: Where it is.
        is_steady: Whether it is the same in every step.
        ends_with_loop: Whether it only holds until the end of a loop.
    """

    test: Values
    site: Site
    is_steady: bool = False
    ends_with_loop: bool = False

    @property
    def differs(self) -> Differs | None:
        """Why it does not hold on all ranks alike."""
        return next((value for value in self.test if isinstance(value, Differs)), None)


@dataclasses.dataclass(frozen=True)
class Registration:
    """A handler that is subscribed on a bus.

    Attributes:
        bus: The bus.
        events: The events that it may be subscribed to.
        handler: The handler: a function or a method, if it is in the program.
        tag: The tag by which it was found, for `subscribe_annotated`.
        target: What was given to `subscribe_annotated`.
        site: Where the call is.
        entry: What was run from outside.
        guards: The conditions under which it is done.
        depth: The number of calls that lead to it.
    """

    bus: Bus
    events: frozenset[EventValue]
    handler: Value
    tag: Tag | None
    target: Value | None
    site: Site
    entry: "Entry"
    guards: tuple[Guard, ...]
    depth: int


@dataclasses.dataclass(frozen=True)
class Trigger:
    """A call that triggers an event."""

    bus: Bus | None
    events: frozenset[EventValue]
    site: Site
    entry: "Entry"
    guards: tuple[Guard, ...]


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that a rule reports.

    Attributes:
        code: The rule's code.
        message: What is wrong, and what to do.
        site: Where.
    """

    code: str
    message: str
    site: Site


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One run from outside.

    Attributes:
        kind: "module", "function", "method", "register", "construct" or "handler".
        name: The function.
        owner: The class whose object stands for all.
        events: The events that a handler is subscribed to.
        site: Where it is defined.
    """

    kind: str
    name: str = ""
    owner: ClassDefinition | None = None
    events: frozenset[EventValue] = frozenset()
    site: Site | None = None


@dataclasses.dataclass(eq=False)
class Frame:
    """One call, or the body of a module or class.

    Attributes:
        scope: Its names.
        entry: The run that it is a part of.
        function: The function; `None` outside functions.
        receiver: What `self` stands for.
        depth: The number of calls around it.
        guards: The conditions that hold here.
        returns: What it may return.
        yields: What it may yield.
        calls: Where the calls around it are, the outermost first.
        parts: The expressions of the call that is evaluated, for rules that compare them.
    """

    scope: Scope
    entry: Entry
    function: Function | None = None
    receiver: Value | None = None
    depth: int = 0
    guards: list[Guard] = dataclasses.field(default_factory=list)
    returns: set[Value] = dataclasses.field(default_factory=set)
    yields: set[Value] = dataclasses.field(default_factory=set)
    calls: tuple[Site, ...] = ()
    stack: tuple[Definition, ...] = ()
    in_class: ClassDefinition | None = None
    trace: list[Any] = dataclasses.field(default_factory=list)
    pending: list[Any] = dataclasses.field(default_factory=list)

    def site(self, position: Sequence[int]) -> Site:
        """Return a place in the file of this call."""
        return Site(self.scope.module, *position)


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call of something.

    Attributes:
        arguments: The values of each positional argument.
        named: The values of each keyword argument.
        frame: Where the call is made.
        site: The place of the call.
    """

    arguments: list[Values]
    named: Mapping[str, Values]
    frame: Frame
    site: Site

    def get(self, number: int, name: str) -> Values:
        """Return an argument by its position or its name."""
        return self.arguments[number] if len(self.arguments) > number else self.named.get(name, frozenset())

    def everything(self) -> Values:
        """Return what all arguments may be."""
        return frozenset().union(*self.arguments, *self.named.values())


class Watcher:
    """What rules override to see what a run does; it does nothing by itself.

    Attributes:
        names: What a function mentions that rules want to see: other functions need not be followed.
    """

    names: frozenset[str] = frozenset()

    def external_call(self, name: str, call: Call) -> Values | None:
        """See a call of something outside the program; return its values if they are known."""

    def method_call(self, owner: Value, name: str, call: Call) -> Values | None:
        """See a call of a method of something outside the program; return its values if they are known."""

    def attribute(self, owner: Value, name: str, frame: Frame, site: Site) -> Values | None:
        """See an attribute of something outside the program; return its values if they are known."""

    def read(self, owner: Instance, name: str, frame: Frame, site: Site) -> None:
        """See that an attribute of an object of the program is read."""

    def write(self, owner: Instance, name: str, values: Values, frame: Frame, site: Site) -> None:
        """See that an attribute of an object of the program is assigned."""

    def tested(self, test: Values, frame: Frame, site: Site) -> None:
        """See that a condition is tested."""

    def shown(self, values: Values, frame: Frame, site: Site) -> None:
        """See that values are turned into text."""

    def item(self, owner: Values, index: Values, frame: Frame, site: Site) -> Values | None:
        """See that something from outside the program is indexed; return the item if it is known."""

    def branched(self, guard: Guard, frame: Frame, sides: tuple[list[Any], list[Any]], ended: tuple[str, str]) -> None:
        """See what the two sides of a condition have done, and how they ended."""

    def repeated(self, source: Values, frame: Frame, site: Site, done: list[Any]) -> None:
        """See what a loop has done."""

    def finished(self, frame: Frame) -> None:
        """See that a call has ended."""


@dataclasses.dataclass
class Facts:
    """What the runs have found.

    Attributes:
        registrations: Handlers that are subscribed.
        triggers: Calls that trigger an event.
        findings: What can be reported at once.
        escaped: Objects that leave the program.
        open_registrations: Calls that subscribe something unknown.
        open_buses: Runs in which a bus leaves the program, with the bus.
        unfinished: Runs that were too long to follow to their end.
        classes: The classes, in the order of their definition.
        subscribers: The classes whose objects may have handlers: tasks, providers, and those with tags.
        functions: The functions that others may call.
        constructed: The places where objects are created, by class.
        configurators: Where a configurator is created.
        mentioned: Tagged methods that are named without being called, by run.
        event_loads: Where each event is named.
        event_uses: Where an event is given to `subscribe`.
        called: The functions that have been run.
        unchecked: What could not be verified, by place.
        attempted: Classes whose objects are given to `subscribe_annotated` in a way that fails.
        tagged_functions: The tags of functions of modules.
        lost_tags: The functions that have lost their tags to a decorator.
    """

    registrations: list[Registration] = dataclasses.field(default_factory=list)
    triggers: list[Trigger] = dataclasses.field(default_factory=list)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    escaped: set[Value] = dataclasses.field(default_factory=set)
    open_registrations: list[tuple[Entry, Site]] = dataclasses.field(default_factory=list)
    open_buses: list[tuple[Entry, Bus]] = dataclasses.field(default_factory=list)
    unfinished: set[Entry] = dataclasses.field(default_factory=set)
    classes: list[ClassDefinition] = dataclasses.field(default_factory=list)
    subscribers: set[ClassDefinition] = dataclasses.field(default_factory=set)
    functions: list[tuple[Function, ClassDefinition | None]] = dataclasses.field(default_factory=list)
    constructed: dict[ClassDefinition, set[tuple[Site, Entry]]] = dataclasses.field(default_factory=dict)
    configurators: list[Site] = dataclasses.field(default_factory=list)
    mentioned: set[tuple[Entry, Definition]] = dataclasses.field(default_factory=set)
    event_loads: dict[EventValue, set[Site]] = dataclasses.field(default_factory=dict)
    event_uses: dict[EventValue, set[Site]] = dataclasses.field(default_factory=dict)
    called: set[Definition] = dataclasses.field(default_factory=set)
    unchecked: dict[Site, str] = dataclasses.field(default_factory=dict)
    attempted: set[ClassDefinition] = dataclasses.field(default_factory=set)
    tagged_functions: dict[Definition, tuple[Tag, ...]] = dataclasses.field(default_factory=dict)
    lost_tags: set[Definition] = dataclasses.field(default_factory=set)

    def num_calls(self) -> int:
        """Return how many calls of a bus have been seen."""
        return len(self.registrations) + len(self.triggers)

    def report(self, code: str, message: str, site: Site) -> None:
        """Add a finding, once."""
        found = Finding(code, message, site)
        if found not in self.findings:
            self.findings.append(found)
