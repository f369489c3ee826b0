"""What the interpreter knows of code that is not in the program: names, types, and calls."""

import ast
import builtins
import dataclasses
import functools
from typing import Any, Final

from d9d_check.facts import Call, Entry, Frame
from d9d_check.framework import TASKS, Framework, canonical
from d9d_check.library import Library, changed
from d9d_check.lower import Node, lower
from d9d_check.machine import Machine
from d9d_check.values import (
    NONE,
    NOTHING,
    STEPS,
    SUBSCRIPTION,
    UNKNOWN,
    Attribute,
    Bounded,
    Bus,
    ClassDefinition,
    ClassValue,
    Constant,
    Container,
    Differs,
    Emitter,
    EventType,
    EventValue,
    External,
    Function,
    Instance,
    Local,
    Method,
    ModuleValue,
    RegistrationContext,
    Scope,
    Site,
    Steady,
    SuperOf,
    Tag,
    Tagger,
    Tensor,
    Typed,
    Unknown,
    Value,
    Values,
    Varies,
    in_order,
    is_module,
)

_MODULE: Final = Typed("torch.nn.Module")
_STACKS: Final = frozenset({"contextlib.ExitStack", "contextlib.AsyncExitStack"})
_TENSORS_OF_MODULES: Final = frozenset({"parameters", "buffers", "named_parameters", "named_buffers"})
_PARTS_OF_MODULES: Final = _TENSORS_OF_MODULES | {"modules", "children", "state_dict"}
_CONFIGURED: Final = {"TrainingConfigurator": "d9d.Trainer", "InferenceConfigurator": "d9d.Inference"}
_RUNS: Final = {"Trainer": "train", "Inference": "inference"}
_REGISTRATION_CONTEXTS: Final = frozenset({"RegisterTaskEventsContext", "RegisterModelEventsContext"})
_NOT_FUNCTIONS: Final = frozenset(
    {
        *("functools.lru_cache", "functools.cache", "functools.partial", "functools.partialmethod"),
        *("functools.singledispatchmethod", "functools.cached_property", "builtins.property", "abc.abstractproperty"),
    }
)
"""Decorators whose result is no function, so that it has no tag."""
_CACHES: Final = frozenset({"functools.lru_cache", "functools.cache"})
_KIND_OF_DECORATOR: Final = {
    "builtins.staticmethod": "static",
    "builtins.classmethod": "class",
    "builtins.property": "property",
    "functools.cached_property": "property",
    "contextlib.contextmanager": "manager",
}
INERT: Final = (
    *("builtins.", "logging.", "torch.", "math.", "time.", "os.", "pathlib.", "json.", "typing.", "warnings."),
    *("dataclasses.", "numpy.", "random.", "sys.", "re.", "datetime.", "abc.", "enum."),
)
"""Prefixes of what keeps nothing that it is given, and subscribes nothing."""
_SEQUENCE_TYPES: Final = frozenset(
    {
        *("list", "tuple", "set", "frozenset", "Sequence", "Iterable", "Iterator", "Collection", "deque", "Generator"),
        *("List", "Tuple", "Set", "FrozenSet", "MutableSequence", "AbstractSet"),
    }
)
_MAPPING_TYPES: Final = frozenset({"dict", "Mapping", "Dict", "MutableMapping", "defaultdict", "OrderedDict"})
_SPECIAL: Final = {
    "builtins.print": ("__str__", "__repr__"),
    "builtins.str": ("__str__", "__repr__"),
    "builtins.repr": ("__repr__",),
    "builtins.format": ("__format__", "__str__", "__repr__"),
    "builtins.float": ("__float__",),
    "builtins.int": ("__int__",),
    "builtins.bool": ("__bool__", "__len__"),
    "builtins.len": ("__len__",),
}
"""The special methods of its arguments of which a function of Python calls the first."""
ONE_RANK: Final = "one_rank"
"""The mark of functions that a decorator from outside the program calls on one rank only."""
_FOR_ONE_RANK: Final = frozenset(
    {"rank_zero_only", "rank_zero_experiment", "main_process_only", "on_main_process", "master_only", "main_only"}
)
_OF_ONE_RANK: Final = frozenset(
    {"loss", "losses", "local_loss", "train_loss", "step_loss", "batch_loss", "logits", "outputs", "batch"}
)
"""Names of tensors of which each rank has its own, until a collective has reduced them."""
_TRANSPARENT_TYPES: Final = frozenset({"Annotated", "Final", "ClassVar", "Required", "NotRequired", "ReadOnly"})
_TENSOR_TYPES: Final = frozenset({"Tensor", "Parameter", "DTensor", "FloatTensor", "LongTensor"})
_UNKNOWN_TYPES: Final = frozenset({"Any", "Callable", "object", "Self", "type", "Type", "Event", "TypeVar"})


