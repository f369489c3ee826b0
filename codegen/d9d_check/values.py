"""What an expression may stand for, as far as the source shows it.

The interpreter gives each expression a set of these values. An empty set means that nothing is known.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, dataclass_transform

from d9d_check.lower import Node


class Site(NamedTuple):
    """A place in a file: the key of its module, and first line, first column, last line, last column."""

    module: str
    line: int
    column: int
    end_line: int
    end_column: int

    def seen_from(self, other: "Site") -> str:
        """Return how a message about another place names the line of this one."""
        return f"line {self.line}" if self.module == other.module else f"line {self.line} of {self.module}"


_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def immutable(kind: type[_T]) -> type[_T]:
    """Make a class one of immutable values that are equal if their fields are.

    Type checkers refuse changes. Python does not: making its own check for all these classes takes as long as a run.
    """
    return dataclasses.dataclass(unsafe_hash=True, repr=False)(kind)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(dataclasses.field,))
def individual(kind: type[_T]) -> type[_T]:
    """Make a class one of immutable objects that are equal only to themselves."""
    return dataclasses.dataclass(eq=False, repr=False)(kind)


@immutable
class Value:
    """Anything that an expression may stand for."""


Values: TypeAlias = frozenset[Value]
NOTHING: Final[Values] = frozenset()


@immutable
class Unknown(Value):
    """A value about which nothing is known but where it came from.

    Attributes:
        owner: The object whose attribute it is, if the name of the attribute is not known.
    """

    owner: Value | None = None


@immutable
class Constant(Value):
    """A literal, or `None`."""

    value: str | int | float | bool | None


_MAX_PATH: Final = 12
_ON_HOST: Final = "on the host"
COMPARED: Final = "compared"
_REDUCTIONS: Final = frozenset(
    {
        *("max", "min", "amax", "amin", "argmax", "argmin", "sum", "mean", "prod", "std", "var", "cumsum"),
        *("any", "all", "count_nonzero", "logsumexp"),
    }
)
"""Methods that only tensors have, among what batches hold; and arrays, where a program collates by itself."""


UNKNOWN: Final[Values] = frozenset({Unknown()})
NONE: Final[Values] = frozenset({Constant(None)})


@immutable
class External(Value):
    """Something that a module outside the program defines, by its full name."""

    name: str


@immutable
class Typed(Value):
    """An instance of a class outside the program, by the full name of the class."""

    name: str


def is_module(value: Value) -> bool:
    """Return whether a value is a module of torch."""
    if not isinstance(value, Typed) or not value.name.startswith("torch.nn."):
        return False
    last = value.name.rpartition(".")[2]
    return last[:1].isupper() and last not in {"Parameter", "Buffer"}


@immutable
class Tensor(Value):
    """A tensor.

    Attributes:
        is_on_host: Whether reading it does not wait for the device.
        is_mask: Whether it is the result of a comparison.
    """

    is_on_host: bool = False
    is_mask: bool = False


@immutable
class Differs(Value):
    """A value that is not the same on all ranks.

    Attributes:
        why: What it depends on, for messages.
        is_steady: Whether it is the same in every step, as a rank is.
        source: The data of this rank that it is computed from.
        is_iterated: Whether it is how often a loop over that data is run.
        attribute: The class and the name of an attribute that ranks have chosen differently.
        condition: Where the condition is that it decides, for messages.
    """

    why: str
    is_steady: bool = True
    source: "Local | None" = None
    is_iterated: bool = False
    attribute: "tuple[ClassDefinition, str] | None" = None
    condition: Site | None = dataclasses.field(default=None, compare=False)

    @property
    def order(self) -> tuple[bool, int, str]:
        """Which of several reasons comes first."""
        path = self.source.path if self.source is not None else ()
        return self.source is not None or self.attribute is not None, -len(path), str(path)


@immutable
class Local(Value):
    """Data of which each rank has its own, such as a batch or its loss; what is computed from it differs.

    Attributes:
        why: What it is, for messages.
        is_whole: Whether it is the batch or the outputs as a whole, which have the same form on all ranks.
        attribute: The class and the name of an attribute that is taken for such data by its name alone.
        path: How it is computed: parts that are taken, and calls by their place.
    """

    why: str
    is_whole: bool = False
    attribute: "tuple[ClassDefinition, str] | None" = None
    path: tuple[object, ...] = ()

    def part(self, *steps: object) -> "Local":
        """Return what is computed from it, or taken out of it."""
        path = (*self.path, *steps)[:_MAX_PATH]
        return dataclasses.replace(self, is_whole=False, path=path) if self.is_whole or steps else self

    def is_from(self, other: "Local") -> bool:
        """Return whether it is some other data, or computed from that."""
        return self.why == other.why and self.path[: len(other.path)] == other.path

    def copied(self) -> "Local":
        """Return a copy of it on the host."""
        return self if self.is_on_host else self.part(_ON_HOST)

    @property
    def is_on_host(self) -> bool:
        """Whether it has been copied to the host."""
        return _ON_HOST in self.path

    @property
    def is_on_device(self) -> bool:
        """Whether it is a tensor on the device: a method has computed it that nothing else in a batch has."""
        return not self.is_on_host and any(isinstance(step, tuple) and step[0] in _REDUCTIONS for step in self.path)

    @property
    def is_mask(self) -> bool:
        """Whether a comparison has computed it."""
        return bool(self.path) and self.path[-1] == COMPARED

    def on_host(self) -> "Differs":
        """Return a number that is computed from it."""
        return Differs(self.why, is_steady=False, source=self.part())


SUBSCRIPTION: Final = Typed("d9d.loop.event.Subscription")
"""What `bus.subscribe(...)` returns."""
STEPS: Final = Typed("d9d.Trainer.steps")
"""What `trainer.steps()` returns."""
STEP_CONTEXT: Final = Typed("d9d.loop.event.catalogue.common.EventStepContext")
"""What that yields."""


@immutable
class Steady(Value):
    """A value that is the same in every step and on all ranks, such as the number of processes."""


@immutable
class Varies(Value):
    """A value that is not the same in every step.

    Attributes:
        is_rare: Whether it is true in few steps only, such as that of `is_due`.
    """

    is_rare: bool = False


@immutable
class EventValue(Value):
    """An event.

    Attributes:
        name: The full name of its constant; the place of its definition if it has none.
        id: Its id; empty if it is not a literal.
        site: Where the program creates it; `None` for an event of a catalogue.
        context: The value that stands for the class of its context, if that is known.
    """

    name: str
    id: str
    site: Site | None = dataclasses.field(default=None, compare=False)
    context: Value | None = dataclasses.field(default=None, compare=False)

    @property
    def constant(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    def __str__(self) -> str:
        """Return the event as messages name it."""
        return f'{self.constant} ("{self.id}")' if self.id else self.constant


@immutable
class EventType(Value):
    """The class `Event` with the class of its context, as in `Event[SavedContext]`."""

    context: Value


@immutable
class Bus(Value):
    """An Event Bus.

    Attributes:
        loop: The loop that triggers its events: "train" or "inference"; empty if it may be either.
        site: Where the program creates it, or the parameter that it comes from.
        is_own: Whether the program creates it.
        is_configured: Whether the loop has been configured.
    """

    loop: str = ""
    site: Site | None = None
    is_own: bool = False
    is_configured: bool = False


@immutable
class Emitter(Value):
    """What `bus.emitter(event)` returns.

    Attributes:
        bus: The bus.
        events: The events that it may trigger.
        site: Where it is made.
    """

    bus: Bus
    events: frozenset[EventValue]
    site: Site


@immutable
class RegistrationContext(Value):
    """The context that the loop passes to `register_events`."""

    bus: Bus


@immutable
class Tag:
    """One `@subscribe(event)` on a function.

    Attributes:
        events: The events that it may name.
        site: Where the decorator is.
        is_optional: Whether the handler need not be registered.
        is_periodic: Whether the handler is called in some steps only.
        counts_steps: Whether that is because it is called in every N-th step.
        is_on_main_only: Whether the handler is called on the main process only.
        is_once: Whether it is unsubscribed when it has been called.
    """

    events: frozenset[EventValue]
    site: Site
    is_optional: bool = False
    is_periodic: bool = False
    counts_steps: bool = False
    is_on_main_only: bool = False
    is_once: bool = False


@immutable
class Tagger(Value):
    """What `subscribe(event)` returns."""

    tag: Tag


@individual
class Scope:
    """The names of a module, a class body or a call of a function.

    Attributes:
        names: What they stand for.
        outer: The scope around it in which its names are looked up.
        module: The key of the module.
        stars: The modules from which all names are imported.
        shared: The names that a `global` or `nonlocal` statement takes from around it.
        number: How many scopes were made before it.
    """

    names: dict[str, Values]
    outer: "Scope | None"
    module: str
    stars: list[str] = dataclasses.field(default_factory=list)
    shared: set[str] = dataclasses.field(default_factory=set)
    number: int = dataclasses.field(default_factory=itertools.count().__next__)


@individual
class Definition:
    """A function of the program as its module defines it: one for each `def` and `lambda`."""

    module: str
    number: int
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """Its own name."""
        return str(self.facts["name"])

    @property
    def path(self) -> str:
        """Its name with those of the classes and functions around it."""
        return str(self.facts["path"])

    @property
    def site(self) -> Site:
        """Where its name is."""
        return Site(self.module, *self.facts["position"])


@immutable
class Function(Value):
    """A function with what its names stand for.

    Attributes:
        definition: The function.
        scope: Where it was defined.
        tags: The events that `@subscribe` tagged it with.
        kind: "", "static", "class", "property" or "manager" (a context manager made of a generator).
        owner: The class that defines it.
        is_opaque: Whether a decorator that is not in view may have replaced it.
        marks: What `d9d.collective` and `d9d.waits_for_device` say of it.
    """

    definition: Definition
    scope: Scope
    tags: tuple[Tag, ...] = ()
    kind: str = ""
    owner: "ClassDefinition | None" = None
    is_opaque: bool = False
    marks: frozenset[str] = frozenset()

    def all_marks(self) -> frozenset[str]:
        """Return its marks, and those of the methods that it overrides."""
        found = self.marks
        for kind in self.owner.ancestry[1:] if self.owner is not None else ():
            for value in kind.members.get(self.definition.name, ()):
                found |= value.marks if isinstance(value, Function) else frozenset()
        return found


_OF_TASKS: Final = frozenset(
    {"register_events", "create_metrics", "build_forward_inputs", "state_dict", "load_state_dict"}
)
DEFINED_BY_D9D: Final = {
    "TrainTask": frozenset({"compute_loss"}),
    "InferenceTask": frozenset({"process_outputs"}),
    "BaseTask": _OF_TASKS,
    "ModelProvider": frozenset(
        {
            *("initialize_model_stage", "parallelize_model_stage", "initialize_module"),
            *("register_events", "state_dict", "load_state_dict"),
        }
    ),
}
"""What classes of d9d define, which hides what classes after them define."""


@dataclasses.dataclass(eq=False, repr=False)
class ClassDefinition:
    """A class of the program.

    Attributes:
        module: The key of its module.
        facts: Its summary.
        bases: Its bases: classes of the program, or names from outside.
        members: What its body defines.
        decorators: The names of its decorators from outside the program.
        fields: What its body annotates: name, annotation and value.
        declared: What its methods annotate: the attributes of its objects, and what their annotations describe.
        is_opaque: Whether something that is not in view may change it.
        scope: The scope of its body.
        ancestry: The class and its bases in the order in which members are looked up.
        outside: The names of all its bases that are not in the program.
        order: The same as `ancestry`, with the names of tasks and providers of d9d between them.
    """

    module: str
    facts: dict[str, Any]
    bases: list["ClassDefinition | str"] = dataclasses.field(default_factory=list)
    members: dict[str, Values] = dataclasses.field(default_factory=dict)
    decorators: list[str] = dataclasses.field(default_factory=list)
    fields: list[tuple[str, Node | None, Node | None]] = dataclasses.field(default_factory=list)
    declared: dict[str, Values] = dataclasses.field(default_factory=dict)
    is_opaque: bool = False
    scope: Scope | None = None
    ancestry: list["ClassDefinition"] = dataclasses.field(default_factory=list)
    outside: frozenset[str] = frozenset()
    order: list["ClassDefinition | str"] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """Its own name."""
        return str(self.facts["name"])

    @property
    def site(self) -> Site:
        """Where its name is."""
        return Site(self.module, *self.facts["position"])

    def find(self, name: str, beyond: "ClassDefinition | None" = None) -> "tuple[ClassDefinition, Values] | None":
        """Return the nearest class that defines a member, and the member.

        Args:
            name: The name of the member.
            beyond: The class after which to look, for `super()`.
        """
        line = self.order
        if beyond is not None and beyond in line:
            line = line[line.index(beyond) + 1 :]
        for each in line:
            if isinstance(each, str):
                if name in DEFINED_BY_D9D[each]:
                    return None
            elif name in each.members:
                return each, each.members[name]
        return None


@immutable
class ClassValue(Value):
    """A class of the program, used as a value."""

    definition: ClassDefinition


@immutable
class Instance(Value):
    """An object of a class of the program.

    Attributes:
        definition: Its class.
        site: Where it is created; `None` for the one that stands for all others.
    """

    definition: ClassDefinition
    site: Site | None = None


@immutable
class Method(Value):
    """A function bound to an object."""

    receiver: Value
    function: Function


@immutable
class SuperOf(Value):
    """What `super()` returns."""

    receiver: Value
    kind: ClassDefinition
    beyond: ClassDefinition


@immutable
class Attribute(Value):
    """An attribute of something from outside the program, or of a container, before it is called."""

    owner: Value
    name: str


@immutable
class Partial(Value):
    """A callable with some of its arguments."""

    callee: Value
    arguments: tuple[Values, ...]
    named: tuple[tuple[str, Values], ...]


@immutable
class Container(Value):
    """A list, tuple, set or dict, or an iterator over one, by where it is created.

    Attributes:
        kind: "list", "tuple", "set", "dict" or "iterator".
        site: Where it is created.
    """

    kind: str
    site: Site | None


@immutable
class ModuleValue(Value):
    """A module of the program, or a package that contains some."""

    key: str


@immutable
class Bounded(Value):
    """What `bus.bounded(...)` returns.

    Attributes:
        events: The events that may begin it.
        site: Where it is made.
    """

    events: frozenset[EventValue]
    site: Site


def in_order(values: Values) -> Iterable[Value]:
    """Return values in an order that is the same in each run.

    A set has another order in each run of Python. What calls leave behind, later calls find, so the order of calls must
    not depend on that.
    """
    return values if len(values) < 2 else sorted(values, key=_identity)  # noqa: PLR2004 -- one value has no order


def _identity(part: object) -> str:
    """Return a text that tells a value from others, and is the same in each run."""
    if isinstance(part, Definition | Scope):
        return f"{part.module}:{part.number:012}"
    if isinstance(part, ClassDefinition):
        return str(part.site)
    if isinstance(part, frozenset):
        return f"{{{', '.join(sorted(map(_identity, part)))}}}"
    if isinstance(part, tuple):
        return f"({', '.join(map(_identity, part))})"
    if dataclasses.is_dataclass(part):
        return f"{type(part).__name__}({', '.join(map(_identity, vars(part).values()))})"
    return repr(part)
