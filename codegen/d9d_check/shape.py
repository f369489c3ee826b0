"""What calls do, in the shape of their source: branches, loops, jumps, calls, and generators with what drives them.

A rule about order derives its own kind of `Atom`, adds it to the traces of calls, and follows the steps of each root.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from d9d_check.facts import Call, Frame, Guard, Watcher
from d9d_check.lower import Node
from d9d_check.values import (
    Attribute,
    ClassDefinition,
    Constant,
    Container,
    Definition,
    External,
    Function,
    Method,
    Site,
    Value,
    Values,
)

_GENERATORS: Final = frozenset({"iterator", "manager"})


@dataclasses.dataclass(eq=False)
class Step:
    """A part of what a call does."""

    @property
    def parts(self) -> "list[Steps]":
        """What it may do in its turn."""
        return []


Steps: TypeAlias = list[Step]


class Atom(Step):
    """Something that a rule wants to see."""


class Opaque(Step):
    """Something that may run anything."""


@dataclasses.dataclass(eq=False)
class Jump(Step):
    """A `return`, `raise`, `break` or `continue`."""

    kind: str


@dataclasses.dataclass(eq=False)
class Choice(Step):
    """One of several ways."""

    ways: list[Steps]

    @property
    def parts(self) -> list[Steps]:
        """Its ways."""
        return self.ways


@dataclasses.dataclass(eq=False)
class Attempt(Step):
    """A `try` statement: its body and its `else`, what catches exceptions, and what comes at the end."""

    tried: list[Steps]
    handlers: list[Steps]
    final: Steps

    @property
    def parts(self) -> list[Steps]:
        """All its blocks."""
        return [*self.tried, *self.handlers, self.final]


@dataclasses.dataclass(eq=False)
class Made(Step):
    """What a call of a function does: at once, or for a generator or a coroutine when something runs it.

    Attributes:
        site: Where the call is.
        definition: The function.
        steps: What it does.
        is_later: Whether the call does nothing at once.
        is_kept: Whether it belongs to a call that is written here.
    """

    site: Site
    definition: Definition
    steps: Steps
    is_later: bool
    is_kept: bool = False

    def makes(self, values: Iterable[Value]) -> bool:
        """Return whether one of some values is the generator that this is."""
        own = self.definition.site
        return any(
            isinstance(value, Container)
            and value.kind in _GENERATORS
            and value.site is not None
            and value.site[1:] == own[1:]
            and value.site.module.partition(" ")[0] == own.module
            for value in values
        )


@dataclasses.dataclass(eq=False)
class Driven(Step):
    """A loop, a `with` statement or a `yield`, which may drive a generator.

    Attributes:
        values: What the loop iterates over, what the block is within, what is yielded.
        generator: The generator, if the program defines it.
    """

    values: Values
    generator: Made | None = dataclasses.field(default=None, kw_only=True)

    @property
    def parts(self) -> list[Steps]:
        """What the generator does."""
        return [] if self.generator is None else [self.generator.steps]


class Yield(Driven):
    """A `yield`; with a generator, a `yield from`."""


@dataclasses.dataclass(eq=False)
class Within(Driven):
    """A block within a context manager that a generator makes."""

    body: Steps

    @property
    def parts(self) -> list[Steps]:
        """What the generator does, and the block."""
        return [*super().parts, self.body]


@dataclasses.dataclass(eq=False)
class Loop(Driven):
    """A loop.

    Attributes:
        passes: What one pass may do, by item where the items are known one by one.
        is_endless: Whether it ends by a jump only.
    """

    passes: list[Steps]
    is_endless: bool

    @property
    def parts(self) -> list[Steps]:
        """What the generator does, and the passes."""
        return [*super().parts, *self.passes]


@dataclasses.dataclass(eq=False)
class Invocation(Step):
    """A call, before what it runs.

    Attributes:
        site: Where it is.
        num_callees: How many values may be called.
        is_plain: Whether it is one of a builtin or a class, which runs nothing else of the program.
        ways: What it may run.
    """

    site: Site
    num_callees: int
    is_plain: bool
    ways: list[Made] = dataclasses.field(default_factory=list)

    @property
    def is_sure(self) -> bool:
        """Whether it runs one thing without doubt."""
        return len(self.ways) == self.num_callees == 1

    @property
    def parts(self) -> list[Steps]:
        """What it may run."""
        return [each.steps for each in self.ways]


@dataclasses.dataclass(eq=False)
class Handed(Step):
    """A function that is handed to code that is not in view, which may call it from here on."""

    definition: Definition


@dataclasses.dataclass(eq=False)
class _Pass(Step):
    steps: Steps


@dataclasses.dataclass(frozen=True, eq=False)
class Root:
    """Code that was run from outside, or by what it is handed to.

    Attributes:
        definition: The function; `None` for a module.
        owner: The class of `self`.
        steps: What it does.
    """

    definition: Definition | None
    owner: ClassDefinition | None
    steps: Steps


class Shape(Watcher):
    """Keeps what calls do in the shape of their source.

    Attributes:
        roots: All code that was run from outside, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Root] = []

    def written(self, node: Node, callee: Values, call: Call) -> Values | None:
        """Note a call, to which what it runs is added."""
        name = called_name(node[1], callee)
        is_plain = name.lstrip("_")[:1].isupper() or any(
            isinstance(value, External) and value.name.startswith("builtins.") for value in callee
        )
        call.frame.trace.append(Invocation(call.site, len(callee), is_plain))
        return None

    def jumped(self, kind: str, frame: Frame) -> None:
        """Note a jump."""
        frame.trace.append(Jump(kind))

    def yielded(self, values: Values, frame: Frame) -> None:
        """Note a `yield`."""
        frame.trace.append(Yield(values))

    def awaited(self, frame: Frame) -> None:
        """Note that a coroutine runs now."""
        for each in reversed(frame.trace):
            if not isinstance(each, Made):
                break
            each.is_later = bool(each.definition.facts["generator"])

    def passed(self, frame: Frame) -> None:
        """Keep apart what the passes of a loop do."""
        steps = frame.trace
        start = next((number for number in range(len(steps), 0, -1) if isinstance(steps[number - 1], _Pass)), 0)
        steps[start:] = [_Pass(_grouped(steps[start:]))]

    def repeated(self, source: Values, items: Values, frame: Frame, done: Steps) -> None:  # noqa: ARG002 -- the signature of Watcher
        """Note a loop."""
        passes = [each.steps for each in done if isinstance(each, _Pass)] or [_grouped(done)]
        numbers = (value.value for value in source if isinstance(value, Constant) and isinstance(value.value, int))
        done[:] = [Loop(source, passes, is_endless=any(numbers))]

    def joined(self, guard: Guard, sides: list[Steps]) -> Steps:
        """Note a condition. That an emitter has handlers holds."""
        ways = [_grouped(side) for side in sides]
        is_asked = any(isinstance(value, Attribute) and value.name == "handlers" for value in guard.test)
        if len(ways) == 1 or (is_asked and not any(ways[1:])):
            return ways[0]
        return [Choice(ways)] if any(ways) else []

    def attempted(self, tried: list[Steps], handlers: list[Steps], final: Steps) -> Steps:
        """Note a `try` statement."""
        if not any((*tried, *handlers, final)):
            return []
        return [Attempt([*map(_grouped, tried)], [*map(_grouped, handlers)], _grouped(final))]

    def enclosed(self, managers: Values, done: Steps) -> None:
        """Note a `with` statement."""
        done[:] = self.within(_grouped(done), managers)
        if not all(self.is_known(value) for value in managers):
            done.append(Opaque())

    def is_known(self, manager: Value) -> bool:
        """Return whether it is known what a context manager does in the end."""
        return isinstance(manager, Container)

    def within(self, steps: Steps, managers: Values) -> Steps:
        """Return what a `with` statement does, where what makes its managers stands before the block."""
        for number, step in enumerate(steps):
            begun = self.begun(step, steps[number + 1 :], managers)
            if begun is not None:
                return [*steps[:number], *begun]
        return steps

    def begun(self, step: Step, rest: Steps, managers: Values) -> Steps | None:
        """Return what a block does from a step on that makes its context manager; `None` for any other step."""
        if isinstance(step, Made) and step.makes(managers):
            return [Within(managers, self.within(rest, managers), generator=step)]
        return None

    def finished(self, frame: Frame) -> None:
        """Keep what a call has done."""
        if frame.is_part:
            return
        steps = _grouped(frame.trace)
        if frame.function is None:
            self.roots.append(Root(None, None, steps))
            return
        definition, site = frame.function.definition, frame.calls[-1]
        if frame.depth == 1 or site == definition.site:
            self.roots.append(Root(definition, frame.entry.owner if frame.depth == 1 else None, steps))
        is_later = bool(definition.facts["generator"] or definition.facts["async"])
        frame.trace[:] = [Made(site, definition, steps, is_later)]


