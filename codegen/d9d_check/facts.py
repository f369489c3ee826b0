"""What running a program has found: who subscribes what on which bus, what triggers events, what leaves the program.

Also what a run looks like while it happens: the calls, the conditions, and what rules can watch.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from d9d_check.lower import Node
from d9d_check.source import MANGLED
from d9d_check.values import (
    Bus,
    ClassDefinition,
    Definition,
    Differs,
    EventValue,
    Function,
    Instance,
    Local,
    Scope,
    Site,
    Tag,
    Value,
    Values,
    immutable,
    individual,
)

Assigned: TypeAlias = frozenset[tuple[ClassDefinition, str]]
"""Attributes that are not `None`, by their class and name."""


@individual
class Guard:
    """A condition under which code runs.

    Attributes:
        test: The values of the condition.
        site: Where it is.
        is_steady: Whether it is the same in every step.
        is_either: Whether it may hold for another reason than the one that differs between ranks.
        ends_with_loop: Whether it only holds until the end of a loop.
        lasts_with: The attributes that are not `None` where it holds; it goes on to hold if none of them is reset.
            `None` if it depends on anything else.
    """

    test: Values
    site: Site
    is_steady: bool = False
    ends_with_loop: bool = False
    is_either: bool = False
    lasts_with: Assigned | None = None

    @property
    def differs(self) -> Differs | None:
        """Why it does not hold on all ranks alike."""
        found = [value for value in self.test if isinstance(value, Differs)]
        found += [value.on_host() for value in self.test if isinstance(value, Local) and not value.is_whole]
        # What differs for certain comes first, then what is computed last, which may have been reduced.
        why = min(found, key=lambda each: (*each.order, each.why), default=None)
        return None if why is None else dataclasses.replace(why, condition=self.site)


@immutable
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
        is_periodic: Whether the handler is called in some steps only.
        counts_steps: Whether that is because it is called in every N-th step.
        is_on_main_only: Whether the handler is called on the main process only.
        is_once: Whether it is unsubscribed when it has been called.
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
    is_periodic: bool = False
    counts_steps: bool = False
    is_on_main_only: bool = False
    is_once: bool = False


@immutable
class Claim:
    """An object whose handlers a configurator subscribes.

    Attributes:
        entry: What was run from outside.
        number: The number of the configurator among all.
        configurator: Where it is called.
        target: The object.
        site: What subscribes it: the same call for one of its `subscribers`, or a call of `subscribe_annotated`.
    """

    entry: "Entry"
    number: int
    configurator: Site
    target: Instance
    site: Site


@immutable
class Trigger:
    """A call that triggers an event, or makes an emitter, which may.

    Attributes:
        bus: The bus.
        events: The events that it may trigger.
        site: Where the call is.
        entry: What was run from outside.
        guards: The conditions under which it is done.
        is_now: Whether it triggers the event at once.
    """

    bus: Bus | None
    events: frozenset[EventValue]
    site: Site
    entry: "Entry"
    guards: tuple[Guard, ...]
    is_now: bool


@immutable
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


@individual
class Entry:
    """One run from outside.

    Attributes:
        kind: "module", "function", "closure", "method", "register", "construct" or "handler".
        name: The function.
        owner: The class whose object stands for all.
        events: The events that a handler is subscribed to.
        is_filtered: Whether the handler is not called each time that its event happens.
        counts_steps: Whether it is called in every N-th step.
        is_in_every_step: Whether the handler is called in every step.
        is_on_main_only: Whether the handler is called on the main process only.
        is_once: Whether the handler is unsubscribed when it has been called.
    """

    kind: str
    name: str = ""
    owner: ClassDefinition | None = None
    events: frozenset[EventValue] = frozenset()
    is_filtered: bool = False
    counts_steps: bool = False
    is_in_every_step: bool = False
    is_on_main_only: bool = False
    is_once: bool = False


@dataclasses.dataclass(eq=False, repr=False)
class Frame:
    """One call, or the body of a module or class.

    Attributes:
        scope: Its names.
        entry: The run that it is a part of.
        function: The function; `None` outside functions.
        receiver: What `self` stands for.
        depth: The number of calls around it.
        guards: The conditions that hold here.
        num_doubts: The loops and attempts around, whose body may not be run to its end.
        num_guards_around: How many of the conditions are those of the call itself.
        returns: What it may return.
        yields: What it may yield.
        calls: Where the calls around it are, the outermost first.
        is_part: Whether it is a comprehension of the call.
        trace: What the watcher has seen, in order.
        unmatched: What the watcher has still to compare when the call ends.
    """

    scope: Scope
    entry: Entry
    function: Function | None = None
    receiver: Value | None = None
    depth: int = 0
    guards: list[Guard] = dataclasses.field(default_factory=list)
    num_doubts: int = 0
    num_guards_around: int = 0
    returns: set[Value] = dataclasses.field(default_factory=set)
    yields: set[Value] = dataclasses.field(default_factory=set)
    calls: tuple[Site, ...] = ()
    stack: tuple[Definition, ...] = ()
    in_class: ClassDefinition | None = None
    trace: list[Any] = dataclasses.field(default_factory=list)
    unmatched: list[Any] = dataclasses.field(default_factory=list)
    is_part: bool = False

    def site(self, position: Sequence[int]) -> Site:
        """Return a place in the file of this call."""
        return Site(self.scope.module, *position)


@individual
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

    def __init__(self) -> None:
        self.elements: Callable[[Values], Values] = lambda _: frozenset()
        """Returns the items of containers; the interpreter sets it."""

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

    def demanded(self, owner: Instance, name: str, frame: Frame, site: Site) -> None:
        """See that an attribute is asserted not to be `None`."""

    def wrote_elsewhere(self, name: str, values: Values) -> None:
        """See that an attribute of something unknown is assigned."""

    def tested(self, test: Values, frame: Frame, site: Site) -> None:
        """See that a condition is tested."""

    def shown(self, values: Values, frame: Frame, site: Site) -> None:
        """See that values are turned into text."""

    def counted(self, values: Values, how: str, frame: Frame, site: Site) -> None:
        """See that Python needs values as numbers, and how it uses them."""

    def item(self, owner: Values, index: Values, frame: Frame, site: Site) -> Values | None:
        """See that something from outside the program is indexed; return the item if it is known."""

    def branched(self, guard: Guard, frame: Frame, sides: tuple[list[Any], list[Any]], ended: tuple[str, str]) -> None:
        """See what the two sides of a condition have done, and how they ended."""

    def repeated(self, source: Values, items: Values, frame: Frame, done: list[Any]) -> None:
        """See what a loop over items has done."""

    def enclosed(self, managers: Values, done: list[Any]) -> None:
        """See what a `with` block has done."""

    def marked(self, marks: frozenset[str], name: str, call: Call) -> None:
        """See a call of a function that `d9d.collective` or `d9d.waits_for_device` marks."""

    def caught(self, kinds: Values, frame: Frame, done: list[Any]) -> Values | None:
        """See exceptions that are caught after a block; return what says whether it was left, if that may differ.

        Args:
            kinds: The classes of the exceptions; empty for all.
            frame: Where they are caught.
            done: What the block has done; what all ranks have surely done is removed.
        """

    def finished(self, frame: Frame) -> None:
        """See that a call has ended."""

    def written(self, node: Node, callee: Values, call: Call) -> Values | None:
        """See a call as it is written, before it is followed; return its values if it is not to be followed."""

    def jumped(self, kind: str, frame: Frame) -> None:
        """See a `return`, `raise`, `break` or `continue`."""

    def yielded(self, values: Values, frame: Frame) -> None:
        """See that a generator yields."""

    def awaited(self, frame: Frame) -> None:
        """See that what has just been called is awaited."""

    def passed(self, frame: Frame) -> None:
        """See the end of one pass of a loop."""

    # A trace is what the parts of a call have done, in order. These say what several parts have done together.

    def joined(self, guard: Guard, sides: list[list[Any]]) -> list[Any]:  # noqa: ARG002 -- for those that override it
        """Return what the sides of a condition have done; one that is missing does nothing."""
        return [each for side in sides for each in side]

    def attempted(self, tried: list[list[Any]], handlers: list[list[Any]], final: list[Any]) -> list[Any]:
        """Return what a `try` statement has done: its body and its `else`, what catches exceptions, and the end."""
        return [each for part in (*tried, *handlers, final) for each in part]


class Watchers(Watcher):
    """Several watchers as one; the first that knows what something returns says it.

    Args:
        watchers: The watchers.
    """

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        super().__init__()
        self._watchers = watchers
        for each in watchers:
            each.elements = self._elements_of
        # These are called often, and most watchers look at few of them.
        self._calls = [each.external_call for each in watchers if _overrides(each, "external_call")]
        self._method_calls = [each.method_call for each in watchers if _overrides(each, "method_call")]
        self._attributes = [each.attribute for each in watchers if _overrides(each, "attribute")]
        self._reads = [each.read for each in watchers if _overrides(each, "read")]
        self._tests = [each.tested for each in watchers if _overrides(each, "tested")]
        self.names = frozenset().union(*(each.names for each in watchers))

    def _elements_of(self, values: Values) -> Values:
        return self.elements(values)  # the interpreter sets it later

    def external_call(self, name: str, call: Call) -> Values | None:
        """Show all of them a call."""
        return _first([see(name, call) for see in self._calls])

    def method_call(self, owner: Value, name: str, call: Call) -> Values | None:
        """Show all of them a call."""
        return _first([see(owner, name, call) for see in self._method_calls])

    def attribute(self, owner: Value, name: str, frame: Frame, site: Site) -> Values | None:
        """Show all of them an attribute."""
        return _first([see(owner, name, frame, site) for see in self._attributes])

    def item(self, owner: Values, index: Values, frame: Frame, site: Site) -> Values | None:
        """Show all of them an item."""
        return _first([each.item(owner, index, frame, site) for each in self._watchers])

    def read(self, owner: Instance, name: str, frame: Frame, site: Site) -> None:
        """Show all of them that an attribute is read."""
        for see in self._reads:
            see(owner, name, frame, site)

    def write(self, owner: Instance, name: str, values: Values, frame: Frame, site: Site) -> None:
        """Show all of them that an attribute is assigned."""
        for each in self._watchers:
            each.write(owner, name, values, frame, site)

    def demanded(self, owner: Instance, name: str, frame: Frame, site: Site) -> None:
        """Show all of them an assertion."""
        for each in self._watchers:
            each.demanded(owner, name, frame, site)

    def wrote_elsewhere(self, name: str, values: Values) -> None:
        """Show all of them that an attribute of something unknown is assigned."""
        for each in self._watchers:
            each.wrote_elsewhere(name, values)

    def tested(self, test: Values, frame: Frame, site: Site) -> None:
        """Show all of them a condition."""
        for see in self._tests:
            see(test, frame, site)

    def shown(self, values: Values, frame: Frame, site: Site) -> None:
        """Show all of them what is put into a text."""
        for each in self._watchers:
            each.shown(values, frame, site)

    def counted(self, values: Values, how: str, frame: Frame, site: Site) -> None:
        """Show all of them what is used as a number."""
        for each in self._watchers:
            each.counted(values, how, frame, site)

    def branched(self, guard: Guard, frame: Frame, sides: tuple[list[Any], list[Any]], ended: tuple[str, str]) -> None:
        """Show all of them both sides of a condition."""
        for each in self._watchers:
            each.branched(guard, frame, sides, ended)

    def repeated(self, source: Values, items: Values, frame: Frame, done: list[Any]) -> None:
        """Show all of them a loop."""
        for each in self._watchers:
            each.repeated(source, items, frame, done)

    def enclosed(self, managers: Values, done: list[Any]) -> None:
        """Show all of them a block."""
        for each in self._watchers:
            each.enclosed(managers, done)

    def marked(self, marks: frozenset[str], name: str, call: Call) -> None:
        """Show all of them a call of a marked function."""
        for each in self._watchers:
            each.marked(marks, name, call)

    def caught(self, kinds: Values, frame: Frame, done: list[Any]) -> Values | None:
        """Show all of them exceptions that are caught."""
        return _first([each.caught(kinds, frame, done) for each in self._watchers])

    def attempted(self, tried: list[list[Any]], handlers: list[list[Any]], final: list[Any]) -> list[Any]:
        """Show all of them a `try` statement."""
        for each in self._watchers:
            each.attempted(tried, handlers, final)
        return super().attempted(tried, handlers, final)

    def finished(self, frame: Frame) -> None:
        """Show all of them that a call has ended."""
        for each in self._watchers:
            each.finished(frame)


def _overrides(watcher: Watcher, name: str) -> bool:
    return getattr(type(watcher), name) is not getattr(Watcher, name)


def _first(results: list[Values | None]) -> Values | None:
    """Return the first result that is known."""
    return next((each for each in results if each is not None), None)


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
        configures: Whether the program creates a configurator, here or in a part that shares nothing with this one.
        mentioned: Tagged methods that are named without being called, by run.
        event_loads: Where each event is named.
        event_uses: Where an event is given to `subscribe`.
        called: The functions that have been run.
        unchecked: What could not be verified, by place.
        attempted: Classes whose objects are given to `subscribe_annotated` in a way that fails.
        tagged: The functions that are tagged anywhere.
        tagged_functions: The tags of functions of modules.
        given_attributes: The functions whose attributes are written all at once, as in `call.__dict__.update(...)`.
        lost_tags: The functions that have lost their tags to a decorator.
        nested: Tagged functions within functions, with the runs that define them.
        marked: The names of the functions that a mark of d9d describes.
        closures: All functions within functions.
        ending: Runs that end a subscription, or leave that to a block.
        tasks: What configurators are given as their task, by run.
        given: The classes of the objects that configurators are given.
        evaluated: The classes of the tasks of evaluations, which listen to the training whose evaluations they are.
        claims: Whose handlers each configurator subscribes.
        num_made: How often each run creates an object at a place; more than once where that is not known.
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
    configures: bool = False
    mentioned: set[tuple[Entry, Definition]] = dataclasses.field(default_factory=set)
    event_loads: dict[EventValue, set[Site]] = dataclasses.field(default_factory=dict)
    event_uses: dict[EventValue, set[Site]] = dataclasses.field(default_factory=dict)
    called: set[Definition] = dataclasses.field(default_factory=set)
    unchecked: dict[Site, str] = dataclasses.field(default_factory=dict)
    attempted: set[ClassDefinition] = dataclasses.field(default_factory=set)
    tagged: set[Definition] = dataclasses.field(default_factory=set)
    tagged_functions: dict[Definition, tuple[Tag, ...]] = dataclasses.field(default_factory=dict)
    lost_tags: set[Definition] = dataclasses.field(default_factory=set)
    given_attributes: set[Definition] = dataclasses.field(default_factory=set)
    nested: list[tuple[Function, Entry]] = dataclasses.field(default_factory=list)
    marked: set[str] = dataclasses.field(default_factory=set)
    closures: dict[Definition, Function] = dataclasses.field(default_factory=dict)
    ending: set[Entry] = dataclasses.field(default_factory=set)
    tasks: list[tuple[Entry, Values]] = dataclasses.field(default_factory=list)
    given: set[ClassDefinition] = dataclasses.field(default_factory=set)
    evaluated: set[ClassDefinition] = dataclasses.field(default_factory=set)
    claims: list[Claim] = dataclasses.field(default_factory=list)
    num_made: Counter[tuple[Instance, Entry]] = dataclasses.field(default_factory=Counter)

    def num_calls(self) -> int:
        """Return how many calls of a bus have been seen."""
        return len(self.registrations) + len(self.triggers)

    def report(self, code: str, message: str, site: Site) -> None:
        """Add a finding, once. Private names are those of the source."""
        classes = {definition.name.lstrip("_") for definition in self.classes}
        plain = MANGLED.sub(lambda found: found[2] if found[1] in classes else found[0], message)
        found = Finding(code, plain, site)
        if found not in self.findings:
            self.findings.append(found)
