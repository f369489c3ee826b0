"""What d9d does with what a program gives it: tags, buses, configurators."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Final

from d9d_check.facts import Call, Claim, Entry, Frame, Registration, Trigger
from d9d_check.machine import Machine
from d9d_check.pairs import check_sides
from d9d_check.values import (
    DEFINED_BY_D9D,
    NONE,
    NOTHING,
    SUBSCRIPTION,
    UNKNOWN,
    Bounded,
    Bus,
    ClassDefinition,
    ClassValue,
    Constant,
    Container,
    Emitter,
    EventValue,
    External,
    Function,
    Instance,
    Method,
    ModuleValue,
    Partial,
    RegistrationContext,
    Site,
    Tag,
    Tagger,
    Typed,
    Unknown,
    Value,
    Values,
    in_order,
)

TASKS: Final = {"TrainTask": "train", "InferenceTask": "inference", "BaseTask": "", "ModelProvider": ""}
"""What a loop registers, by the name of its base class, with the loop that runs it."""
_CONFIGURATORS: Final = {"TrainingConfigurator": "train", "InferenceConfigurator": "inference"}


def canonical(name: str) -> str:
    """Return the name of something of d9d without the package that exports it; any other name unchanged."""
    return name.rpartition(".")[2] if name.startswith("d9d.") else name


class Framework:
    """What d9d does with what a program gives it.

    Args:
        interpreter: Runs the program.
    """

    def __init__(self, interpreter: Machine) -> None:
        self._run = interpreter
        self._facts = interpreter.facts

        self._functions: dict[str, Callable[[Call], Values]] = {
            "subscribe": self._tagger,
            "subscribe_annotated": self._annotated,
            "Event": self.event,
            "Evaluation": self._evaluation,
            "collective": functools.partial(self._marked, "collective"),
            "waits_for_device": functools.partial(self._marked, "waits_for_device"),
            "EventBus": lambda call: frozenset({Bus(site=call.site, is_own=True)}),
            **{name: functools.partial(self._configure, loop) for name, loop in _CONFIGURATORS.items()},
        }

    def call(self, name: str, call: Call) -> Values | None:
        """Call something of d9d by its own name; nothing is returned for what is not known."""
        known = self._functions.get(name)
        return None if known is None else known(call)

    def _tagger(self, call: Call) -> Values:
        events = frozenset(value for value in call.get(0, "event") if isinstance(value, EventValue))
        self._use(events, call.site)
        for value in call.get(0, "event"):
            if isinstance(value, Function):
                self._facts.report(
                    "d9d-handler",
                    f'@subscribe is used on "{value.definition.name}" without an event, and raises a TypeError: name '
                    "the event, as in @subscribe(EVENT_TRAIN_STEP_POST)",
                    call.site,
                )
        tag = Tag(
            events,
            call.site,
            is_optional=_is_true(call, "optional"),
            is_periodic=_is_periodic(call),
            counts_steps=_counts_steps(call),
            is_on_main_only=_is_true(call, "main_process_only"),
            is_once=_is_true(call, "once"),
        )
        return frozenset({Tagger(tag)})

    def _marked(self, mark: str, call: Call) -> Values:
        found: set[Value] = set()
        for value in in_order(call.get(0, "function")):
            if isinstance(value, Function):
                self._facts.marked.add(value.definition.name)
                found.add(dataclasses.replace(value, marks=value.marks | {mark}))
            else:
                found.add(value)
        return frozenset(found)

    def _annotated(self, call: Call) -> Values:
        self._subscribe_annotated(call.get(0, "bus"), call.get(1, "target"), call.frame, call.site)
        return NONE

    @staticmethod
    def event(call: Call) -> Values:
        """Return the event that a call of `Event` creates."""
        ids = [value.value for value in call.get(0, "id") if isinstance(value, Constant)]
        text = ids[0] if len(ids) == 1 and isinstance(ids[0], str) else ""
        return frozenset({EventValue(f"<{call.site.module}:{call.site.line}:{call.site.column}>", text, call.site)})

    def _configure(self, loop: str, call: Call) -> Values:
        """Do what the configuration of a loop does to what it is given."""
        bus = Bus(loop)
        num_before = len(self._facts.registrations)
        self._facts.configures = True
        self._facts.tasks.append((call.frame.entry, call.named.get("task", NOTHING)))
        for name, values in [*(("", each) for each in call.arguments), *call.named.items()]:
            is_subscribers = name == "subscribers"
            if is_subscribers:
                self._check_subscribers(values, call)
            for value in in_order(self._run.elements(values) if is_subscribers else values):
                if isinstance(value, Instance):
                    self._facts.given.add(value.definition)
                    self.registered_by_loop(value, bus, call.frame, call.site, is_subscriber=is_subscribers)
                elif is_subscribers and isinstance(value, Function):
                    self._register_tags(bus, value, frozenset({value}), call.frame, call.site)
            if is_subscribers and not self._is_exact(values):
                self._facts.open_registrations.append((call.frame.entry, call.site))
        self._claim(self._facts.registrations[num_before:], call)
        return frozenset({Typed("d9d.TrainingConfigurator" if loop == "train" else "d9d.InferenceConfigurator")})

    def _evaluation(self, call: Call) -> Values:
        """Do what a training does to the task of one of its evaluations."""
        for value in in_order(call.named.get("task", NOTHING)):
            if isinstance(value, Instance):
                self._facts.given.add(value.definition)
                self._facts.evaluated.add(value.definition)
                self.registered_by_loop(value, Bus("train"), call.frame, call.site)
        return frozenset({Typed("d9d.Evaluation")})

    def _claim(self, registrations: Sequence[Registration], call: Call) -> None:
        """Keep which objects a configurator certainly subscribes: those that it is given, and those of the task."""
        containers = in_order(call.named.get("subscribers", NOTHING))
        given = [item for value in containers for item in self._items_of_subscribers(value)]
        items = [only for item in given if len(item) == 1 for only in item if isinstance(only, Instance)]
        owners = [*items, *(call.named.get("task", NOTHING) if len(call.named.get("task", NOTHING)) == 1 else ())]
        # One with `register_events` is subscribed by what that does.
        found: list[tuple[Instance, Site]] = [
            (each, call.site)
            for each in items
            if each.definition.find("register_events") is None or owners.count(each) > 1
        ]
        targets: dict[Site, set[Value]] = {}
        for each in registrations:
            is_certain = each.tag is not None and len(each.guards) == len(call.frame.guards)
            if is_certain and each.target is not None and each.site != call.site:
                targets.setdefault(each.site, set()).add(each.target)
        for site, values in targets.items():
            # The object that stands for all others is there because anybody may call a constructor.
            created = [value for value in values if isinstance(value, Instance) and value.site is not None]
            found += [(value, site) for value in created if len(created) == 1]
        self._facts.claims += [
            Claim(call.frame.entry, len(self._facts.tasks), call.site, target, site)
            for target, site in found
            if target.site is not None
        ]

    def _check_subscribers(self, values: Values, call: Call) -> None:
        """Report items of `subscribers=` that are no objects with handlers."""
        items = [item for value in values for item in self._items_of_subscribers(value)]
        for item in items:
            if not any(isinstance(value, Instance) for value in item):  # what loops do with these, they do themselves
                self._check_targets(item, call, "subscribers= has")

    def _items_of_subscribers(self, value: Value) -> list[Values]:
        if isinstance(value, Container) and value.kind == "dict":
            return [self._run.elements(frozenset({value}))]
        return self._run.iterated(frozenset({value})) if isinstance(value, Container) else []

    def _is_exact(self, values: Values) -> bool:
        """Return whether all items of a container are known."""
        return all(
            isinstance(value, Container)
            and not any(isinstance(each, Unknown) for each in self._run.elements(frozenset({value})))
            for value in values
        )

    def registered_by_loop(
        self, value: Instance, bus: Bus, frame: Frame, site: Site, *, is_subscriber: bool = False
    ) -> None:
        """Do what a loop does with a task, a provider or a subscriber."""
        found = value.definition.find("register_events")
        if found is not None and (is_subscriber or is_task(value.definition)):
            entry = Entry("register", "register_events", value.definition)
            inner = Frame(frame.scope, entry, depth=frame.depth)
            context: Values = frozenset({RegistrationContext(bus)})
            method = self._run.get_attribute(value, "register_events", inner, site)
            self._run.call_all(method, [context], {}, inner, site)
        elif is_subscriber:
            self._subscribe_target(bus, value, frame, site)
            self._check_targets(frozenset({value}), Call([], {}, frame, site), "subscribers= has")

    def _use(self, events: frozenset[EventValue], site: Site) -> None:
        for event in events:
            self._facts.event_uses.setdefault(event, set()).add(site)

    def bus_method(self, bus: Bus | Emitter, name: str, call: Call) -> Values:
        """Call a method of a bus, or of an emitter."""
        if isinstance(bus, Emitter):
            self._trigger(bus.bus, bus.events, call, is_now=True)
            self._check_context(bus.events, call.get(0, "context"), call.site)
            return NONE
        if name == "subscribe":
            self._subscribe(bus, call)
            return frozenset({SUBSCRIPTION})
        if name in {"trigger", "emitter", "bounded"}:
            given = [
                *call.arguments[:2],
                *(call.named.get(key, NOTHING) for key in ("event", "event_pre", "event_post")),
            ]
            events = frozenset(value for values in given for value in values if isinstance(value, EventValue))
            self._use(events, call.site)
            self._trigger(bus, events, call, is_now=name != "emitter")
            if name == "emitter":
                return frozenset({Emitter(bus, events, call.site)})
            if name == "bounded":
                pre, post = call.get(0, "event_pre"), call.get(1, "event_post")
                check_sides(self._facts, pre, post, self._run.catalogues.moments, call.site)
                return frozenset({Bounded(frozenset(each for each in pre if isinstance(each, EventValue)), call.site)})
            self._check_context(events, call.get(1, "context"), call.site)
        return UNKNOWN

    def _trigger(self, bus: Bus, events: frozenset[EventValue], call: Call, *, is_now: bool) -> None:
        frame = call.frame
        self._facts.triggers.append(Trigger(bus, events, call.site, frame.entry, tuple(frame.guards), is_now))

    def _check_context(self, events: frozenset[EventValue], given: Values, site: Site) -> None:
        """Report an event that carries an object of a class, and is triggered with a number or a text."""
        if given and all(isinstance(value, Instance | Typed) for value in given):
            self._check_class(events, given, site)
        if not given or not all(isinstance(value, Constant) for value in given):
            return
        found = " or ".join(sorted({type(value.value).__name__ for value in given if isinstance(value, Constant)}))
        for event in events:
            context = _class_name(event.context)
            if context:
                self._facts.report(
                    "d9d-context",
                    f'{event} is triggered with "{found}", but carries "{context}": pass an object of type "{context}"',
                    site,
                )

    def _check_class(self, events: frozenset[EventValue], given: Values, site: Site) -> None:
        """Report an event that is triggered with an object of a class that has nothing to do with its context."""
        for event in events:
            names = [self._other_class(value, event.context) for value in given]
            if names and all(names) and event.context is not None:
                found, wanted = min(names), _class_name(event.context)
                self._facts.report(
                    "d9d-context",
                    f'{event} is triggered with "{found}", but carries "{wanted}": pass an object of type "{wanted}"',
                    site,
                )

    def _other_class(self, value: Value, context: Value | None) -> str:
        """Return the name of the class of an object if that is certainly not the one that an event carries."""
        resolve = self._run.catalogues.resolve
        carried = resolve(context.name) if isinstance(context, External) else None
        wanted = context.definition if isinstance(context, ClassValue) else None
        if wanted is None and carried not in self._run.catalogues.fields:
            return ""
        if wanted is not None and (wanted.is_opaque or any(each.endswith("Protocol") for each in wanted.outside)):
            return ""
        if isinstance(value, Typed):
            found = resolve(value.name) or ""
            is_context = found in self._run.catalogues.fields
            name = found.rpartition(".")[2]
            is_other = found != carried if wanted is None else name not in wanted.outside
            return name if is_context and is_other else ""
        if not isinstance(value, Instance) or value.definition.is_opaque:
            return ""
        names = [*value.definition.outside, *(each.name for each in value.definition.ancestry)]
        lines = {*value.definition.ancestry, *(each.rpartition(".")[2] for each in names)}
        if wanted is not None:
            is_other = wanted not in lines and value.definition not in wanted.ancestry
        else:
            is_other = str(carried).rpartition(".")[2] not in lines
        return value.definition.name if is_other else ""

    def _subscribe(self, bus: Bus, call: Call) -> None:
        events = call.get(0, "event")
        handlers = call.get(1, "handler")
        known = frozenset(value for value in events if isinstance(value, EventValue))
        self._use(known, call.site)
        if len(known) < len(events):
            known = frozenset()
        for handler in in_order(handlers):
            self._facts.registrations.append(
                Registration(
                    bus,
                    known,
                    handler,
                    None,
                    None,
                    call.site,
                    call.frame.entry,
                    tuple(call.frame.guards),
                    call.frame.depth,
                    is_periodic=_is_periodic(call),
                    counts_steps=_counts_steps(call),
                    is_on_main_only=_is_true(call, "main_process_only"),
                    is_once=_is_true(call, "once"),
                )
            )
            if isinstance(handler, Unknown) and isinstance(handler.owner, Instance):
                self._run.escape(handler.owner, call.frame)
                self._facts.open_buses.append((call.frame.entry, bus))

    def _subscribe_annotated(self, buses: Values, targets: Values, frame: Frame, site: Site) -> None:
        known = [bus for bus in buses if isinstance(bus, Bus)] or [Bus()]
        for bus in known:
            for target in in_order(targets):
                self._subscribe_target(bus, target, frame, site)
        self._check_targets(targets, Call([], {}, frame, site), "subscribe_annotated is called with")

    def _subscribe_target(self, bus: Bus, target: Value, frame: Frame, site: Site) -> None:
        if isinstance(target, Instance):
            for member in members_of(target.definition).values():
                self._register_tags(bus, target, member, frame, site)
            if target.definition.is_opaque:
                self._facts.open_registrations.append((frame.entry, site))
        elif isinstance(target, Function):
            self._register_tags(bus, target, frozenset({target}), frame, site)
        elif isinstance(target, ModuleValue) and target.key in self._run.module_keys():
            for values in self._run.run_module(target.key).names.values():
                own = [each for each in values if isinstance(each, Function) and each.definition.module == target.key]
                self._register_tags(bus, target, frozenset(own), frame, site)
        elif not isinstance(target, Constant | Container | ClassValue | Method):
            self._facts.open_registrations.append((frame.entry, site))
            if isinstance(target, Unknown) and isinstance(target.owner, Instance):
                self._run.escape(target.owner, frame)  # it may be any of its attributes

    def _register_tags(self, bus: Bus, target: Value, member: Values, frame: Frame, site: Site) -> None:
        for value in in_order(member):
            if not isinstance(value, Function):
                continue
            for tag in value.tags:
                handler = Method(target, value) if isinstance(target, Instance) else value
                self._facts.registrations.append(
                    Registration(
                        bus, tag.events, handler, tag, target, site, frame.entry, tuple(frame.guards), frame.depth
                    )
                )

    def _check_targets(self, targets: Values, call: Call, given: str) -> None:
        """Report what is to be subscribed and cannot have handlers."""
        if call.frame.entry.name.startswith("test"):  # a test may try what is refused
            return
        is_chosen = bool(call.frame.guards)
        whys = [self._why_without_handlers(each, is_chosen=is_chosen) for each in targets if each != Constant(None)]
        if whys and all(whys):
            self._facts.report("d9d-target", f"{given} {min(whys)}", call.site)
            for value in targets | self._run.elements(targets):
                if isinstance(value, ClassValue | Instance):
                    self._facts.attempted.add(value.definition)

    def _why_without_handlers(self, target: Value, *, is_chosen: bool) -> str:
        """Return why an object has no handlers, and what to do; empty if it may have some."""
        found = ""
        if isinstance(target, Container):
            is_known = target.site is not None and not target.site.module.endswith(":annotation")
            article = "an" if target.kind == "iterator" else "a"
            if is_known and target.kind in {"list", "tuple", "set", "dict", "iterator"}:
                found = (
                    f"{article} {target.kind}, which has no handlers, so nothing is subscribed: pass each object in it "
                    "by itself, in a for loop or with a star"
                )
        elif isinstance(target, Method):
            found = (
                f'the method "{target.function.definition.name}", so nothing is subscribed: pass its object, or use '
                "bus.subscribe"
            )
        elif isinstance(target, ClassValue):
            name = target.definition.name
            found = f"the class {name}, which is refused: pass an object, such as {name}(...)"
        elif isinstance(target, Partial) and isinstance(target.callee, ClassValue | Function):
            found = "a function that makes an object, and not the object, so nothing is subscribed: call it"
        elif isinstance(target, ModuleValue):
            found = self._why_without_functions(target)
        elif isinstance(target, Instance) and not (is_chosen and target.definition.find("register_events")):
            found = self._why_without_methods(target)
        elif isinstance(target, Function) and not (is_chosen or target.tags or target.is_opaque or target.kind):
            name = target.definition.name
            if target.definition not in self._facts.lost_tags:
                found = (
                    f'the function "{name}", which has no @subscribe, so nothing is subscribed: decorate it if it is a '
                    "handler, or call it if it makes an object"
                )
        return found

    def _why_without_functions(self, target: ModuleValue) -> str:
        if target.key in self._run.module_keys():
            names = self._run.run_module(target.key).names
            own = [each for values in names.values() for each in values if isinstance(each, Function)]
            if not any(each.tags and each.definition.module == target.key for each in own):
                return (
                    f"the module {target.key}, which defines no handler itself, so nothing is subscribed: pass the "
                    "module that defines the handlers"
                )
        return ""

    def _why_without_methods(self, target: Instance) -> str:
        if target.site is not None and not target.definition.is_opaque:
            functions = [
                each for kind in target.definition.ancestry for values in kind.members.values() for each in values
            ]
            has_tags = any(isinstance(each, Function) and (each.tags or each.is_opaque) for each in functions)
            lost = any(isinstance(each, Function) and each.definition in self._facts.lost_tags for each in functions)
            if not has_tags and not lost and functions:
                return (
                    f'an object of "{target.definition.name}", which has no method with @subscribe, so nothing is '
                    "subscribed: decorate its handlers, or subscribe them with bus.subscribe"
                )
        return ""

    # Containers and the standard library


def is_task(definition: ClassDefinition) -> bool:
    """Return whether a loop registers objects of a class: tasks and model providers."""
    return any(base in TASKS for base in definition.outside)


def loop_of(definition: ClassDefinition) -> str:
    """Return the loop that runs a task; empty for a class that no loop or both may run."""
    loops = {TASKS[base] for base in definition.outside if TASKS.get(base)}
    return loops.pop() if len(loops) == 1 else ""


def members_of(definition: ClassDefinition) -> dict[str, Values]:
    """Return the members of a class, its bases included, in the order of their definition."""
    members: dict[str, Values] = {}
    for each in reversed(definition.order):
        if isinstance(each, str):
            members = {name: values for name, values in members.items() if name not in DEFINED_BY_D9D[each]}
        else:
            members |= each.members
    return members


def _is_periodic(call: Call) -> bool:
    """Return whether a subscription is declared for some steps only."""
    return _counts_steps(call) or _is_true(call, "once")


def _counts_steps(call: Call) -> bool:
    """Return whether a subscription is declared for every N-th step."""
    every = {value.value if isinstance(value, Constant) else 0 for value in call.named.get("every", NONE)}
    return not every <= {None, 1}


def _is_true(call: Call, name: str) -> bool:
    return Constant(value=True) in call.named.get(name, NOTHING)


def _class_name(value: Value | None) -> str:
    """Return the name of a class of which a number or a text is no instance; empty for any other."""
    if isinstance(value, ClassValue):
        return value.definition.name
    if isinstance(value, External) and not value.name.startswith(("builtins.", "typing.")):
        return value.name.rpartition(".")[2]
    return ""
