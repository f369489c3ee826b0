"""Where source triggers and handles events, as a run of `d9d_check` shows it.

The interpreter knows which event, emitter or function an expression stands for.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from d9d_check.catalogues import Catalogues, moment_of
from d9d_check.extent import Extent
from d9d_check.facts import Call, Entry, Frame
from d9d_check.lower import Node
from d9d_check.program import run_program
from d9d_check.shape import Atom, Root, Shape, Step, Steps, called_name, is_followed
from d9d_check.source import Module
from d9d_check.values import (
    NONE,
    UNKNOWN,
    Attribute,
    Bounded,
    Bus,
    ClassDefinition,
    Definition,
    Emitter,
    EventValue,
    External,
    Function,
    Method,
    Tag,
    Tagger,
    Value,
    Values,
)
from d9d_check.values import Site as Place
from d9d_codegen.coverage.order import Order, Site
from d9d_codegen.diagnostic import Source, Span

_METHODS_OF_BUS: Final = frozenset({"bounded", "emitter", "subscribe", "trigger"})
_NAMED: Final = frozenset({"name", "attribute", "call", "item"})
"""The kinds of expressions that know where they are."""
_OUTSIDE: Final = ("d9d.loop.event",)
"""The Event Bus itself is known. The loops of d9d are followed like any other source."""
_MAX_STEPS: Final = 20_000
_MAX_DEPTH: Final = 40


@dataclass(eq=False)
class Trigger(Atom):
    """A trigger of one of some events, which differ in nothing else."""

    sites: list[Site]


@dataclass(eq=False)
class _Begun(Step):
    """A `bounded` call, whose events its `with` statement triggers."""

    place: Place


@dataclass
class Sites:
    """Everything that the given files do with events.

    Attributes:
        triggers: Where events are triggered.
        handlers: Where handlers subscribe to events.
        unpaired: The sides of `bounded` calls that are not a pair.
        unplaced: Events that are triggered at any time: by emitters that are handed on.
        roots: All code that was run from outside.
        crashes: What could not be followed because of a fault of the engine: where, and why.
        closures: The functions within functions, which nothing can call before they are made.
        escaped: The functions that are handed to code that is not given.
        inherited: The classes that have others below them.
    """

    triggers: dict[Site, None] = field(default_factory=dict)
    handlers: dict[Site, None] = field(default_factory=dict)
    unpaired: dict[tuple[Site, Site], None] = field(default_factory=dict)
    unplaced: set[str] = field(default_factory=set)
    roots: list[Root] = field(default_factory=list)
    crashes: dict[tuple[Path, Span], str] = field(default_factory=dict)
    closures: set[Definition] = field(default_factory=set)
    escaped: set[Definition] = field(default_factory=set)
    inherited: set[ClassDefinition] = field(default_factory=set)


def trace(modules: Sequence[Module], order: Order) -> Sites:
    """Run source, and return what it does with events."""
    tracer = _Tracer(modules, order)
    emitters = {
        name
        for module in modules
        for function in (module.summary or {})["functions"]
        if "emitter" in function["calls"]
        for name in _emitters_in(function["body"])
    }
    extent = Extent(
        _OUTSIDE,
        leading=frozenset({*_METHODS_OF_BUS - {"subscribe"}, "call", *emitters}),
        leading_alone=frozenset({"subscribe"}),
        follows_calls_only=True,
        packages=frozenset(),
        max_steps=_MAX_STEPS,
        max_steps_of_function=_MAX_STEPS,
        max_depth=_MAX_DEPTH,
        runs_unseen=True,
    )
    followed = [module for module in modules if not extent.is_outside(module.name)]
    moments = {path: moment_of({"id": str(event.id)}, {}) for path, event in order.events.items()}
    program = run_program(followed, Catalogues(moments, {}, {}, (), {}, {}, ""), tracer, extent=extent)
    sites = tracer.finish(program.crashes)
    sites.closures.update(program.facts.closures)
    for value in program.facts.escaped:
        function = value.function if isinstance(value, Method) else value
        if isinstance(function, Function):
            sites.escaped.add(function.definition)
    sites.inherited.update(base for each in program.facts.classes for base in each.ancestry[1:])
    return sites


class _Tracer(Shape):
    """Notes what calls do with events.

    Args:
        modules: The source.
        order: The declared order of events.
    """

    def __init__(self, modules: Sequence[Module], order: Order) -> None:
        super().__init__()
        self._sources = {module.key: Source(module.path, module.text) for module in modules}
        self._order = order
        self._sites = Sites()
        self._begun: dict[Place, tuple[list[Site], list[Site]]] = {}
        self._ended: set[Place] = set()
        self._made: dict[tuple[Place, str], tuple[Site, Entry]] = {}

    def finish(self, crashes: Iterable[tuple[Place, str]]) -> Sites:
        """Return what has been found in the end."""
        for place, reason in crashes:
            source = self._sources[place.module]
            self._sites.crashes[source.path, Span(place.line, place.column + 1, 1)] = reason
        for place in self._begun.keys() - self._ended:  # it may be entered at any time
            self._unplaced(site for side in self._begun[place] for site in side)
        self._sites.roots = self.roots
        return self._sites

    # Calls

    def written(self, node: Node, callee: Values, call: Call) -> Values | None:
        """Note what a call does with events; other calls are followed."""
        name = called_name(node[1], callee)
        emitters = [emitter for value in callee if (emitter := _emitter_in(value)) is not None]
        if emitters:
            self._emit(emitters, node, call)
            return NONE
        found = self._call_of_bus(name, node, call) if name in _METHODS_OF_BUS else None
        if found is not None:
            return found
        if not is_followed(callee):
            self._hand_on([*call.arguments, *call.named.values()])
        return super().written(node, callee, call)

    def _call_of_bus(self, name: str, node: Node, call: Call) -> Values | None:
        first = self._argument(node, call, 0, "event_pre" if name == "bounded" else "event")
        if name == "bounded":
            second = self._argument(node, call, 1, "event_post")
            if not (first or second):
                return None
            self._bind(first, second, call)
            return frozenset({Bounded(_events(call.get(0, "event_pre")), call.site)})
        if not first:
            return None
        if name == "subscribe":
            self._sites.handlers |= dict.fromkeys(first)
            return frozenset({Tagger(Tag(_events(call.get(0, "event")), call.site))})
        if name == "emitter":
            self._made |= {(call.site, str(site.event)): (site, call.frame.entry) for site in first}
            return frozenset({Emitter(Bus(), _events(call.get(0, "event")), call.site)})
        self._trigger(first, call.frame)
        return UNKNOWN

    def _bind(self, pre: list[Site], post: list[Site], call: Call) -> None:
        for one in pre:
            for other in post:
                is_known = {one.event, other.event} <= self._order.events.keys()
                if is_known and len(pre) == len(post) == 1 and self._order.other_side(one.event) != other.event:
                    self._sites.unpaired[one, other] = None
        self._begun[call.site] = (pre, post)
        call.frame.trace.append(_Begun(call.site))

    def _emit(self, emitters: Iterable[Emitter], node: Node, call: Call) -> None:
        """Note a call of an emitter: `emitter.call(context)`, or `emitter(context)`."""
        if any(each.name in _METHODS_OF_BUS for each in call.frame.stack):
            return  # where the event is given to this function, it is triggered
        sites: list[Site] = []
        for emitter in emitters:
            for made, entry in self._of(emitter):
                here = self._site(made.event, node[1], call.frame)
                if call.frame.entry.kind == "closure" and entry is not call.frame.entry:
                    self._unplaced([here])
                else:
                    sites.append(here)
        self._trigger(sites, call.frame)

    def _of(self, emitter: Emitter) -> list[tuple[Site, Entry]]:
        """Return where an emitter is made, for each of its events that has a constant."""
        names = sorted(self._order.canonical(event.name) for event in emitter.events)
        return [made for name in names if (made := self._made.get((emitter.site, name))) is not None]

    def _trigger(self, sites: list[Site], frame: Frame) -> None:
        if sites:
            self._sites.triggers |= dict.fromkeys(sites)
            frame.trace.append(Trigger(sites))

    def _unplaced(self, sites: Iterable[Site]) -> None:
        """Note triggers that happen at another time."""
        for site in sites:
            self._sites.triggers[site] = None
            self._sites.unplaced.add(site.event)

    def _hand_on(self, given: Iterable[Values]) -> None:
        for values in given:
            for value in values:
                emitter = _emitter_in(value)
                if emitter is not None:
                    self._unplaced(site for site, _ in self._of(emitter))

    def wrote_elsewhere(self, name: str, values: Values) -> None:  # noqa: ARG002 -- the signature of Watcher
        """See that something unknown may keep an emitter."""
        self._hand_on([values])

    # Sites

    def _argument(self, node: Node, call: Call, number: int, name: str) -> list[Site]:
        """Return the events that an argument of a call stands for."""
        named = next((each for key, each in node[3] if key == name), node)
        written = node[2][number] if len(node[2]) > number else named
        return [
            self._site(event, written if written[0] in _NAMED else node, call.frame)
            for event in sorted({*map(_name_of, call.get(number, name))} - {""})
        ]

    def _site(self, event: str, node: Node, frame: Frame) -> Site:
        source = self._sources[frame.scope.module]
        line, column, end_line, end_column = node[-1]
        text = source.line(line)
        start = len(text.encode()[:column].decode(errors="replace"))
        end = len(text.encode()[:end_column].decode(errors="replace")) if end_line == line else len(text)
        path = "the module" if frame.function is None else str(frame.function.definition.facts["path"])
        span = Span(line, start + 1, max(1, end - start))
        return Site(self._order.canonical(event), source, span, path.removesuffix(".<lambda>"))

    def is_known(self, manager: Value) -> bool:
        """Return whether it is known what a context manager does in the end."""
        return isinstance(manager, Bounded) or super().is_known(manager)

    def begun(self, step: Step, rest: Steps, managers: Values) -> Steps | None:
        """Return what a block does that `bounded` begins here."""
        begun = {each.site for each in managers if isinstance(each, Bounded)}
        if not (isinstance(step, _Begun) and step.place in begun):
            return super().begun(step, rest, managers)
        pre, post = self._begun[step.place]
        self._ended.add(step.place)
        self._sites.triggers |= dict.fromkeys([*pre, *post])
        return [Trigger(pre), *self.within(rest, managers), Trigger(post)]

    def finished(self, frame: Frame) -> None:
        """See what is returned to code that is not given."""
        super().finished(frame)
        if frame.depth == 1 and frame.function is not None:
            self._hand_on([frozenset(frame.returns)])


def _emitters_in(block: Iterable[Node]) -> Iterator[str]:
    """Yield the attributes to which statements assign an emitter."""
    for node in block:
        if node[0] == "assign" and node[2][0] == "call" and node[2][1][0] == "attribute" and node[2][1][2] == "emitter":
            yield from (target[2] for target in node[1] if target[0] == "attribute")
        for part in node[1:]:
            if isinstance(part, list) and part and isinstance(part[0], list):
                yield from _emitters_in(part)


def _emitter_in(value: Value) -> Emitter | None:
    """Return the emitter that a value is, or whose method `call` it is."""
    if isinstance(value, Attribute) and value.name == "call":
        value = value.owner
    return value if isinstance(value, Emitter) else None


def _name_of(value: Value) -> str:
    """Return the full path of the event that a value is; empty for anything else."""
    name = value.name if isinstance(value, EventValue | External) else ""
    is_event = (isinstance(value, EventValue) and value.site is None) or name.rpartition(".")[2].startswith("EVENT_")
    return name if is_event else ""


def _events(values: Values) -> frozenset[EventValue]:
    return frozenset(EventValue(name, "") for value in values if (name := _name_of(value)))
