"""Runs a program on values that stand for many: follows calls, and records what reaches a bus.

Each module is run once. Then each function that others may call is run as if anybody called it, with values that its
annotations describe, and each class with one object that stands for all. A call of a function in the program is
followed with the values of its arguments. Both sides of a condition are run. What leaves the program, as an argument
of code that is not in view, is recorded: nothing certain is known of it from there.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from d9d_check.catalogues import Catalogues
from d9d_check.extent import Extent
from d9d_check.facts import Assigned, Call, Entry, Facts, Frame, Guard, Watcher
from d9d_check.framework import TASKS, canonical, members_of
from d9d_check.lower import Node
from d9d_check.memory import Memory, allocation
from d9d_check.outside import ONE_RANK, Outside
from d9d_check.pairs import check_unused
from d9d_check.relevance import Relevance
from d9d_check.source import Module, absolute, parents_of
from d9d_check.tagging import Tagging
from d9d_check.values import (
    COMPARED,
    DEFINED_BY_D9D,
    NONE,
    NOTHING,
    STEPS,
    SUBSCRIPTION,
    UNKNOWN,
    Attribute,
    Bus,
    ClassDefinition,
    ClassValue,
    Constant,
    Container,
    Definition,
    Differs,
    EventType,
    External,
    Function,
    Instance,
    Local,
    Method,
    ModuleValue,
    Partial,
    RegistrationContext,
    Scope,
    Site,
    Steady,
    SuperOf,
    Tensor,
    Typed,
    Unknown,
    Value,
    Values,
    Varies,
    in_order,
    is_module,
)

_SHORT: Final = 2
"""Functions with so few statements, such as those that return an attribute, are always followed."""
_HARMLESS_BASES: Final = frozenset(
    {
        *("object", "ABC", "Protocol", "Generic", "Enum", "IntEnum", "StrEnum", "NamedTuple", "TypedDict"),
        *("Exception", "BaseException", "BaseTask", "TrainTask", "InferenceTask", "ModelProvider", "Module"),
    }
)
_HARMLESS_METACLASSES: Final = frozenset({"ABCMeta", "type"})
_HARMLESS_CLASS_DECORATORS: Final = frozenset({"dataclass", "final", "total_ordering", "runtime_checkable"})

_PATH: Final = Typed("pathlib.Path")
_TRUE: Final = ("tqdm.", "wandb.", "mlflow.", "torch.utils.tensorboard.", "tensorboardX.")
"""Packages whose objects are true; one from elsewhere may be a collection, which is false while it is empty."""
_INDIFFERENT: Final = (
    *(Constant, Unknown, External, Typed, Steady, Varies, Differs, Local, ClassValue, ModuleValue, Attribute),
)
"""Values that no bus can receive."""

_LINES: Final[Mapping[str, list[ClassDefinition | str]]] = {
    "TrainTask": ["TrainTask", "BaseTask"],
    "InferenceTask": ["InferenceTask", "BaseTask"],
}
_SHOWING: Final = ("__format__", "__str__", "__repr__")
"""The special methods that turn an object into text, in the order in which Python looks for them."""
FALLS, BREAKS, RAISES, RETURNS = "", "break", "raise", "return"


class Interpreter(Memory):
    """Runs a program.

    Args:
        modules: Its files.
        catalogues: The declared events.
        watcher: What rules want to see.
        extent: How much of the program is followed.
    """

    def __init__(
        self, modules: Sequence[Module], catalogues: Catalogues, watcher: Watcher, extent: Extent | None = None
    ) -> None:
        super().__init__()
        self.extent = extent or Extent()
        self.catalogues = catalogues
        self.watcher = watcher
        self.facts = Facts()
        self._outside = Outside(self)
        self._tagging = Tagging(self)
        self._modules = {module.key: module for module in modules if module.summary is not None}
        self._packages = {parent for key in self._modules for parent in parents_of(key)}
        self._scopes: dict[str, Scope] = {}
        self._steps = 0
        self._last: dict[int, Values] = {}
        self._definitions: dict[tuple[str, int], Definition] = {}
        self._statements: dict[str, Callable[[Node, Frame], str]] = {
            "expression": self._expression_statement,
            "assign": self._assign_statement,
            "augment": self._augment,
            "annotate": self._annotate,
            "return": self._return,
            "raise": self._raise,
            "assert": self._assert,
            "delete": lambda _, __: FALLS,
            "if": self._if,
            "for": self._for,
            "while": self._while,
            "with": self._with,
            "try": self._try,
            "match": self._match,
            "define": self._define,
            "class": self._class,
            "import": self._import,
            "from": self._import_from,
            "global": self._global,
            "break": lambda _, frame: self._jump(BREAKS, BREAKS, frame),
            "continue": lambda _, frame: self._jump("continue", BREAKS, frame),
        }
        self._expressions: dict[str, Callable[[Node, Frame], Values]] = {
            "name": self._name,
            "attribute": self._attribute,
            "call": self._call,
            "constant": self._constant,
            "sequence": self._sequence,
            "dict": self._dict,
            "lambda": self._lambda,
            "choice": self._choice,
            "and": self._bool,
            "or": self._bool,
            "not": self._not,
            "operation": self._operation,
            "compare": self._compare,
            "formatted": self._formatted,
            "comprehension": self._comprehension,
            "item": self._item,
            "slice": self._slice,
            "star": lambda node, frame: self.evaluate(node[1], frame),
            "walrus": self._walrus,
            "await": self._await,
            "yield": self._yield,
        }

        self.relevance = Relevance(self._modules, watcher.names, self.extent)
        self._reassigned = _assigned_later(self._modules.values())
        watcher.elements = self.elements
        self._num_decorating = 0

    # What to follow

    def _matters(self, values: Iterable[Value], depth: int = 2) -> bool:
        """Return whether values may reach a bus, so that calls with them are followed."""
        for value in values:
            if isinstance(value, Container):
                if depth and self._matters(self.elements(frozenset({value})), depth - 1):
                    return True
            elif isinstance(value, Instance):
                if value.definition in self.facts.subscribers:
                    return True
            elif isinstance(value, Function | Method):
                function = value.function if isinstance(value, Method) else value
                if function.tags or self.relevance.has(function.definition):
                    return True
            elif not isinstance(value, _INDIFFERENT):
                return True
        return False

    # Modules

    def module_keys(self) -> list[str]:
        """Return the keys of the modules that can be run."""
        return list(self._modules)

    def run_module(self, key: str) -> Scope:
        """Run a module, if it has not been run, and return its names."""
        if key in self._scopes:
            return self._scopes[key]
        scope = self._scopes[key] = Scope({}, None, key)
        summary = self._modules[key].summary
        if summary is not None:
            steps, self._steps = self._steps, 0
            frame = Frame(scope, Entry("module", key))
            self.execute(summary["body"], frame)
            self.watcher.finished(frame)
            self._steps = steps
        return scope

    def run(
        self,
        function: Value,
        entry: Entry,
        arguments: list[Values] | None = None,
        named: Mapping[str, Values] | None = None,
    ) -> Values:
        """Run a function from outside: what it is not given is what its annotations say."""
        self._steps = self.extent.max_steps - self.extent.max_steps_of_function if entry.kind == "function" else 0
        scope = Scope({}, None, _module_of(function))
        frame = Frame(scope, entry)
        try:
            result = self.call(function, arguments or [], dict(named or {}), frame, Site(scope.module, 1, 0, 1, 0))
        except Exception:
            self.facts.unfinished.add(entry)  # what it would have registered is not known
            raise
        if entry.kind in {"function", "method"}:
            self.escape_all(result, frame)  # the caller may do anything with it
        return result

    # Statements

    def execute(self, block: Iterable[Node], frame: Frame) -> str:
        """Run statements; return how they end."""
        for statement in block:
            self._steps += 1
            if self._steps > self.extent.max_steps:
                self.facts.unfinished.add(frame.entry)
                return RETURNS
            outcome = self._statements[statement[0]](statement, frame)
            if outcome:
                return outcome
        return FALLS

    def _expression_statement(self, node: Node, frame: Frame) -> str:
        expression = node[1]
        registrations, triggers = len(self.facts.registrations), len(self.facts.triggers)
        values = self.evaluate(expression, frame)
        if self.facts.num_calls() > registrations + triggers and self._tagging.check_consumed(
            expression, values, self.evaluate_again(expression[1], frame), frame.site(node[2])
        ):
            del self.facts.registrations[registrations:]
            del self.facts.triggers[triggers:]
        if expression[0] == "call":
            check_unused(self.facts, values, frame.site(expression[-1]))
            self._tagging.check_steps(values, frame.site(expression[-1]))
        if expression[0] in {"name", "attribute"}:
            self._tagging.check_uncalled(values, frame.site(node[2]))
        return FALLS

    def _assign_statement(self, node: Node, frame: Frame) -> str:
        targets, value = node[1], node[2]
        values = self.evaluate(value, frame)
        for target in targets:
            self.assign(target, values, frame, value)
            self._check_kept(target, value, values, frame)
        return FALLS

    def _check_kept(self, target: Node, source: Node, values: Values, frame: Frame) -> None:
        """Report what is kept under a local name that nothing reads."""
        if target[0] == source[0] == "sequence" and len(target[2]) == len(source[2]):
            for each, part in zip(target[2], source[2], strict=True):
                self._check_kept(each, part, self.elements(values), frame)
        elif target[0] == "name" and source[0] == "call":
            unread = frame.function.definition.facts["unread"] if frame.function is not None else ()
            if target[1] in unread:
                check_unused(self.facts, values, frame.site(source[-1]))

    def assign(self, target: Node, values: Values, frame: Frame, source: Node | None = None) -> None:
        """Give a target values."""
        kind = target[0]
        if kind == "name":
            self._bind(target[1], self._outside.named_event(values, target[1], frame), frame)
        elif kind == "attribute":
            for owner in self.evaluate(target[1], frame):
                self.set_attribute(owner, target[2], values, frame, frame.site(target[3]))
        elif kind == "item":
            index = self.evaluate(target[2], frame)
            for owner in self.evaluate(target[1], frame):
                if isinstance(owner, Container):
                    call = Call([index, values], {}, frame, frame.site(target[3]))
                    self.watcher.method_call(owner, "__setitem__", call)
                    self.add_key(owner, index or UNKNOWN, values)
                elif not isinstance(owner, Constant):
                    self.escape_all(values, frame)
        elif kind == "sequence":
            self._unpack(target[2], values, frame)
        elif kind == "star":
            self.assign(target[1], values, frame, source)

    def _unpack(self, targets: list[Node], values: Values, frame: Frame) -> None:
        containers = [value for value in values if isinstance(value, Container)]
        exact = [items for each in containers if (items := self.items_of(each)) is not None]
        for number, target in enumerate(targets):
            found = [items[number] for items in exact if number < len(items)]
            if containers and len(exact) == len(containers) and len(found) == len(containers):
                each = frozenset().union(*found)
            else:
                each = self.elements(values) | {value for value in values if isinstance(value, Differs)}
            self.assign(target, each or UNKNOWN, frame)

    def _bind(self, name: str, values: Values, frame: Frame) -> None:
        scope = frame.scope
        if name in scope.shared:
            scope = self._scope_of(name, scope.outer) or self.run_module(scope.module)
            values |= scope.names.get(name, NOTHING)
        scope.names[name] = values

    @staticmethod
    def _scope_of(name: str, scope: Scope | None) -> Scope | None:
        while scope is not None:
            if name in scope.names:
                return scope
            scope = scope.outer
        return None

    def set_attribute(self, owner: Value, name: str, values: Values, frame: Frame, site: Site) -> None:
        """Assign an attribute."""
        if isinstance(owner, Instance):
            why = next((each.differs for each in frame.guards if each.differs is not None), None)
            if why is not None and why.attribute is None:
                why = dataclasses.replace(why, attribute=(owner.definition, name))
            values = _chosen(values, why)
            self.watcher.write(owner, name, values, frame, site)
            self._tagging.check_hidden(owner, name, values, site)
            self.keep(owner, name, values)
            if owner.site is not None:
                self.keep(ClassValue(owner.definition), name, frozenset(each for each in values if _is_choice(each)))
        elif isinstance(owner, ClassValue):
            members = owner.definition.members
            if not frame.guards:
                self._tagging.check_replaced(members.get(name, NOTHING), values, site)
            members[name] = members.get(name, NOTHING) | values
        elif isinstance(owner, ModuleValue) and owner.key in self._modules:
            names = self.run_module(owner.key).names
            names[name] = names.get(name, NOTHING) | values
        elif not isinstance(owner, Constant | Function):
            self.watcher.wrote_elsewhere(name, values)
            self.escape_all(values, frame)

    def _augment(self, node: Node, frame: Frame) -> str:
        target = node[1]
        values = self.evaluate(node[2], frame)
        if target[0] in {"name", "attribute"}:
            old = self.evaluate(target, frame)
            for owner in old:
                if isinstance(owner, Container):
                    self.watcher.method_call(owner, "extend", Call([values], {}, frame, frame.site(target[-1])))
                    self.add_to(owner, self.elements(values))
            containers = frozenset(value for value in old if isinstance(value, Container))
            combined = self._combined([old, values])
            changing: Values = NOTHING if any(map(_is_tensor, combined)) else frozenset({Varies()})
            self.assign(target, containers or combined | changing, frame)
        else:
            combined = self._combined([self.evaluate(target, frame), values])
            for owner in self.evaluate_again(target[1], frame):
                if isinstance(owner, Container):
                    self.add_key(owner, self.evaluate_again(target[2], frame) or UNKNOWN, combined)
        return FALLS

    def _annotate(self, node: Node, frame: Frame) -> str:
        target, annotation, value = node[1], node[2], node[3]
        if frame.in_class is not None and target[0] == "name":
            frame.in_class.fields.append((target[1], annotation, value))
        if value is None:
            if frame.in_class is None and target[0] == "name" and target[1] not in frame.scope.names:
                self._bind(target[1], self.annotated(annotation, frame.scope), frame)
            return FALLS
        values = self._outside.event_of_type(self.evaluate(value, frame), annotation, frame.scope)
        declared = self.annotated(annotation, frame.scope)
        containers = [each for each in values if isinstance(each, Container)]
        if containers:
            elements = self.elements(declared) - UNKNOWN
            for container in containers:
                if elements:
                    self.add_to(container, elements)
        for owner in self.evaluate_again(target[1], frame) if target[0] == "attribute" else ():
            if isinstance(owner, Instance):
                owner.definition.declared.setdefault(target[2], declared)
        self.assign(target, _as_declared(values, declared), frame, value)
        return FALLS

    def _return(self, node: Node, frame: Frame) -> str:
        values = _or_unknown(self.evaluate(node[1], frame)) if node[1] is not None else NONE
        inner = frame.guards[frame.num_guards_around :]
        frame.returns |= _chosen(values, next((each.differs for each in inner if each.differs is not None), None))
        return self._jump(RETURNS, RETURNS, frame)

    def _raise(self, node: Node, frame: Frame) -> str:
        if node[1] is not None:
            self.evaluate(node[1], frame)
        return self._jump(RAISES, RAISES, frame)

    def _jump(self, kind: str, outcome: str, frame: Frame) -> str:
        self.watcher.jumped(kind, frame)
        return outcome

    def _assert(self, node: Node, frame: Frame) -> str:
        test = self.evaluate(node[1], frame)
        position = _position(node[1])
        if position is not None:
            self.watcher.tested(test, frame, frame.site(position))
        for part in _needed(node[1], holds=True):
            self._demand(part, NONE, frame)
        return FALLS

    def _demand(self, node: Node, values: Values, frame: Frame) -> None:
        """Show that an attribute must not be `None` here, if it may be."""
        if node[0] == "attribute" and not values.isdisjoint(NONE):
            for owner in self.evaluate_again(node[1], frame):
                if isinstance(owner, Instance):
                    self.watcher.demanded(owner, node[2], frame, frame.site(node[3]))

    def _if(self, node: Node, frame: Frame) -> str:
        _, test, body, orelse, position = node
        guard = self._guard(test, frame, frame.site(position))
        if External("typing.TYPE_CHECKING") in guard.test:  # what only type checkers read does not run
            self.execute([each for each in body if each[0] in {"import", "from"}], frame)
            return self.execute(orelse, frame)
        decided = self._decided(test, frame)
        if decided is not None:
            return self.execute(body if decided else orelse, frame)
        if body and body[-1][0] == "raise" and len(body) == 1:
            for part in _needed(test, holds=False):
                self._demand(part, NONE, frame)
        return self._branches(
            guard,
            frame,
            lambda: self.execute(body, frame),
            lambda: self.execute(orelse, frame),
            lasting=(self._lasting(test, frame, holds=True), self._lasting(test, frame, holds=False)),
        )

    def _lasting(self, test: Node, frame: Frame, *, holds: bool) -> Assigned | None:
        """Return the attributes that must have been assigned for a condition to hold, or not to.

        It then lasts as long as none of them is reset. Nothing is returned if it depends on anything else.
        """
        kind = test[0]
        if kind == "not":
            return self._lasting(test[1], frame, holds=not holds)
        if kind == ("and" if holds else "or"):
            parts = [self._lasting(part, frame, holds=holds) for part in test[1]]
            known = [part for part in parts if part is not None]
            return frozenset().union(*known) if len(known) == len(parts) else None
        needed = _needed(test, holds=holds)
        if needed and needed[0][0] == "attribute" and (kind == "compare" or self._is_object(test, frame)):
            owners = self.evaluate_again(needed[0][1], frame)
            if owners and all(isinstance(owner, Instance) for owner in owners):
                return frozenset((owner.definition, needed[0][2]) for owner in owners if isinstance(owner, Instance))
        values = self.evaluate_again(test, frame)
        if not holds and values == frozenset({Varies(is_rare=True)}):
            return frozenset()  # it does not hold in almost every step
        return frozenset() if self.is_steady(test, values, frame) else None

    def _is_object(self, node: Node, frame: Frame) -> bool:
        """Return whether an attribute is `None` or an object that is always true, such as a writer."""
        values = self.evaluate_again(node, frame) - NONE
        return bool(values) and all(isinstance(value, Typed) and value.name.startswith(_TRUE) for value in values)

    def _decided(self, test: Node, frame: Frame) -> bool | None:
        """Return whether a condition on the arguments of this very call holds, if that is certain."""
        if frame.num_doubts or frame.function is None:
            return None
        if test[0] == "not":
            decided = self._decided(test[1], frame)
            return None if decided is None else not decided
        if test[0] == "compare" and test[1] in (["Eq"], ["NotEq"], ["Is"], ["IsNot"]):
            sides = [self._literal(part, frame) for part in test[2]]
            known = [side for side in sides if side is not None]
            return None if len(known) < len(sides) else (known[0] == known[1]) == (test[1][0] in {"Eq", "Is"})
        literal = self._literal(test, frame)
        return None if literal is None else bool(literal.value)

    @staticmethod
    def _literal(node: Node, frame: Frame) -> Constant | None:
        """Return the one literal that an expression of this call stands for."""
        values: Values = NOTHING
        if node[0] == "name":
            values = frame.scope.names.get(node[1], NOTHING)
        elif node[0] == "constant" and (node[1] is not None or node[2]):
            values = frozenset({Constant(node[1])})
        (value,) = values if len(values) == 1 else (None,)
        return value if isinstance(value, Constant) else None

    def _guard(self, test: Node, frame: Frame, site: Site) -> Guard:
        if test[0] in {"and", "or"}:
            values = self._bool(test, frame, is_tested=True)
        else:
            values = self.evaluate(test, frame)
            if test[0] != "not":  # which has been seen itself
                self.watcher.tested(values, frame, site)
        is_either = test[0] == "or" and not all(
            any(isinstance(value, Differs) for value in self._last.get(id(part), NOTHING)) for part in test[1]
        )
        return Guard(values, site, is_steady=self.is_steady(test, values, frame), is_either=is_either)

    def is_steady(self, test: Node, values: Values, frame: Frame) -> bool:
        """Return whether a condition is the same in every step."""
        kind = test[0]
        if kind == "not":
            return self.is_steady(test[1], self.evaluate_again(test[1], frame), frame)
        if kind in {"and", "or"}:
            return all(self.is_steady(part, self.evaluate_again(part, frame), frame) for part in test[1])
        if kind == "attribute" and test[2] in self._reassigned:
            return False
        if kind == "compare" and all(operator in {"Is", "IsNot"} for operator in test[1]):
            return all(
                self._outside.is_there(self.evaluate_again(part, frame))
                and not (part[0] == "attribute" and part[2] in self._reassigned)
                for part in test[2]
            )
        if kind == "compare":
            return all(self.is_steady(part, self.evaluate_again(part, frame), frame) for part in test[2])
        return self._outside.is_steady(values)

    def evaluate_again(self, node: Node, frame: Frame) -> Values:
        """Return the values of an expression that has been evaluated, if that has no effect; else nothing."""
        if node[0] in {"name", "constant"}:
            return self.evaluate(node, frame)
        if node[0] == "attribute" and node[1][0] in {"name", "attribute"}:
            return self.evaluate(node, frame)
        return self._last.get(id(node), NOTHING)

    def _branches(
        self,
        guard: Guard,
        frame: Frame,
        *sides: Callable[[], str],
        lasting: tuple[Assigned | None, Assigned | None] = (None, None),
    ) -> str:
        """Run the sides of a condition, each from the same names, and join what they leave."""
        scope = frame.scope
        before = dict(scope.names)
        outcomes: list[str] = []
        results: list[dict[str, Values]] = []
        traces: list[list[Any]] = []
        outer_trace, outer_guards = frame.trace, frame.guards
        for number, side in enumerate(sides):
            scope.names.clear()
            scope.names.update(before)
            last = lasting[min(number, 1)]
            here = guard if last is None else dataclasses.replace(guard, lasts_with=last)
            frame.trace, frame.guards = [], [*outer_guards, here]
            outcomes.append(side())
            traces.append(frame.trace)
            results.append(dict(scope.names))
        frame.trace, frame.guards = outer_trace, outer_guards
        frame.trace += self.watcher.joined(guard, traces)
        live = [names for names, outcome in zip(results, outcomes, strict=True) if not outcome]
        scope.names.clear()
        scope.names.update(_joined([_chosen_names(names, before, guard.differs) for names in live or results]))
        for trace, outcome in zip(traces[1:], outcomes[1:], strict=True):
            self.watcher.branched(guard, frame, (traces[0], trace), (outcomes[0], outcome))
        if not live:
            return RAISES if all(outcome == RAISES for outcome in outcomes) else max(outcomes)
        ended = {outcome for outcome in outcomes if outcome in {BREAKS, RETURNS}}
        if ended:
            # What follows runs only where the side that ended was not taken.
            rest = dataclasses.replace(
                guard,
                ends_with_loop=RETURNS not in ended,
                is_either=False,
                lasts_with=lasting[1] if outcomes[0] else lasting[0],
            )
            frame.guards = [*frame.guards, rest]
        return FALLS

    def _for(self, node: Node, frame: Frame) -> str:
        _, target, source, body, orelse, position = node
        values = self.evaluate(source, frame)
        self._demand(source, values, frame)
        guards = frame.guards
        if source[0] == "choice":  # what is iterated over may be empty in most steps
            frame.guards = [*guards, Guard(UNKNOWN, frame.site(position))]
        registrations, outcomes = len(self.facts.registrations), list[str]()
        self._loop(target, values, frame, lambda: outcomes.append(self.execute(body, frame)))
        if STEPS in values and not any(outcomes):
            self._tagging.check_each_step(self.facts.registrations[registrations:], len(guards))
        if source[0] == "choice":
            frame.guards = guards
        return self.execute(orelse, frame)

    def _loop(self, target: Node, source: Values, frame: Frame, body: Callable[[], object]) -> None:
        """Run a body once for each item, or once for all where the items are not known one by one."""
        guards, trace = frame.guards, frame.trace
        frame.trace = []
        before = dict(frame.scope.names)
        items = self.iterated(source)
        frame.num_doubts += 1
        for item in items:
            self.assign(target, item, frame)
            body()
            self.watcher.passed(frame)
            frame.guards = [*guards, *(each for each in frame.guards[len(guards) :] if not each.ends_with_loop)]
        frame.num_doubts -= 1
        self.watcher.repeated(source, self.elements(source), frame, frame.trace)
        frame.trace = [*trace, *frame.trace]
        after = dict(frame.scope.names)
        for name, values in before.items():
            if after[name] is not values:
                frame.scope.names[name] = after[name] | values

    def _while(self, node: Node, frame: Frame) -> str:
        _, test, body, orelse, position = node
        guard = self._guard(test, frame, frame.site(position))
        trace, frame.trace = frame.trace, []
        is_endless = any(isinstance(value, Constant) and value.value is True for value in guard.test)
        if is_endless:
            self.execute(body, frame)
            frame.guards = [each for each in frame.guards if not each.ends_with_loop]
        else:
            self._branches(guard, frame, lambda: self.execute(body, frame))
        self.watcher.repeated(guard.test, NOTHING, frame, frame.trace)
        frame.trace = [*trace, *frame.trace]
        return self.execute(orelse, frame)

    def _with(self, node: Node, frame: Frame) -> str:
        trace, frame.trace = frame.trace, []
        guards = frame.guards
        managers: set[Value] = set()
        num_triggers = len(self.facts.triggers)
        for expression, target in node[1]:
            values = self.evaluate(expression, frame)
            managers |= values
            entered = self._entered(values, frame)
            if target is not None:
                self.assign(target, entered, frame)
        suppresses = Typed("contextlib.suppress") in managers
        frame.num_doubts += suppresses
        outcome = self.execute(node[2], frame)
        frame.num_doubts -= suppresses
        site = frame.site(_position(node[1][0][0]) or [1, 0, 1, 0])
        self._leave(frozenset(managers), frame, guards, site)
        if SUBSCRIPTION in managers:
            self.facts.ending.add(frame.entry)
            if len(self.facts.triggers) == num_triggers:
                self._tagging.check_ended(frame, site)
        self.watcher.enclosed(frozenset(managers), frame.trace)
        done, frame.trace = frame.trace, [*trace, *frame.trace]
        if suppresses:
            self._suppressed(node[1], frame, done, outcome)
        return outcome

    def _leave(self, managers: Values, frame: Frame, guards: list[Guard], site: Site) -> None:
        """Call what ends a block, however it has been left."""
        inside, done = frame.guards, frame.trace
        frame.guards, frame.trace = guards, []
        self.call_special(managers, ["__exit__", "__aexit__"], [UNKNOWN] * 3, frame, site)
        frame.guards, frame.trace = inside, self.watcher.attempted([done], [], frame.trace) if frame.trace else done

    def _suppressed(self, items: list[Node], frame: Frame, done: list[Any], outcome: str) -> None:
        """Compare what a block has done with its end by an exception that `contextlib.suppress` catches."""
        given = [
            self.evaluate(each, frame) for expression, _ in items if expression[0] == "call" for each in expression[2]
        ]
        why = self.watcher.caught(frozenset().union(*given), frame, done)
        if why:
            guard = Guard(UNKNOWN | why, frame.site([1, 0, 1, 0]))
            self.watcher.branched(guard, frame, (done, []), (outcome, FALLS))

    def _entered(self, values: Values, frame: Frame) -> Values:
        found: set[Value] = set()
        for value in values:
            if isinstance(value, Instance) and (member := value.definition.find("__enter__")) is not None:
                del member
                entered = self.get_attribute(value, "__enter__", frame, value.definition.site)
                found |= self.call_all(entered, [], {}, frame, value.definition.site)
            elif isinstance(value, Container) and value.kind == "iterator":
                found |= self.elements(frozenset({value}))
            else:
                found.add(value)
        return frozenset(found)

    def _try(self, node: Node, frame: Frame) -> str:
        _, body, handlers, orelse, final = node
        before, trace = dict(frame.scope.names), frame.trace
        parts: list[list[Any]] = []

        def run(block: list[Node]) -> str:
            frame.trace = []
            outcome = self.execute(block, frame)
            parts.append(frame.trace)
            return outcome

        frame.num_doubts += 1 if handlers else 0
        outcome = run(body)
        outcome = outcome or run(orelse)
        frame.num_doubts -= 1 if handlers else 0
        num_tried = len(parts)
        ends = [dict(frame.scope.names)] if not outcome else []
        outcomes = [outcome]
        for kind, name, block in handlers:
            frame.scope.names.clear()
            frame.scope.names.update(_joined([before, *ends]))
            kinds = self.evaluate(kind, frame) if kind is not None else NOTHING
            if name:
                frame.scope.names[name] = UNKNOWN
            missed = [each for part in parts[:num_tried] for each in part]
            why = self.watcher.caught(kinds | self.elements(kinds), frame, missed)
            guard = Guard(UNKNOWN | (why or NOTHING), frame.site([1, 0, 1, 0]))
            guards = frame.guards
            frame.guards = [*guards, guard]
            outcomes.append(run(block))
            handled = parts[-1]
            frame.guards = guards
            if why:
                self.watcher.branched(guard, frame, (missed, handled), (outcome, outcomes[-1]))
            if not outcomes[-1]:
                ends.append(_chosen_names(dict(frame.scope.names), before, guard.differs))
        if ends:
            frame.scope.names.clear()
            frame.scope.names.update(_joined(ends))
        last = run(final)
        frame.trace = [*trace, *self.watcher.attempted(parts[:num_tried], parts[num_tried:-1], parts[-1])]
        return last or (FALLS if ends else outcomes[0])

    def _match(self, node: Node, frame: Frame) -> str:
        subject = self.evaluate(node[1], frame)
        sides: list[Callable[[], str]] = [lambda: FALLS]
        for names, test, block in node[2]:
            sides.append(self._case(names, test, block, frame))
        differing = frozenset(value for value in subject if isinstance(value, Differs))
        guard = Guard(UNKNOWN | differing, frame.site(_position(node[1]) or [1, 0, 1, 0]))
        # A last case that matches everything leaves no way past all of them.
        if node[2] and node[2][-1][1] is None and not node[2][-1][0]:
            del sides[0]
        return self._branches(guard, frame, *sides) if sides else FALLS

    def _case(self, names: list[str], test: Node | None, block: list[Node], frame: Frame) -> Callable[[], str]:
        def run() -> str:
            for name in names:
                frame.scope.names[name] = UNKNOWN
            if test is not None:
                self.evaluate(test, frame)
            return self.execute(block, frame)

        return run

    def _define(self, node: Node, frame: Frame) -> str:
        definition = self._definition(frame.scope.module, node[1])
        function = Function(definition, _closure(frame.scope, in_class=frame.in_class), owner=frame.in_class)
        name = definition.facts["key"]
        old = frame.scope.names.get(name, NOTHING)
        values = self._decorated(function, definition.facts["decorators"], frame)
        if frame.in_class is not None and not frame.guards:
            self._tagging.check_redefined(old, values, definition)
        if frame.in_class is not None or frame.function is None:
            self.facts.functions.append((function, frame.in_class))
            tags = tuple(tag for value in values if isinstance(value, Function) for tag in value.tags)
            if tags and frame.in_class is None:
                self.facts.tagged_functions[definition] = tags
        else:
            tagged = [value for value in values if isinstance(value, Function) and value.tags]
            self.facts.nested += [(value, frame.entry) for value in tagged]
            self.facts.closures[definition] = function
        frame.scope.names[name] = values
        return FALLS

    def _definition(self, module: str, number: int) -> Definition:
        key = (module, number)
        if key not in self._definitions:
            summary = self._modules[module].summary or {}
            self._definitions[key] = Definition(module, number, summary["functions"][number])
        return self._definitions[key]

    def _decorated(self, function: Function, decorators: list[Node], frame: Frame) -> Values:
        values: Values = frozenset({function})
        tags: tuple[Any, ...] = ()
        for node in reversed(decorators):
            decorator = self.evaluate(node, frame)
            position = _position(node) or function.definition.facts["position"]
            before = values
            self._num_decorating += 1
            values = self.call_all(decorator, [values], {}, frame, frame.site(position)) or UNKNOWN
            values = self._tagging.with_copied(values, tags)
            self._num_decorating -= 1
            tags = self._tagging.check_decorator(decorator, (before, values), tags, function, frame.site(position))
        self._tagging.check_handler(function, values)
        return values

    def _class(self, node: Node, frame: Frame) -> str:
        summary = self._modules[frame.scope.module].summary or {}
        facts = summary["classes"][node[1]]
        definition = ClassDefinition(frame.scope.module, facts)
        for base in facts["bases"]:
            self._add_base(definition, self.evaluate(base, frame))
        for keyword, given in facts["keywords"]:
            found = self.evaluate(given, frame)
            names = {value.name.rpartition(".")[2] for value in found if isinstance(value, External)}
            definition.is_opaque |= keyword == "metaclass" and not (names and names <= _HARMLESS_METACLASSES)
        definition.order = _order(definition)
        definition.ancestry = [each for each in definition.order if isinstance(each, ClassDefinition)]
        definition.outside = frozenset(
            base for each in definition.ancestry for base in each.bases if isinstance(base, str)
        )
        definition.is_opaque |= any(each.is_opaque for each in definition.ancestry[1:])
        scope = Scope(definition.members, _closure(frame.scope, in_class=frame.in_class), frame.scope.module)
        definition.scope = scope
        inner = Frame(scope, frame.entry, frame.function, frame.receiver, frame.depth, in_class=definition)
        self.execute(facts["body"], inner)
        for each in definition.ancestry[1:]:
            for hook in each.members.get("__init_subclass__", ()):
                if isinstance(hook, Function):
                    self.call_function(hook, [frozenset({ClassValue(definition)})], {}, frame, definition.site)
        self.facts.classes.append(definition)
        if any(base in TASKS for base in definition.outside) or any(
            isinstance(value, Function) and value.tags for values in members_of(definition).values() for value in values
        ):
            self.facts.subscribers.add(definition)
        value: Values = frozenset({ClassValue(definition)})
        for decorator in reversed(facts["decorators"]):
            called = self.evaluate(decorator, frame)
            named = self.evaluate_again(decorator[1], frame) if decorator[0] == "call" else called
            names = {each.name for each in named if isinstance(each, External)}
            definition.decorators += [name.rpartition(".")[2] for name in names]
            if not (names and {name.rpartition(".")[2] for name in names} <= _HARMLESS_CLASS_DECORATORS):
                definition.is_opaque = True
                self.call_all(called, [value], {}, frame, definition.site)
        frame.scope.names[definition.name] = value
        return FALLS

    def _add_base(self, definition: ClassDefinition, values: Values) -> None:
        known = [value for value in values if isinstance(value, ClassValue | External)]
        for value in known:
            if isinstance(value, ClassValue):
                definition.bases.append(value.definition)
            else:
                definition.bases.append(canonical(value.name))
                is_known = value.name.rpartition(".")[2] in _HARMLESS_BASES
                definition.is_opaque |= not (is_known or value.name.startswith(("builtins.", "torch.", "typing.")))
        if len(values) != 1 or not known:
            definition.is_opaque = True

    def _import(self, node: Node, frame: Frame) -> str:
        for local, name, is_alias in node[1]:
            top = name if is_alias else name.partition(".")[0]
            frame.scope.names[local] = self.imported(top)
        return FALLS

    def _import_from(self, node: Node, frame: Frame) -> str:
        _, level, name, names = node
        module = self._modules[frame.scope.module]
        name = absolute(module, level, name)
        for local, each in names:
            if each == "*":
                frame.scope.stars.append(name)
                self._import_all(name, frame.scope)
            else:
                frame.scope.names[local] = self._member(name, each)
        return FALLS

    def _import_all(self, name: str, scope: Scope) -> None:
        if self._is_own(name):
            found = self.run_module(name).names
            scope.names.update({each: values for each, values in found.items() if not each.startswith("_")})

    def _is_own(self, name: str) -> bool:
        return name in self._modules and not self.extent.is_outside(name)

    def imported(self, name: str) -> Values:
        """Return the module of a name."""
        is_own = (name in self._modules or name in self._packages) and not self.extent.is_outside(name)
        return frozenset({ModuleValue(name) if is_own else External(name)})

    def _member(self, module: str, name: str) -> Values:
        """Return what a name of a module stands for."""
        full = f"{module}.{name}"
        event = self._outside.declared(full)
        if event is not None:
            return event
        if self._is_own(module):
            names = self.run_module(module).names
            if name in names:
                return names[name]
            found = self._starred(name, self.run_module(module))
            if found:
                return found
        return self.imported(full)

    def _global(self, node: Node, frame: Frame) -> str:
        frame.scope.shared.update(node[1])
        return FALLS

    # Expressions

    def evaluate(self, node: Node, frame: Frame) -> Values:
        """Return what an expression may stand for."""
        return self._expressions[node[0]](node, frame)

    def _name(self, node: Node, frame: Frame) -> Values:
        values = self.lookup(node[1], frame.scope)
        self._outside.see_event(values, frame.site(node[2]))
        return values

    def lookup(self, name: str, scope: Scope) -> Values:
        """Return what a name stands for."""
        found = self._scope_of(name, scope)
        if found is not None:
            return found.names[name]
        module = self.run_module(scope.module) if scope.module in self._modules else None
        if module is not None and name in module.names:
            return module.names[name]
        return (self._starred(name, module) if module is not None else NOTHING) or self._outside.builtin(name)

    def _starred(self, name: str, scope: Scope) -> Values:
        for module in scope.stars:
            event = self._outside.declared(f"{module}.{name}")
            if event is not None:
                return event
            if self._is_own(module):
                names = self.run_module(module).names
                if name in names:
                    return names[name]
        foreign = [module for module in scope.stars if not self._is_own(module)]
        if foreign and not self._outside.is_builtin(name):
            return frozenset({External(f"{foreign[-1]}.{name}")})
        return NOTHING

    def _attribute(self, node: Node, frame: Frame) -> Values:
        _, owner_node, name, position = node
        owners = self.evaluate(owner_node, frame)
        if name == "handlers" and owner_node[0] == "call":
            check_unused(self.facts, owners, frame.site(owner_node[-1]))
        self._demand(owner_node, owners, frame)
        site = frame.site(position)
        found: set[Value] = set()
        for owner in in_order(owners):
            found |= self.get_attribute(owner, name, frame, site)
        values = frozenset(found)
        self._outside.see_event(values, site)
        return values

    def get_attribute(self, owner: Value, name: str, frame: Frame, site: Site) -> Values:
        """Return what an attribute stands for."""
        if isinstance(owner, Instance):
            return self._instance_attribute(owner, name, frame, site)
        if isinstance(owner, SuperOf):
            found = owner.kind.find(name, owner.beyond)
            return self._bound(found[1], owner.receiver, frame, site) if found else self._super(owner, name)
        if isinstance(owner, ClassValue):
            found = owner.definition.find(name)
            return self._of_class(found[1], owner) if found else UNKNOWN
        return self._outside_attribute(owner, name, frame, site)

    def _outside_attribute(self, owner: Value, name: str, frame: Frame, site: Site) -> Values:
        if isinstance(owner, ModuleValue):
            return self._member(owner.key, name)
        if isinstance(owner, External):
            full = f"{owner.name}.{name}"
            return self._outside.declared(full) or frozenset({External(full)})
        if isinstance(owner, RegistrationContext):
            return self._outside.of_registration_context(owner, name)
        seen = self.watcher.attribute(owner, name, frame, site)
        if seen is not None:
            return seen
        return self._outside.attribute(owner, name)

    @staticmethod
    def _super(owner: SuperOf, name: str) -> Values:
        # `super().register_events(ctx)` of a task does nothing; of a base that is not in view it may do anything.
        if not owner.kind.is_opaque:
            return frozenset({External(f"builtins.object.{name}")})
        return frozenset({Attribute(Unknown(owner.receiver), name)})

    def _instance_attribute(self, owner: Instance, name: str, frame: Frame, site: Site) -> Values:
        self.watcher.read(owner, name, frame, site)
        values = self.kept(owner, name)
        # The object that stands for all differs between ranks as one of them does.
        values |= self.kept(
            Instance(owner.definition) if owner.site is not None else ClassValue(owner.definition), name
        )
        found = owner.definition.find(name)
        if found is not None:
            values |= self._bound(found[1], owner, frame, site)
        declared = self._declared_attribute(owner.definition, name) if not values or found is not None else NOTHING
        if not declared and all(value == Constant(None) or _is_data(value) for value in values):
            # What an annotation in a method says of what is not assigned so far.
            annotated = frozenset().union(*(each.declared.get(name, NOTHING) for each in owner.definition.ancestry))
            declared = frozenset(value for value in annotated if isinstance(value, Typed | Instance))
            values = _as_declared(values, annotated)
        if declared or values:  # an attribute that the class declares may be given another value
            return values | declared if values else self._outside.unassigned(owner.definition, name, declared)
        if name == "__dict__":
            self.watcher.write(owner, "", UNKNOWN, frame, site)  # any of its attributes
        getter = owner.definition.find("__getattr__")
        if getter is not None:
            return UNKNOWN
        if name == "__class__":
            return frozenset({ClassValue(owner.definition)})
        if name == "__dict__":
            return frozenset({Unknown(owner)})
        return (
            frozenset({Attribute(owner, name)}) if owner.definition.is_opaque else self._outside.inherited(owner, name)
        )

    def _declared_attribute(self, definition: ClassDefinition, name: str) -> Values:
        """Return what the annotation of an attribute in the body of a class describes; nothing without one."""
        for each in definition.ancestry:
            for field, annotation, _ in each.fields:
                if field == name and each.scope is not None:
                    return self.annotated(annotation, each.scope)
        return NOTHING

    def _bound(self, values: Values, receiver: Value, frame: Frame, site: Site) -> Values:
        found: set[Value] = set()
        for value in in_order(values):
            if not isinstance(value, Function) or value.kind == "static":
                found.add(value)
            elif value.kind == "property":
                found |= self.call_function(value, [frozenset({receiver})], {}, frame, site)
            else:
                if value.tags and frame.entry.kind == "register":
                    self.facts.mentioned.add((frame.entry, value.definition))
                found.add(Method(receiver, value))
        return frozenset(found)

    @staticmethod
    def _of_class(values: Values, owner: ClassValue) -> Values:
        return frozenset(
            Method(owner, value) if isinstance(value, Function) and value.kind == "class" else value for value in values
        )

    def _constant(self, node: Node, _: Frame) -> Values:
        if node[1] is None and not node[2]:
            return frozenset({Steady()})
        return frozenset({Constant(node[1])})

    def _sequence(self, node: Node, frame: Frame) -> Values:
        _, kind, items, position = node
        found: list[Values] = []
        for item in items:
            values = self.evaluate(item, frame)
            found += self.iterated(values) if item[0] == "star" else [_or_unknown(values)]
        container = Container(kind, allocation(frame.site(position), frame))
        self.set_items(container, found)
        return frozenset({container})

    def _dict(self, node: Node, frame: Frame) -> Values:
        _, keys, values, position = node
        container = Container("dict", allocation(frame.site(position), frame))
        known: list[Values] = []
        for key, value in zip(keys, values, strict=True):
            found = self.evaluate(value, frame)
            if key is None:
                self.add_to(container, self.elements(found))
                continue
            named = self.evaluate(key, frame)
            known.append(named)
            self.add_to(container, found)
            text = next((each.value for each in in_order(named) if isinstance(each, Constant)), None)
            if isinstance(text, str):
                self.keep(container, text, found)
        if None not in keys:
            self.set_keys(container, known)
        return frozenset({container})

    def _lambda(self, node: Node, frame: Frame) -> Values:
        definition = self._definition(frame.scope.module, node[1])
        function = Function(definition, _closure(frame.scope, in_class=frame.in_class))
        self.facts.closures[definition] = function
        return frozenset({function})

    def _choice(self, node: Node, frame: Frame) -> Values:
        _, test, body, orelse = node
        guard = self._guard(test, frame, frame.site(_position(test) or [1, 0, 1, 0]))
        found: set[Value] = set()

        def choose(side: Node) -> str:
            found.update(self.evaluate(side, frame))
            return FALLS

        lasting = self._lasting(test, frame, holds=True), self._lasting(test, frame, holds=False)
        self._branches(guard, frame, lambda: choose(body), lambda: choose(orelse), lasting=lasting)
        return frozenset(found) | {value for value in guard.test if isinstance(value, Differs)}

    def _bool(self, node: Node, frame: Frame, *, is_tested: bool = False) -> Values:
        parts = node[1]
        found: set[Value] = set()

        def run(number: int) -> None:
            if number == len(parts) - 1:
                values = self.evaluate(parts[number], frame)
                self._last[id(parts[number])] = values
                found.update(values)
                place = _position(parts[number])
                if is_tested and place is not None:
                    self.watcher.tested(values, frame, frame.site(place))
                return
            guard = self._guard(parts[number], frame, frame.site(_position(parts[number]) or [1, 0, 1, 0]))
            self._last[id(parts[number])] = guard.test
            found.update(guard.test)
            last = self._lasting(parts[number], frame, holds=node[0] == "and")
            here = guard if last is None else dataclasses.replace(guard, lasts_with=last)
            self._only_under(here, frame, lambda: run(number + 1))

        run(0)
        return frozenset(found)

    def _only_under(self, guard: Guard, frame: Frame, run: Callable[[], object]) -> None:
        """Run what is evaluated under a condition only."""
        trace, guards = frame.trace, frame.guards
        frame.trace, frame.guards = [], [*guards, guard]
        run()
        done = frame.trace
        frame.trace, frame.guards = [*trace, *self.watcher.joined(guard, [done, []])], guards
        self.watcher.branched(guard, frame, (done, []), (FALLS, FALLS))

    def _not(self, node: Node, frame: Frame) -> Values:
        values = self.evaluate(node[1], frame)
        self._last[id(node[1])] = values
        position = _position(node[1])
        if position is not None:
            self.watcher.tested(values, frame, frame.site(position))
        return self._combined([values])

    def _operation(self, node: Node, frame: Frame) -> Values:
        return self._combined([self.evaluate(part, frame) for part in node[1]])

    def _compare(self, node: Node, frame: Frame) -> Values:
        parts = []
        for part in node[2]:
            parts.append(self.evaluate(part, frame))
            self._last[id(part)] = parts[-1]
        if all(operator in {"Is", "IsNot"} for operator in node[1]):
            found = frozenset(_changed(each) for part in parts for each in part if isinstance(each, Differs | Varies))
            return found or frozenset({Typed("builtins.bool")})
        if all(operator in {"In", "NotIn"} for operator in node[1]):
            site = frame.site(_position(node) or [1, 0, 1, 0])
            self.call_special(parts[-1], ["__contains__"], [parts[0]], frame, site)
            self.watcher.counted(frozenset(filter(_is_tensor, parts[-1])), "searches a tensor", frame, site)
            return self._combined([frozenset(each for each in part if not _is_data(each)) for part in parts])
        return frozenset(map(_compared, self._combined(parts)))

    def _combined(self, parts: Iterable[Values]) -> Values:
        """Return what is computed from values: it differs or varies as they do, and tensors give tensors."""
        found: set[Value] = set()
        is_known = True
        for part in parts:
            found |= {_changed(value) for value in part if isinstance(value, Differs | Varies) or _is_tensor(value)}
            found |= {value.part() for value in part if isinstance(value, Local)}
            found |= {value for value in part if value == _PATH or getattr(value, "kind", "") == "set"}
            is_known &= bool(part) and all(isinstance(value, Constant | Steady | Differs) for value in part)
        if not found:
            return frozenset({Steady()}) if is_known else UNKNOWN
        return frozenset(found)

    def _formatted(self, node: Node, frame: Frame) -> Values:
        for part in node[1]:
            values = self.evaluate(part, frame)
            site = frame.site(_position(part) or node[2])
            self.call_special(values, _SHOWING, [], frame, site)
            self.watcher.shown(values, frame, site)
        return frozenset({Typed("builtins.str")})

    def _comprehension(self, node: Node, frame: Frame) -> Values:
        _, kind, results, loops, position = node
        scope = Scope({}, _closure(frame.scope, in_class=None), frame.scope.module)
        inner = Frame(
            scope, frame.entry, frame.function, frame.receiver, frame.depth, frame.guards, calls=frame.calls,
            stack=frame.stack, is_part=True,
        )  # fmt: skip
        found: list[Values] = []
        differing: set[Value] = set()  # the number of items differs then

        def run(number: int) -> None:
            if number == len(loops):
                found.append(_or_unknown(self.evaluate(results[-1], inner)))
                return
            target, source, tests = loops[number]

            def body(passed: int = 0) -> None:
                if passed == len(tests):
                    run(number + 1)
                    return
                test = tests[passed]
                guard = self._guard(test, inner, inner.site(_position(test) or position))
                self._only_under(guard, inner, lambda: body(passed + 1))

            values = self.evaluate(source, inner)
            differing.update(value.part() if isinstance(value, Local) else value for value in values if _differs(value))
            self._loop(target, values, inner, body)

        run(0)
        self.watcher.finished(inner)
        frame.trace += inner.trace
        union = frozenset().union(*found)
        exact = found if kind == "list" and not any(tests for _, _, tests in loops) else []
        container_kind = "iterator" if kind == "generator" else kind
        rest = NOTHING if exact else union
        return self.new_container(container_kind, frame.site(position), frame, exact, rest) | differing

    def _item(self, node: Node, frame: Frame) -> Values:
        _, owner_node, index_node, position = node
        owners, index = self.evaluate(owner_node, frame), self.evaluate(index_node, frame)
        self._demand(owner_node, owners, frame)
        seen = self.watcher.item(owners, index, frame, frame.site(position))
        if seen is not None:
            return seen
        found: set[Value] = set()
        for owner in in_order(owners):
            if isinstance(owner, External) and canonical(owner.name) == "Event" and index:
                found.add(EventType(next(iter(in_order(index)))))
            elif isinstance(owner, External | ClassValue | EventType):
                found.add(owner)  # a generic class with its arguments
            elif isinstance(owner, Container) and index_node[0] == "slice":
                part = self.elements(frozenset({owner}))
                found |= self.new_container(owner.kind, frame.site(position), frame, [], part)
            elif isinstance(owner, Container):
                found |= self._item_of(owner, index)
            elif isinstance(owner, Instance):
                found |= self.call_special(
                    frozenset({owner}), ["__getitem__"], [index], frame, frame.site(position)
                ) or self._outside.elements_of(owner)
            else:
                found |= self._outside.elements_of(owner)
        return frozenset(found) | {value for value in index if isinstance(value, Differs)} or UNKNOWN

    def _slice(self, node: Node, frame: Frame) -> Values:
        bounds = [self.evaluate(part, frame) for part in node[1]]
        for values in bounds:
            self.watcher.counted(values, "uses a tensor as the bound of a slice", frame, frame.site(node[2]))
        return frozenset(value for value in self._combined(bounds) if not _is_tensor(value)) or UNKNOWN

    def _item_of(self, container: Container, index: Values) -> Values:
        constant = next((value.value for value in in_order(index) if isinstance(value, Constant)), None)
        if isinstance(constant, str) and (known := self.kept(container, constant)):
            return known
        items = self.items_of(container) or []
        if isinstance(constant, int) and -len(items) <= constant < len(items):
            return items[constant]
        return self.elements(frozenset({container}))

    def _walrus(self, node: Node, frame: Frame) -> Values:
        values = self.evaluate(node[2], frame)
        self._bind(node[1], values, frame)
        return values

    def _yield(self, node: Node, frame: Frame) -> Values:
        values = NONE if node[1] is None else _or_unknown(self.evaluate(node[1], frame))
        if node[1] is not None:
            is_delegated = node[1][0] == "star"  # `yield from`
            frame.yields |= frozenset().union(*self.iterated(values)) if is_delegated else values
        self.watcher.yielded(values, frame)
        return UNKNOWN

    def _await(self, node: Node, frame: Frame) -> Values:
        values = self.evaluate(node[1], frame)
        self.watcher.awaited(frame)
        return values

    # Calls

    def _call(self, node: Node, frame: Frame) -> Values:
        _, callee_node, argument_nodes, keyword_nodes, position = node
        callee = self.evaluate(callee_node, frame)
        self._demand(callee_node, callee, frame)
        arguments: list[Values] = []
        for argument in argument_nodes:
            values = self.evaluate(argument, frame)
            if argument[0] == "star":
                arguments += self.iterated(values)
            else:
                arguments.append(values)
        named: dict[str, Values] = {}
        for name, value in keyword_nodes:
            values = self.evaluate(value, frame)
            if name:
                named[name] = values
            else:
                named |= self._spread(values)
        if callee_node[0] == "name" and callee_node[1] == "super":
            return self._outside.super_of(frame, arguments)
        if callee_node[0] == "attribute" and any(isinstance(value, Unknown) for value in callee):
            # A callable that an object keeps may know the object.
            self.escape_all(self.evaluate_again(callee_node[1], frame), frame)
        if len(arguments) > 1 and arguments[1] == NONE and argument_nodes[-1][0] == "call":
            self._tagging.check_result(callee, self.evaluate_again(argument_nodes[-1][1], frame), frame.site(position))
        call = Call(arguments, named, frame, frame.site(position))
        seen = self.watcher.written(node, callee, call)
        result = self.call_all(callee, arguments, named, frame, call.site) if seen is None else seen
        self._last[id(node)] = result
        return result

    def _spread(self, values: Values) -> dict[str, Values]:
        found: dict[str, Values] = {}
        for value in values:
            if isinstance(value, Container):
                found |= self.all_kept(value)
        return found

    def call_all(
        self, callees: Values, arguments: list[Values], named: Mapping[str, Values], frame: Frame, site: Site
    ) -> Values:
        """Call each of the values that a callee may stand for."""
        found: set[Value] = set()
        for callee in in_order(callees):
            found |= self.call(callee, arguments, named, frame, site)
        if not callees:
            self.escape_all(frozenset().union(*arguments, *named.values()), frame)
        return frozenset(found)

    def call(
        self, callee: Value, arguments: list[Values], named: Mapping[str, Values], frame: Frame, site: Site
    ) -> Values:
        """Call a value."""
        if isinstance(callee, Function):
            return self.call_function(callee, arguments, named, frame, site)
        if isinstance(callee, Method):
            receiver = callee.receiver
            if callee.function.kind == "class" and isinstance(receiver, Instance):
                receiver = ClassValue(receiver.definition)
            return self.call_function(callee.function, [frozenset({receiver}), *arguments], named, frame, site)
        if isinstance(callee, ClassValue):
            return self._construct(callee.definition, arguments, named, frame, site)
        if isinstance(callee, Instance):
            is_network = any(is_module(Typed(each)) for each in callee.definition.outside)
            called = callee.definition.find("__call__") or (callee.definition.find("forward") if is_network else None)
            if called is not None:
                return self.call_all(self._bound(called[1], callee, frame, site), arguments, named, frame, site)
        if isinstance(callee, Partial):
            return self.call(
                callee.callee, [*callee.arguments, *arguments], {**dict(callee.named), **named}, frame, site
            )
        return self._outside.call(callee, Call(arguments, named, frame, site))

    def _construct(
        self,
        definition: ClassDefinition,
        arguments: list[Values],
        named: Mapping[str, Values],
        frame: Frame,
        site: Site,
    ) -> Values:
        self.facts.constructed.setdefault(definition, set()).add((site, frame.entry))
        instance = Instance(definition, allocation(site, frame))
        self.facts.num_made[instance, frame.entry] += 2 if frame.num_doubts else 1
        found = definition.find("__init__")
        if found is not None:
            self.call_all(self._bound(found[1], instance, frame, site), arguments, named, frame, site)
        else:
            fields = [field for each in reversed(definition.ancestry) for field in each.fields]
            for (name, _, _), values in zip(fields, arguments, strict=False):
                self.set_attribute(instance, name, values, frame, site)
            for name, values in named.items():
                self.set_attribute(instance, name, values, frame, site)
            after = definition.find("__post_init__")
            if after is not None:
                self.call_all(self._bound(after[1], instance, frame, site), [], {}, frame, site)
            if definition.is_opaque:
                self.escape_all(frozenset().union(*arguments, *named.values()), frame)
        return frozenset({instance})

    def call_special(
        self, values: Values, names: Sequence[str], arguments: list[Values], frame: Frame, site: Site
    ) -> Values:
        """Call the first of some special methods that the class of each object has, as Python does by itself."""
        result: set[Value] = set()
        for owner in in_order(values):
            members = [owner.definition.find(name) for name in names] if isinstance(owner, Instance) else []
            found = next((each for each in members if each is not None), None)
            if found is not None:
                result |= self.call_all(self._bound(found[1], owner, frame, site), arguments, {}, frame, site)
        return frozenset(result)

    def call_function(
        self, function: Function, arguments: list[Values], named: Mapping[str, Values], frame: Frame, site: Site
    ) -> Values:
        """Run the body of a function with arguments."""
        definition = function.definition
        if frame.depth and not frame.entry.name.startswith("test"):
            self.facts.called.add(definition)
        marks = function.all_marks() if definition.name in self.facts.marked else frozenset()
        if marks:
            place = site if frame.depth else definition.site
            self.watcher.marked(marks, definition.name, Call(arguments, named, frame, place))
        is_short = definition.name == "__init__" or (
            len(definition.facts["body"]) <= _SHORT and not self.extent.follows_calls_only
        )
        is_begun = not frame.depth and (frame.entry.kind == "closure" or self.relevance.leads(definition))
        is_followed = is_short or is_begun or self._num_decorating or self.relevance.has(definition)
        is_followed = is_followed or self._matters(_all(arguments, named))
        if not is_followed:
            return self.annotated_result(function, UNKNOWN)
        if frame.depth >= self.extent.max_depth or frame.stack.count(definition) > 1:
            self.escape_all(frozenset().union(*arguments, *named.values()), frame)
            return UNKNOWN
        scope = Scope({}, function.scope, definition.module)
        # That a marked function waits is said where it is called, and not of what it does inside.
        guards = [*frame.guards, Guard(UNKNOWN, site)] if "waits_for_device" in marks else frame.guards
        inner = Frame(
            scope,
            frame.entry,
            function,
            _first(arguments[0]) if arguments and function.owner is not None else frame.receiver,
            frame.depth + 1,
            guards,
            frame.num_doubts,
            num_guards_around=len(guards),
            calls=(*frame.calls, site),
            stack=(*frame.stack, definition),
        )
        self._bind_parameters(function, arguments, named, inner, is_root=frame.depth == 0)
        self.execute(definition.facts["body"], inner)
        if ONE_RANK in marks:
            self.watcher.enclosed(frozenset({Differs("the rank on which its decorator calls it")}), inner.trace)
        self.watcher.finished(inner)
        frame.trace += inner.trace if "collective" not in marks else []
        if definition.facts["generator"]:
            kind = "manager" if function.kind == "manager" else "iterator"
            return self.new_container(kind, definition.site, frame, [], frozenset(inner.yields))
        returned = frozenset(inner.returns) or NONE
        return self.annotated_result(function, returned)

    def annotated_result(self, function: Function, returned: Values) -> Values:
        """Return what a function returns; what it is annotated with where the body does not show it."""
        annotation = function.definition.facts["returns"]
        if annotation is not None and all(isinstance(value, Unknown | Varies) for value in returned):
            return self.annotated(annotation, function.scope) | (returned - UNKNOWN) or returned
        return returned

    def _bind_parameters(
        self,
        function: Function,
        arguments: list[Values],
        named: Mapping[str, Values],
        frame: Frame,
        *,
        is_root: bool,
    ) -> None:
        definition, names = function.definition, frame.scope.names
        remaining = list(arguments)
        left = dict(named)
        for name, kind, annotation, default in definition.facts["parameters"]:
            if kind == "star":
                names[name] = self.new_container("tuple", definition.site, frame, remaining, NOTHING)
                remaining = []
            elif kind == "stars":
                names[name] = self.new_container("dict", definition.site, frame, [], frozenset().union(*left.values()))
                (container,) = names[name]
                for each, values in left.items():
                    self.keep(container, each, values)
            elif kind == "plain" and remaining:
                names[name] = _or_unknown(remaining.pop(0))
            elif name in left:
                names[name] = _or_unknown(left.pop(name))
            elif default is not None:
                values = self.evaluate(default, Frame(function.scope, frame.entry))
                names[name] = values
                if is_root:  # a caller may pass anything else
                    names[name] = self._declared(function, name, annotation) | values
            else:
                names[name] = self._declared(function, name, annotation)
            if annotation is not None and (names[name] == UNKNOWN or any(map(_differs, names[name]))):
                names[name] = _as_declared(names[name], self._declared(function, name, annotation))

    def _declared(self, function: Function, name: str, annotation: Node | None) -> Values:
        values = self.annotated(annotation, function.scope) if annotation is not None else UNKNOWN
        site = function.definition.site
        marked = Site(f"{site.module}:{function.definition.path}.{name}", *site[1:])
        return frozenset(
            Bus(value.loop, marked) if isinstance(value, Bus) and value.site is None and not value.loop else value
            for value in values
        )

    def annotated(self, annotation: Node | None, scope: Scope) -> Values:
        """Return what an annotation describes."""
        values = self._outside.annotated(annotation, scope)
        if not self.extent.runs_unseen:
            return values
        return frozenset(each for value in values for each in self._kinds(value))

    def _kinds(self, value: Value) -> Iterable[Value]:
        """Return the objects that one of a class may be: those of the classes below it, if there are any."""
        if not isinstance(value, Instance) or value.site is not None:
            return (value,)
        below = [each for each in self.facts.classes if value.definition in each.ancestry[1:]]
        leaves = [each for each in below if not any(each in other.ancestry[1:] for other in below)]
        return [Instance(each) for each in leaves] or (value,)

    # What leaves the program

    def escape_all(self, values: Iterable[Value], frame: Frame) -> None:
        """Record that values leave the program."""
        for value in in_order(frozenset(values)):
            self.escape(value, frame)

    def escape(self, value: Value, frame: Frame) -> None:
        """Record that a value leaves the program: code that is not in view may do anything with it."""
        if isinstance(value, Constant | Unknown | External | Typed | Steady | Varies | Differs | Local):
            return
        if isinstance(value, Bus | RegistrationContext):
            bus = value.bus if isinstance(value, RegistrationContext) else value
            self.facts.open_buses.append((frame.entry, bus))
            return
        if value in self.facts.escaped:
            return
        self.facts.escaped.add(value)
        if isinstance(value, Container):
            self.escape_all(self.elements(frozenset({value})), frame)
        elif isinstance(value, Method):
            self.escape(value.receiver, frame)
            self._call_back(value, frame)
        elif isinstance(value, Function):
            self._call_back(value, frame)
        elif isinstance(value, Partial):
            self.escape(value.callee, frame)
            self.escape_all(frozenset().union(*value.arguments, *(each for _, each in value.named)), frame)
        elif isinstance(value, Instance):
            for values in self.all_kept(value).values():
                self.escape_all(values, frame)

    def _call_back(self, value: Method | Function, frame: Frame) -> None:
        """Run a function that code out of view may call."""
        function = value.function if isinstance(value, Method) else value
        if function.definition not in frame.stack and frame.depth < self.extent.max_depth:
            self.call(value, [], {}, frame, function.definition.site)


def _assigned_later(modules: Iterable[Module]) -> set[str]:
    """Return the names of attributes that are assigned after an object has been constructed and registered."""
    return {
        name
        for module in modules
        for function in (module.summary or {}).get("functions", ())
        if function["name"] not in {"__init__", "__post_init__", "__new__", "register_events"}
        for name in function["assigns"]
    }


def _closure(scope: Scope, in_class: ClassDefinition | None) -> Scope:
    """Return the scope that a function defined here looks names up in: the body of a class is none."""
    return scope.outer or scope if in_class is not None else scope


def _joined(results: Iterable[dict[str, Values]]) -> dict[str, Values]:
    joined: dict[str, Values] = {}
    for names in results:
        for name, values in names.items():
            old = joined.get(name)
            joined[name] = values if old is None or old is values else old | values
    return joined


def _order(definition: ClassDefinition) -> list[ClassDefinition | str]:
    """Return a class and its bases in the order in which Python looks members up, as far as they are known."""
    bases = [base for base in definition.bases if isinstance(base, ClassDefinition) or base in DEFINED_BY_D9D]
    lines = [list(base.order) if isinstance(base, ClassDefinition) else _LINES.get(base, [base]) for base in bases]
    lines.append(bases)
    line: list[ClassDefinition | str] = [definition]
    while lines := [each for each in lines if each]:
        heads = [each[0] for each in lines]
        # Where no head is free, the bases contradict each other, and Python refuses the class.
        head = next((head for head in heads if not any(head in each[1:] for each in lines)), heads[0])
        line.append(head)
        lines = [[each for each in rest if each != head] for rest in lines]
    return line


def _needed(test: Node, *, holds: bool) -> list[Node]:
    """Return the attributes that are not `None` where a condition holds, or where it does not."""
    kind = test[0]
    if kind == "not":
        return _needed(test[1], holds=not holds)
    if kind == ("and" if holds else "or"):
        return [node for part in test[1] for node in _needed(part, holds=holds)]
    if kind == "compare" and test[1] == ["IsNot" if holds else "Is"] and test[2][1] == ["constant", None, True]:
        return [test[2][0]]
    return [test] if kind == "attribute" and holds else []


def _position(node: Node) -> Any:
    """Return the position of an expression, if it has one; else that of a part of it."""
    last = node[-1]
    if isinstance(last, list) and len(last) == 4 and all(type(each) is int for each in last):  # noqa: PLR2004 -- the numbers of a position
        return last
    for part in node[1:]:
        if isinstance(part, list) and part and isinstance(part[0], str):
            found = _position(part)
            if found is not None:
                return found
        elif isinstance(part, list) and part and isinstance(part[0], list):
            found = next((each for each in map(_position, part) if each is not None), None)
            if found is not None:
                return found
    return None


def _all(arguments: Iterable[Values], named: Mapping[str, Values]) -> Iterator[Value]:
    """Yield everything that a function is called with."""
    for values in [*arguments, *named.values()]:
        yield from values


def _or_unknown(values: Values) -> Values:
    return values or UNKNOWN


def _is_tensor(value: Value) -> bool:
    return isinstance(value, Tensor)


def _as_declared(values: Values, declared: Values) -> Values:
    """Return what an annotation says of what is not known; data of a rank is a tensor if it says so."""
    if not values or values == UNKNOWN:
        return declared
    data = [value for value in values if isinstance(value, Local)]
    if data and any(map(_is_tensor, declared)) and not any(map(_is_tensor, values)):
        return values | {Tensor(all(each.is_on_host for each in data))}
    return values


def _compared(value: Value) -> Value:
    """Return what a comparison makes of a value."""
    if isinstance(value, Tensor):
        return Tensor(value.is_on_host, is_mask=True)
    return value.part(COMPARED) if isinstance(value, Local) else value


def _changed(value: Value) -> Value:
    """Return what is computed from a value: of what is rarely true, it may be the opposite."""
    return Varies() if isinstance(value, Varies) else value


def _differs(value: Value) -> bool:
    return isinstance(value, Differs | Local)


def _is_choice(value: Value) -> bool:
    return isinstance(value, Differs) and value.source is None


def _is_data(value: Value) -> bool:
    return isinstance(value, Tensor | Local)


def _chosen(values: Values, why: Differs | None) -> Values:
    """Return values with the mark that ranks choose differently among them and others; tensors may be sent later."""
    is_plain = all(isinstance(value, Constant | Steady | Unknown | Typed | Varies | Differs) for value in values)
    return values | {why} if why is not None and is_plain else values


def _chosen_names(names: dict[str, Values], before: dict[str, Values], why: Differs | None) -> dict[str, Values]:
    """Return the names after a side of a condition; what it assigned is marked if ranks choose sides differently."""
    if why is None:
        return names
    return {name: values if values is before.get(name) else _chosen(values, why) for name, values in names.items()}


def _first(values: Values) -> Value | None:
    return next(iter(in_order(values)), None)


def _module_of(value: Value) -> str:
    while isinstance(value, Partial):
        value = value.callee
    function = value.function if isinstance(value, Method) else value
    return function.definition.module if isinstance(function, Function) else ""