def _grouped(trace: Steps) -> Steps:
    """Return what a block does: each call with what it runs, and each loop with the generator that it drives."""
    found: Steps = []
    call: Invocation | None = None
    for step in trace:
        if isinstance(step, Made) and not step.is_kept:
            if step.site == step.definition.site and leads(step.steps):
                found.append(Handed(step.definition))
            elif call is not None and step.site == call.site and leads(step.steps):
                step.is_kept = True
                if not step.is_later:
                    call.ways.append(step)
                elif call is found[-1]:
                    found[-1] = step
                else:
                    found.append(step)
            continue  # anything else is a property
        if isinstance(step, Loop | Yield) and step.generator is None:
            made = next((each for each in reversed(found) if isinstance(each, Made) and each.makes(step.values)), None)
            if made is not None:
                found.remove(made)
                step.generator = made
        call = step if isinstance(step, Invocation) and not step.ways else None
        found.append(step)
    return found


def leads(steps: Steps) -> bool:
    """Return whether a block may do, or cause, something that the rule wants to see."""
    return any(isinstance(step, Atom | Handed) or any(map(leads, step.parts)) for step in steps)


def atoms_in(steps: Steps) -> Iterator[Atom]:
    """Yield what the rule wants to see, of what a block may do."""
    for step in steps:
        if isinstance(step, Atom):
            yield step
        for part in step.parts:
            yield from atoms_in(part)


def functions_in(steps: Steps) -> Iterator[Definition]:
    """Yield the functions of the program that a block runs, directly or not."""
    for step in steps:
        if isinstance(step, Driven) and step.generator is not None:
            yield step.generator.definition
        elif isinstance(step, Invocation):
            yield from (way.definition for way in step.ways)
        for part in step.parts:
            yield from functions_in(part)


def handed_in(steps: Steps) -> Iterator[Definition]:
    """Yield the functions that a block hands to code that is not in view."""
    for step in steps:
        if isinstance(step, Handed):
            yield step.definition
        for part in step.parts:
            yield from handed_in(part)


def called_name(node: Node, callee: Values) -> str:
    """Return the last part of the called name, by its original name where it was imported under another."""
    if node[0] == "attribute":
        return str(node[2])
    names = [value.name.rpartition(".")[2] for value in callee if isinstance(value, External)]
    return names[0] if names else str(node[1]) if node[0] == "name" else ""


def is_followed(callee: Values) -> bool:
    """Return whether one of the values that are called is a function of the program."""
    return any(isinstance(value, Function | Method) for value in callee)