class Outside:
    """What the interpreter knows of code outside the program.

    Args:
        interpreter: Runs the program.
    """

    def __init__(self, interpreter: Machine) -> None:
        self._run = interpreter
        self._facts = interpreter.facts
        self._catalogues = interpreter.catalogues
        self._framework = Framework(interpreter)
        self._library = Library(interpreter)
        self._events: dict[str, Values] = {}

    # Names

    def declared(self, name: str) -> Values | None:
        """Return the event of a catalogue that a name stands for."""
        if name not in self._events:
            full = self._catalogues.resolve(name)
            moment = self._catalogues.moments.get(full or "")
            if full is None or moment is None:
                self._events[name] = NOTHING
            else:
                self._events[name] = frozenset({EventValue(full, moment.id, context=External(moment.context))})
        return self._events[name] or None

    @staticmethod
    def is_builtin(name: str) -> bool:
        """Return whether Python itself defines a name."""
        return hasattr(builtins, name)

    def builtin(self, name: str) -> Values:
        """Return what a name stands for that the program does not define."""
        if name == "__name__":
            return frozenset({Steady()})
        return frozenset({External(f"builtins.{name}")}) if self.is_builtin(name) else UNKNOWN

    def named_event(self, values: Values, name: str, frame: Frame) -> Values:
        """Return values in which an event that the program creates has the name of its constant."""
        if frame.function is not None or not any(isinstance(value, EventValue) and value.site for value in values):
            return values
        module = frame.scope.module
        prefix = f"{module}.{frame.in_class.name}" if frame.in_class is not None else module
        return frozenset(
            EventValue(f"{prefix}.{name}", value.id, value.site, value.context)
            if isinstance(value, EventValue) and value.site is not None and value.name.startswith("<")
            else value
            for value in values
        )

    def see_event(self, values: Values, site: Site) -> None:
        """Record where an event is named."""
        for value in values:
            if isinstance(value, EventValue):
                self._facts.event_loads.setdefault(value, set()).add(site)

    # Types

    def annotated(self, annotation: Node | None, scope: Scope) -> Values:
        """Return what an annotation describes."""
        if annotation is None:
            return UNKNOWN
        kind = annotation[0]
        if kind == "constant":
            return NONE if annotation[2] else self._annotated_text(annotation[1], scope)
        if kind == "operation":  # a union
            return frozenset().union(*(self.annotated(part, scope) for part in annotation[1]))
        if kind == "item":
            return self._generic(annotation, scope)
        if kind not in {"name", "attribute"}:
            return UNKNOWN
        found: set[Value] = set()
        for value in self._named_type(annotation, scope):
            found |= self._instance_of(value)
        return frozenset(found) or UNKNOWN

    def _annotated_text(self, text: object, scope: Scope) -> Values:
        if not isinstance(text, str):
            return UNKNOWN
        try:
            return self.annotated(_expression(text), scope)
        except SyntaxError:
            return UNKNOWN

    def _named_type(self, node: Node, scope: Scope) -> Values:
        if node[0] == "name":
            return self._run.lookup(node[1], scope)
        found: set[Value] = set()
        if node[0] == "attribute":
            frame = Frame(scope, Entry("annotation"))
            for owner in self._named_type(node[1], scope):
                if isinstance(owner, External | ModuleValue | ClassValue):
                    found |= self._run.get_attribute(owner, node[2], frame, Site(scope.module, 1, 0, 1, 0))
        return frozenset(found)

    def _generic(self, annotation: Node, scope: Scope) -> Values:
        _, base, index, position = annotation
        names = {
            value.name.rpartition(".")[2] for value in self._named_type(base, scope) if isinstance(value, External)
        }
        arguments = index[2] if index[0] == "sequence" else [index]
        if names & _SEQUENCE_TYPES or names & _MAPPING_TYPES:
            described = arguments[-1:] if names & _MAPPING_TYPES or "tuple" not in names else arguments
            element = frozenset().union(*(self.annotated(each, scope) for each in described))
            kind = "dict" if names & _MAPPING_TYPES else "set" if names & {"set", "Set", "frozenset"} else "list"
            container = Container(kind, Site(f"{scope.module}:annotation", *position))
            self._run.add_to(container, element or UNKNOWN)
            return frozenset({container})
        if names & {"Optional", "Union"}:
            return frozenset().union(*(self.annotated(each, scope) for each in arguments))
        if names & _TRANSPARENT_TYPES:
            return self.annotated(arguments[0], scope)
        return self.annotated(base, scope)

    def _instance_of(self, value: Value) -> Values:
        """Return an instance of a class."""
        if isinstance(value, ClassValue):
            return frozenset({Instance(value.definition)})
        if not isinstance(value, External):
            return UNKNOWN
        name = value.name
        last = name.rpartition(".")[2]
        found: Value = Typed(name)
        if canonical(name) == "EventBus":
            found = Bus()
        elif canonical(name) in _REGISTRATION_CONTEXTS:
            found = RegistrationContext(Bus())
        elif last in _TENSOR_TYPES and name.startswith("torch"):
            found = Tensor()
        elif last in _UNKNOWN_TYPES | _SEQUENCE_TYPES | _MAPPING_TYPES and not name.startswith("torch."):
            found = Unknown()
        return frozenset({found})

    def field_type(self, context: str, field: str) -> Values | None:
        """Return what a field of a context holds, as its catalogue declares it."""
        name = self._catalogues.resolve(context)
        text = self._catalogues.fields.get(name or "", {}).get(field)
        if text is None:
            return None
        return self._annotated_text(text, _ABSOLUTE)

    def event_of_type(self, values: Values, annotation: Node | None, scope: Scope) -> Values:
        """Return values in which events that the program creates carry the context of their annotation."""
        while annotation is not None and annotation[0] == "item":
            names = [value.name for value in self._named_type(annotation[1], scope) if isinstance(value, External)]
            if any(name.rpartition(".")[2] in _TRANSPARENT_TYPES for name in names):
                annotation = annotation[2]
                continue
            contexts = self._named_type(annotation[2], scope)
            if [canonical(name) for name in names] == ["Event"] and len(contexts) == 1:
                (context,) = contexts
                return frozenset(
                    dataclasses.replace(value, context=context)
                    if isinstance(value, EventValue) and value.site is not None and value.context is None
                    else value
                    for value in values
                )
            break
        return values

    # Attributes

    def of_registration_context(self, owner: RegistrationContext, name: str) -> Values:
        """Return an attribute of the context of `register_events`."""
        if name == "event_bus":
            return frozenset({owner.bus})
        return frozenset({Typed("d9d.core.dist_context.DistributedContext")}) if name == "dist_context" else UNKNOWN

    def inherited(self, owner: Instance, name: str) -> Values:
        """Return an attribute that an object has from a class outside the program."""
        if name in _PARTS_OF_MODULES and any(is_module(Typed(each)) for each in owner.definition.outside):
            return frozenset({Attribute(_MODULE, name)})
        outside = {canonical(each) for each in owner.definition.outside}
        if outside & TASKS.keys() or not outside:
            return UNKNOWN if name not in {"register_events", "__init__"} else frozenset({External("builtins.object")})
        return frozenset({Attribute(owner, name)})

    def attribute(self, owner: Value, name: str) -> Values:
        """Return an attribute of something from outside the program."""
        if isinstance(owner, Typed):
            field = self.field_type(owner.name, name)
            if field is not None:
                return field
            if name == "event_bus" and owner.name.startswith("d9d."):
                loop = _RUNS.get(canonical(owner.name), "")
                return frozenset({Bus(loop, is_configured=bool(loop))})
        if isinstance(owner, Function):
            if name == "__dict__":
                self._facts.given_attributes.add(owner.definition)
            return UNKNOWN if name in {"__wrapped__", "__dict__"} else frozenset({Constant(owner.definition.name)})
        if isinstance(owner, Unknown | Constant):
            return frozenset({Attribute(owner, name)})
        return frozenset({Attribute(owner, name)})

    def elements_of(self, value: Value) -> Values:
        """Return what iterating over something yields."""
        if isinstance(value, Tensor):
            return frozenset({value})
        if isinstance(value, Local):
            return frozenset({value.part()})
        if isinstance(value, Unknown) and value.owner is not None:
            return frozenset({value})
        return NOTHING

    @staticmethod
    def unassigned(owner: ClassDefinition, name: str, declared: Values) -> Values:
        """Return what an attribute holds that is declared and that nothing has assigned so far."""
        if name.strip("_") in _OF_ONE_RANK and any(isinstance(value, Tensor) for value in declared):
            return declared | {Local(f'the "{name}" of each rank', attribute=(owner, name))}
        return declared

    def super_of(self, frame: Frame, arguments: list[Values]) -> Values:
        """Return what `super()` stands for in a method."""
        function = frame.function
        receivers = arguments[1] if len(arguments) > 1 else frozenset({frame.receiver} if frame.receiver else ())
        if function is None or function.owner is None:
            return UNKNOWN
        named = [value.definition for value in arguments[0] if isinstance(value, ClassValue)] if arguments else []
        found: set[Value] = set()
        for receiver in receivers:
            if isinstance(receiver, Instance | ClassValue):
                found |= {SuperOf(receiver, receiver.definition, beyond) for beyond in named or [function.owner]}
        return frozenset(found) or UNKNOWN

    def is_steady(self, values: Values) -> bool:
        """Return whether a value is the same in every step."""
        constants = {value for value in values if isinstance(value, Constant)}
        kinds = (Constant, Steady, Instance, Function, Method, ClassValue)
        return (
            bool(values)
            and len(constants) <= 1
            and all(
                isinstance(value, kinds)
                or (isinstance(value, Differs) and value.is_steady)
                or (isinstance(value, Typed) and value.name in {"builtins.bool", "builtins.int", "builtins.str"})
                for value in values
            )
        )

    @staticmethod
    def is_there(values: Values) -> bool:
        """Return whether a value is `None` in every step, or in none."""
        is_none = {value == Constant(None) for value in values}
        return len(is_none) == 1 and not any(isinstance(value, Unknown | Varies | Attribute) for value in values)

    # Calls

    def call(self, callee: Value, call: Call) -> Values:
        """Call something that is not in the program."""
        if isinstance(callee, Tagger):
            return self._tagged(callee.tag, call)
        if isinstance(callee, EventType):
            return frozenset(
                EventValue(value.name, value.id, value.site, callee.context) if isinstance(value, EventValue) else value
                for value in self._framework.event(call)
            )
        if isinstance(callee, External):
            return self._call_external(callee, call)
        if isinstance(callee, Attribute):
            return self._call_method(callee, call)
        is_manager = isinstance(callee, Typed) or (isinstance(callee, Container) and callee.kind == "manager")
        if is_manager and call.arguments and _are_functions(call.arguments[0]):
            return call.arguments[0]  # a context manager as a decorator keeps the tags
        self._run.escape_all(call.everything(), call.frame)
        return NOTHING if isinstance(callee, Local | Differs) else UNKNOWN  # their methods stand next to them

    def _tagged(self, tag: Tag, call: Call) -> Values:
        tag = dataclasses.replace(tag, site=call.site)
        found: set[Value] = set()
        for value in in_order(call.get(0, "handler")):
            if isinstance(value, Function):
                self._facts.tagged.add(value.definition)
                tags = (tag, *(each for each in value.tags if each.site != tag.site))
                found.add(changed(value, tags=tags))
            else:
                found.add(value)
        return frozenset(found)

    def _call_external(self, callee: External, call: Call) -> Values:
        name = callee.name
        for values in call.arguments if name in _SPECIAL else ():
            self._run.call_special(values, _SPECIAL[name], [], call.frame, call.site)
        own = self._framework.call(canonical(name), call) if name.startswith("d9d.") else None
        known = own if own is not None else self._library.call(name, call)
        seen = known if known is not None else self._run.watcher.external_call(name, call)
        if name == "builtins.sorted":  # which compares what it is given
            self._run.watcher.external_call(name, call)
        if name.startswith("torch.distributed."):
            for value in call.everything():
                if isinstance(value, Container):
                    self._run.forget(value)  # a collective writes into it what other ranks have
        if seen is not None:
            return seen
        if name in _NOT_FUNCTIONS or name in _KIND_OF_DECORATOR:
            return self._special(name, call)
        if len(call.arguments) == 1 and _are_functions(call.arguments[0]):
            return self._decorated_outside(name, call.arguments[0], call.frame)
        if not name.startswith(INERT):
            self._run.escape_all(call.everything(), call.frame)
        is_class = name.rpartition(".")[2][:1].isupper() or name in {"torch.no_grad", "torch.autocast", "torch.compile"}
        return frozenset({Typed(name)}) if is_class or not name.startswith(INERT) else UNKNOWN

    @staticmethod
    def _special(name: str, call: Call) -> Values:
        """Return what a decorator makes of a method whose result is no plain function."""
        if not call.arguments or not _are_functions(call.arguments[0]):
            # Called first with its own arguments.
            return frozenset({External(name if name in _CACHES else "functools.cached_property")})
        if name in _CACHES and not any(isinstance(value, Function) and value.tags for value in call.arguments[0]):
            return call.arguments[0]
        if name not in _KIND_OF_DECORATOR:
            return frozenset({Typed(name)})
        changes: dict[str, Any] = {"kind": _KIND_OF_DECORATOR[name], **({"tags": ()} if name in _NOT_FUNCTIONS else {})}
        return frozenset(changed(value, **changes) for value in call.arguments[0] if isinstance(value, Function))

    def _decorated_outside(self, name: str, functions: Values, frame: Frame) -> Values:
        """Return what a decorator from outside makes of functions: the same, as far as one can know."""
        if name.rpartition(".")[2] in _FOR_ONE_RANK:
            self._facts.marked.update(value.definition.name for value in functions if isinstance(value, Function))
            return frozenset(
                changed(value, marks=value.marks | {ONE_RANK}, is_opaque=True) if isinstance(value, Function) else value
                for value in functions
            )
        if name.startswith((*INERT, "functools.", "contextlib.", "typing_extensions.", "atexit.")):
            return functions
        self._run.escape_all(functions, frame)
        return frozenset(
            changed(value, is_opaque=True) if isinstance(value, Function) else value for value in functions
        )

    def _call_method(self, callee: Attribute, call: Call) -> Values:
        owner, name = callee.owner, callee.name
        if name == "unsubscribe":
            self._facts.ending.add(call.frame.entry)
        if isinstance(owner, Bus | Emitter):
            return self._framework.bus_method(owner, name, call)
        seen = self._run.watcher.method_call(owner, name, call)
        if seen is not None:
            return seen
        if isinstance(owner, Container):
            return self._library.container_method(owner, name, call)
        if isinstance(owner, Typed):
            return self._call_typed(owner, name, call)
        if isinstance(owner, Constant | Tensor | Local):
            return UNKNOWN
        self._run.escape_all(call.everything(), call.frame)
        if isinstance(owner, Instance) or (isinstance(owner, Unknown) and isinstance(owner.owner, Instance)):
            receiver = owner if isinstance(owner, Instance) else owner.owner
            if receiver is not None:
                self._run.escape(receiver, call.frame)
        return UNKNOWN

    def _call_typed(self, owner: Typed, name: str, call: Call) -> Values:
        if owner.name.startswith("d9d."):
            if name == "configure" and canonical(owner.name) in _CONFIGURED:
                return frozenset({Typed(_CONFIGURED[canonical(owner.name)])})
            if name == "steps" and canonical(owner.name) == "Trainer":
                return frozenset({STEPS})
            if name == "register_events":
                self._run.escape_all(call.everything(), call.frame)
            if name == "state_dict" and canonical(owner.name) == "OptimizerProtocol":
                return self._call_module(owner, name, call)
        elif is_module(owner) or owner.name.startswith("torch.optim."):
            return self._call_module(owner, name, call)
        elif owner.name in _STACKS:
            return self._call_stack(name, call)
        elif not owner.name.startswith(INERT):
            self._run.escape_all(call.everything(), call.frame)
        return UNKNOWN

    def _call_module(self, module: Typed, name: str, call: Call) -> Values:
        """Call a method of a module of torch."""
        if name in {"modules", "children"}:
            return self._run.new_container("iterator", call.site, call.frame, [], frozenset({module}))
        tensor: Values = frozenset({Tensor()})
        if name == "state_dict":
            return self._run.new_container("dict", call.site, call.frame, [], tensor)
        if name not in _TENSORS_OF_MODULES:
            return tensor if name in {"get_parameter", "get_buffer"} else UNKNOWN
        if name.startswith("named"):
            texts: Values = frozenset({Typed("builtins.str")})
            tensor = self._run.new_container("tuple", Site(*call.site[:4], -1), call.frame, [texts, tensor], NOTHING)
        return self._run.new_container("iterator", call.site, call.frame, [], tensor)

    def _call_stack(self, name: str, call: Call) -> Values:
        """Call a method of an `ExitStack`."""
        if name == "push" and any(isinstance(value, Bounded) for value in call.get(0, "exit")):
            self._facts.report(
                "d9d-pair",
                '"push" only calls what ends the block, so the event that begins it is never triggered: use '
                '"enter_context"',
                call.site,
            )
        if SUBSCRIPTION in call.get(0, "cm"):
            self._facts.ending.add(call.frame.entry)
        return call.get(0, "cm") if name == "enter_context" else UNKNOWN


def _are_functions(values: Values) -> bool:
    return bool(values) and all(isinstance(value, Function) for value in values)


@functools.cache
def _expression(text: str) -> Node:
    """Lower a type in text."""
    body = lower(ast.parse(f"_ = {text}"))["body"]
    node: Node = body[0][2]
    return node


class _Absolute(dict[str, Values]):
    """Names that stand for modules and classes of themselves, as in the types of an index."""

    def __missing__(self, name: str) -> Values:
        return frozenset({External(name if "." in name or not hasattr(builtins, name) else f"builtins.{name}")})

    def __contains__(self, name: object) -> bool:
        return True


_ABSOLUTE: Final = Scope(_Absolute(), None, "<index>")
