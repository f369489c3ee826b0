"""Every tag reaches a bus whose loop triggers its event."""

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from d9d_check.facts import Entry, Facts, Registration, Trigger
from d9d_check.framework import is_task, members_of
from d9d_check.program import Program
from d9d_check.source import is_test_module
from d9d_check.values import (
    NONE,
    Bus,
    ClassDefinition,
    Definition,
    EventValue,
    Function,
    Instance,
    Method,
    Partial,
    Site,
    Tag,
    Values,
    in_order,
)

_LOOPS: Final = {"train": "training", "inference": "inference"}
_ABSTRACT_METHODS: Final = {"InferenceTask": "process_outputs", "ModelProvider": "initialize_model_stage"}
_TASK_OF: Final = {"train": "TrainTask", "inference": "InferenceTask"}
_IN_EVERY_STEP: Final = frozenset({"compute_loss", "build_forward_inputs", "process_outputs"})


def check_liveness(program: Program) -> None:
    """Report handlers that are never called, and subscriptions that fail or do nothing when they run."""
    _Liveness(program).check()


def definition_of(registration: Registration) -> Definition | None:
    """Return the function that is subscribed, if it is in the program."""
    handler = registration.handler
    while isinstance(handler, Partial):
        handler = handler.callee
    function = handler.function if isinstance(handler, Method) else handler
    return function.definition if isinstance(function, Function) else None


def _receiver(registration: Registration) -> ClassDefinition | None:
    handler = registration.handler
    if isinstance(handler, Partial) and isinstance(handler.callee, Function) and handler.arguments:
        return next((value.definition for value in in_order(handler.arguments[0]) if isinstance(value, Instance)), None)
    while isinstance(handler, Partial):
        handler = handler.callee
    return (
        handler.receiver.definition if isinstance(handler, Method) and isinstance(handler.receiver, Instance) else None
    )


def _is_given_to_loop(registration: Registration) -> bool:
    """Return whether a configurator registers an object that it is given, which decides by itself what it registers."""
    bus = registration.bus
    return bool(bus.loop) and not bus.is_configured and registration.entry.kind != "register"


def _is_test(entry: Entry) -> bool:
    return entry.name.startswith("test")


def _are_created_in_view(values: Values) -> bool:
    return bool(values) and all(isinstance(value, Instance) and value.site is not None for value in values)


def quoted(events: Iterable[EventValue]) -> str:
    """Return how messages name events."""
    return " and ".join(sorted({str(event) for event in events})) or "an event"


class _Liveness:
    def __init__(self, program: Program) -> None:
        self._facts: Facts = program.facts
        self._moments = program.catalogues.moments
        self._classes = list(dict.fromkeys(self._facts.classes))
        self._open = {bus for _, bus in self._facts.open_buses}
        self._triggered = {trigger.bus for trigger in self._facts.triggers}
        self._counted = [each for each in self._facts.registrations if self._counts(each)]
        self._of_function: dict[Definition, list[Registration]] = {}
        for each in self._counted:
            definition = definition_of(each)
            if definition is not None:
                self._of_function.setdefault(definition, []).append(each)
        self._registered = set(self._of_function)
        self._knows_tasks = (
            bool(self._facts.tasks)
            and not any(self._is_open(entry) for entry in self._entries_with_unknown_targets())
            and not any(each.find("__getattribute__") for each in self._facts.given)
            and all(self._is_called(entry) or _are_created_in_view(task) for entry, task in self._facts.tasks)
        )
        self._hidden: set[Definition] = set()
        self._dead = {
            definition
            for each in self._facts.registrations
            if self._is_dead(each.bus, each.entry) and (definition := definition_of(each)) is not None
        } - self._registered

    def check(self) -> None:
        for definition in self._classes:
            self._check_dropped(definition)
            self._check_shadowed(definition)
        for definition in self._classes:
            if is_task(definition):
                self._check_task(definition)
            else:
                self._check_subscriber(definition)
        self._check_functions()
        self._check_nested()
        self._check_register_events()
        self._check_scope()
        self._check_late()
        self._check_events()
        self._check_recursion()

    # Registration

    def _counts(self, registration: Registration) -> bool:
        """Return whether a registration may really happen, on a bus that something triggers."""
        return not self._is_dead(registration.bus, registration.entry)

    def _is_dead(self, bus: Bus, entry: Entry) -> bool:
        if not bus.is_own or _is_test(entry) or (bus.site is not None and is_test_module(bus.site.module)):
            return False
        return bus not in self._triggered and bus not in self._open

    def _is_by_unknown_caller(self, registration: Registration) -> bool:
        """Return whether only a caller that passes the loop's own context could make this registration happen."""
        bus = registration.bus
        return registration.entry.kind in {"method", "function"} and not bus.is_own and not bus.loop

    def _check_task(self, definition: ClassDefinition) -> None:
        missing = self._missing(definition) if definition not in self._facts.attempted else {}
        self._check_run(definition, missing)
        if not missing or self._is_left_to_subclasses(definition, missing):
            return
        known = {
            function
            for base in definition.ancestry[1:]
            if is_task(base)
            and base.find("register_events") == definition.find("register_events")
            and not self._is_left_to_subclasses(base, base_missing := self._missing(base))
            for function in base_missing
        }
        for function, tags in missing.items():
            if function in known:
                continue
            own = function in {
                value.definition
                for values in definition.members.values()
                for value in values
                if isinstance(value, Function)
            }
            self._report_unregistered(definition, function, tags, tags[0].site if own else definition.site)

    def _check_run(self, definition: ClassDefinition, missing: Collection[Definition]) -> None:
        """Report the handlers of a task that the program creates, and neither runs nor registers itself."""
        if (
            not self._is_never_run(definition)
            or not self._made({definition})
            or self._is_followed_no_further(definition)
        ):
            return
        for values in members_of(definition).values():
            for function in values:
                if not isinstance(function, Function) or not function.tags or function.definition in missing:
                    continue
                found = self._of_function.get(function.definition, ())
                is_optional = all(tag.is_optional for tag in function.tags)
                if is_optional or not all(
                    self._is_by_loop_alone(each) for each in found if self._is_for(each, definition)
                ):
                    continue
                events = quoted(event for tag in function.tags for event in tag.events)
                self._facts.report(
                    "d9d-unregistered",
                    f'No loop runs the "{definition.name}" that the program creates, and nothing calls its '
                    f'"register_events", so its handler "{function.definition.name}" of {events} is never called: call '
                    "that where the task that holds it registers its own handlers, or give it to a configurator",
                    function.tags[0].site if function.owner is definition else definition.site,
                )

    def _is_never_run(self, definition: ClassDefinition | None) -> bool:
        """Return whether all tasks are known that the program runs, and a task is none of them."""
        is_run = definition is None or definition in self._facts.given or not is_task(definition)
        return self._knows_tasks and not is_run

    def _is_by_loop_alone(self, registration: Registration) -> bool:
        """Return whether only a loop that ran an object would make a registration, and none does."""
        return registration.entry.kind in {"register", "construct"} and self._is_never_run(registration.entry.owner)

    def _is_followed_no_further(self, definition: ClassDefinition) -> bool:
        """Return whether code that is not in view may have an object of a class."""
        return definition.is_opaque or any(
            isinstance(each, Instance) and definition in each.definition.ancestry for each in self._facts.escaped
        )

    def _made(self, kinds: Collection[ClassDefinition]) -> list[Entry]:
        """Return the runs that create objects of some classes, those of tests and of tasks that never run left out."""
        return [
            entry
            for kind in kinds
            for site, entry in self._facts.constructed.get(kind, ())
            if not (_is_test(entry) or is_test_module(site.module) or self._is_never_run(entry.owner))
        ]

    def _report_unregistered(
        self, definition: ClassDefinition, function: Definition, tags: tuple[Tag, ...], site: Site
    ) -> None:
        events = quoted(event for tag in tags for event in tag.events)
        if all(tag.is_optional for tag in tags):
            return
        subject = f'"{definition.name}" never registers its handler "{function.name}" of {events}, so nothing calls it'
        remedy = "call subscribe_annotated(ctx.event_bus, self) in register_events"
        hidden = [each for each in definition.ancestry if "register_events" in each.members]
        if hidden and definition.find("register_events") is None:
            subject = (
                f'"{definition.name}" has "register_events" from its base of d9d, which does nothing and comes before '
                f'"{hidden[0].name}", so nothing registers its handler "{function.name}" of {events}'
            )
            remedy = f'name "{hidden[0].name}" first in its bases'
        if function in self._dead:
            subject = (
                f'"{definition.name}" registers its handler "{function.name}" of {events} only on a bus of its own, '
                "and nothing triggers events on that bus"
            )
        self._facts.report("d9d-unregistered", f"{subject}: {remedy}", site)

    def _missing(self, definition: ClassDefinition) -> dict[Definition, tuple[Tag, ...]]:
        """Return the handlers of a task or provider that certainly nothing registers."""
        tagged = {
            value.definition: value.tags
            for values in members_of(definition).values()
            for value in values
            if isinstance(value, Function) and value.tags
        }
        if not tagged:
            return {}
        if definition.is_opaque:
            self._note(
                definition.site, definition.name, "a base class, a metaclass or a decorator of it is not in view"
            )
            return {}
        instance = Instance(definition)
        has_left = instance in self._facts.escaped
        own = [entry for entry, _ in self._facts.open_registrations if entry.owner is definition]
        own += [entry for entry, _ in self._facts.open_buses if entry.owner is definition]
        if has_left and own:
            self._note(definition.site, definition.name, "it passes itself and a bus to code that is not in view")
            return {}
        if any(entry.owner is definition for entry in self._facts.unfinished):
            self._note(definition.site, definition.name, "its methods call too much to follow it to the end")
            return {}
        registered = {
            function
            for function in tagged
            if any(self._is_for(each, definition) for each in self._of_function.get(function, ()))
        }
        registered |= {function for entry, function in self._facts.mentioned if entry.owner is definition}
        registered |= self._facts.called & tagged.keys()
        return {function: tags for function, tags in tagged.items() if function not in registered}

    def _is_for(self, registration: Registration, definition: ClassDefinition) -> bool:
        """Return whether a registration may be that of an object of a class."""
        receiver = _receiver(registration)
        if receiver is None:
            return True
        if self._is_by_unknown_caller(registration) and registration.entry.owner is not None:
            owner = registration.entry.owner
            if registration.entry.kind == "method" and is_task(owner):
                return False  # the loop calls register_events, and nothing calls this method
        if receiver is definition or definition in receiver.ancestry:
            return True
        # An object of a base class may be one of this class, unless it registers itself.
        is_itself = registration.entry.owner is receiver and registration.target == Instance(receiver)
        return receiver in definition.ancestry and not is_itself

    def _is_left_to_subclasses(self, definition: ClassDefinition, missing: dict[Definition, tuple[Tag, ...]]) -> bool:
        """Return whether a class is abstract, or a subclass registers some of its handlers."""
        if is_abstract(definition):
            return True
        below = [each for each in self._classes if definition in each.ancestry[1:]]
        return any(function not in self._missing(each) for each in below for function in missing)

    def _check_subscriber(self, definition: ClassDefinition) -> None:
        """Check a class that no loop knows by itself."""
        tagged = [
            value
            for values in definition.members.values()
            for value in values
            if isinstance(value, Function) and value.tags
        ]
        if not tagged:
            return
        if definition.is_opaque:
            self._note(
                definition.site, definition.name, "a base class, a metaclass or a decorator of it is not in view"
            )
            return
        below = [each for each in self._classes if definition in each.ancestry[1:]]
        if any(is_task(each) or each.is_opaque for each in below) or is_abstract(definition):
            return
        for function in tagged:
            if self._is_subscriber_dead(definition, function.definition, below):
                self._report_subscriber(definition, function)
            elif function.definition not in self._registered | self._facts.called:
                self._note(
                    definition.site,
                    definition.name,
                    "the program does not configure a loop here, or passes its objects to code that is not in view",
                )

    def _note(self, site: Site, name: str, why: str) -> None:
        self._facts.unchecked[site] = f'Whether the handlers of "{name}" are registered is not verified: {why}'

    def _report_subscriber(self, definition: ClassDefinition, function: Function) -> None:
        events = quoted(event for tag in function.tags for event in tag.events)
        if (
            definition in self._facts.attempted
            or function.definition in self._hidden
            or all(tag.is_optional for tag in function.tags)
        ):
            return
        if function.definition in self._dead:
            self._report_unregistered(definition, function.definition, function.tags, function.tags[0].site)
            return
        self._facts.report(
            "d9d-unregistered",
            f'Nothing registers the handler "{function.definition.name}" of {events}, so it is never called: pass an '
            f'object of "{definition.name}" to the configurator with subscribers=[...], or call '
            "subscribe_annotated(ctx.event_bus, ...) with it",
            function.tags[0].site,
        )

    def _is_subscriber_dead(
        self, definition: ClassDefinition, function: Definition, below: list[ClassDefinition]
    ) -> bool:
        kinds = {definition, *below}
        if function in self._dead:
            return True
        counted = self._of_function.get(function, [])
        certain = [each for each in counted if not self._is_by_unknown_caller(each)]
        made = self._made(kinds)
        if made and self._facts.configures:
            certain = [
                each
                for each in certain
                if not (self._is_by_loop_alone(each) or (self._is_made_in_view(each) and not each.bus.is_own))
            ]
        if certain or function in self._facts.called or any(each is function for _, each in self._facts.mentioned):
            return False
        if counted and not self._facts.configures:
            return self._is_provider(definition)
        if any(isinstance(each, Instance) and each.definition in kinds for each in self._facts.escaped):
            return False
        if any(self._is_open(entry) for entry in self._entries_with_unknown_targets()):
            return False
        return bool(self._facts.configures or made) and function not in self._annotated_somewhere(kinds)

    def _annotated_somewhere(self, kinds: set[ClassDefinition]) -> set[Definition]:
        return {
            function
            for each in self._counted
            if _receiver(each) in kinds and (function := definition_of(each)) is not None and not self._facts.configures
        }

    @staticmethod
    def _is_provider(definition: ClassDefinition) -> bool:
        """Return whether a class that no loop knows is called by a loop: such objects are not subscribers."""
        return definition.find("__call__") is not None and definition.find("register_events") is not None

    def _entries_with_unknown_targets(self) -> Iterator[Entry]:
        yield from (entry for entry, _ in self._facts.open_registrations)
        yield from (entry for entry, _ in self._facts.open_buses)
        yield from self._facts.unfinished

    def _is_open(self, entry: Entry) -> bool:
        """Return whether a run may register objects that the program creates elsewhere.

        A function or class that the program itself calls or creates has been run with what it is really given.
        """
        if entry.owner is not None and entry.owner in self._facts.constructed and self._facts.configures:
            return False
        return not (entry.kind == "function" and self._is_called(entry))

    def _check_functions(self) -> None:
        """Check tagged functions of modules, in a program that configures a loop."""
        is_open = any(map(self._is_open, self._entries_with_unknown_targets()))
        for definition, tagged in self._facts.tagged_functions.items():
            if definition in self._registered | self._facts.called or all(tag.is_optional for tag in tagged):
                continue
            has_left = any(isinstance(each, Function) and each.definition is definition for each in self._facts.escaped)
            if is_open or has_left or not self._facts.configures:
                self._facts.unchecked[definition.site] = (
                    f'Whether the handler "{definition.name}" is registered is not verified: the program does not '
                    "configure a loop here, or passes it to code that is not in view"
                )
                continue
            events = quoted(event for tag in tagged for event in tag.events)
            self._facts.report(
                "d9d-unregistered",
                f'Nothing registers the function "{definition.name}", a handler of {events}, so it is never called: '
                "call subscribe_annotated(ctx.event_bus, ...) with it in register_events",
                tagged[0].site,
            )

    def _check_nested(self) -> None:
        """Check tagged functions within functions: only what creates them can register them."""
        is_open = any(map(self._is_open, self._entries_with_unknown_targets()))
        escaped = {each.definition for each in self._facts.escaped if isinstance(each, Function)}
        for function, entry in self._facts.nested:
            is_used = function.definition in self._registered | self._facts.called | escaped | self._facts.lost_tags
            is_of_loop = bool(self._facts.configures) or (entry.owner is not None and is_task(entry.owner))
            is_left = entry.kind in {"method", "function"} and not self._facts.configures
            if is_used or is_open or is_left or not is_of_loop or all(tag.is_optional for tag in function.tags):
                continue
            if _is_test(entry) or is_test_module(function.definition.module):
                continue
            events = quoted(event for tag in function.tags for event in tag.events)
            self._facts.report(
                "d9d-unregistered",
                f'Nothing registers the function "{function.definition.name}", a handler of {events}, so it is never '
                "called: call subscribe_annotated(ctx.event_bus, ...) with it where it is defined",
                function.tags[0].site,
            )

    def _check_register_events(self) -> None:
        """Report a registration that only makes a coroutine or a generator, which nothing runs."""
        for definition in self._classes:
            for value in definition.members.get("register_events", ()):
                if not isinstance(value, Function) or value.is_opaque or value.kind or value.owner is not definition:
                    continue
                facts = value.definition.facts
                is_called = is_task(definition) or any(each.kind == "register" for each in self._entries_of(definition))
                if is_called and (facts["async"] or facts["generator"]):
                    what, remedy = ("coroutine", "async") if facts["async"] else ("generator", "yield")
                    self._facts.report(
                        "d9d-uncalled",
                        f'"register_events" of "{definition.name}" makes a {what}, which the loop does not run, so '
                        f"nothing in it is called: remove {remedy}",
                        value.definition.site,
                    )

    def _entries_of(self, definition: ClassDefinition) -> Iterator[Entry]:
        return (each.entry for each in self._facts.registrations if each.entry.owner is definition)

    # Overrides

    def _check_dropped(self, definition: ClassDefinition) -> None:
        """Report an override, or an attribute, that hides a handler of a base class."""
        for name, values in definition.members.items():
            functions = [value for value in values if isinstance(value, Function)]
            is_none = values == NONE
            if any(each.tags or each.is_opaque for each in functions) or not (is_none or len(functions) == len(values)):
                continue
            for base in definition.ancestry[1:]:
                hidden = [each for each in base.members.get(name, ()) if isinstance(each, Function)]
                tags = tuple(tag for each in hidden for tag in each.tags)
                excused = self._facts.lost_tags | self._facts.tagged | self._registered
                if tags and not any(each.definition in excused for each in functions):
                    event = quoted(event for tag in tags for event in tag.events)
                    constant = " and ".join(sorted({event.constant for tag in tags for event in tag.events}))
                    self._facts.report(
                        "d9d-dropped",
                        f'"{name}" overrides "{base.name}.{name}", a handler of {event}, without @subscribe, so it is '
                        f"never called: decorate the override with @subscribe({constant}) too, or give it another name",
                        functions[0].definition.site if functions else _place_of(name, definition),
                    )
                    self._hidden |= {each.definition for each in hidden}
                if hidden:
                    break

    def _check_shadowed(self, definition: ClassDefinition) -> None:
        """Report a base of a class that hides a handler of another base, of which it knows nothing."""
        for name in {name: None for base in definition.ancestry for name in base.members}:
            first, values = definition.find(name) or (definition, NONE)
            is_plain = all(isinstance(each, Function) and not (each.tags or each.is_opaque) for each in values)
            if first is definition or not is_plain:
                continue
            lines = [base.ancestry for base in definition.bases if isinstance(base, ClassDefinition)]
            for base in definition.ancestry:
                hidden = [each for each in base.members.get(name, ()) if isinstance(each, Function) and each.tags]
                if hidden and not any(first in line and base in line for line in lines):
                    event = quoted(event for each in hidden for tag in each.tags for event in tag.events)
                    self._facts.report(
                        "d9d-dropped",
                        f'"{definition.name}" has "{name}" from its base "{first.name}", which comes before '
                        f'"{base.name}" and hides "{base.name}.{name}", a handler of {event}, so it is never called: '
                        f'name "{base.name}" first, or give one of the two another name',
                        definition.site,
                    )
                    self._hidden |= {each.definition for each in hidden}

    # Loops

    def _check_scope(self) -> None:
        """Report handlers of events that the loop whose bus they are on never triggers."""
        by_tag: dict[tuple[Site, EventValue], list[Registration]] = {}
        elsewhere = set()  # what is subscribed by hand on a bus that may be that of its loop
        for each in self._counted:
            for event in each.events:
                is_for_both = each.tag is not None and each.tag.is_optional
                if (
                    each.tag is not None
                    and not is_for_both
                    and not self._is_made_in_view(each)
                    and not self._is_only_called_here(each)
                ):
                    by_tag.setdefault((each.tag.site, event), []).append(each)
                if each.tag is None and each.bus.loop in {"", self._loop_of(event)}:
                    elsewhere.add((definition_of(each), event))
            loops = {self._loop_of(event) for event in each.events}
            is_wrong = self._are_of_other(loops, each.bus) and each.entry.owner not in self._facts.evaluated
            if each.tag is None and each.bus.loop and not each.guards and loops and is_wrong:
                event = min(each.events, key=str)
                self._report_scope(definition_of(each), event, each.bus.loop, each.entry.owner, each.site)
        for (site, event), found in by_tag.items():
            loop = self._loop_of(event)
            other = [each for each in found if self._are_of_other({loop}, each.bus)]
            others = {_receiver(each) for each in found if each not in other}
            # Of a class whose objects both loops get, one object may be for one loop only.
            wrong = [
                each
                for each in other
                if _receiver(each) not in others and (definition_of(each), event) not in elsewhere
            ]
            given = [each for each in other if each not in wrong and _is_given_to_loop(each)]
            self._check_tag(site, event, wrong)
            for each in given:
                self._report_scope(definition_of(each), event, each.bus.loop, _receiver(each), each.site)

    def _is_made_in_view(self, registration: Registration) -> bool:
        """Return whether a constructor registers an object that the program creates, with a bus that is known there."""
        entry = registration.entry
        return entry.kind == "construct" and entry.owner in self._facts.constructed and not registration.bus.loop

    def _is_only_called_here(self, registration: Registration) -> bool:
        """Return whether a function of the program makes a registration, and the program itself calls the function.

        What it does when something else calls it is then not what counts.
        """
        return self._is_by_unknown_caller(registration) and self._is_called(registration.entry)

    def _is_called(self, entry: Entry) -> bool:
        """Return whether the program itself calls what was run from outside."""
        if entry.kind == "function":
            return any(each.path == entry.name for each in self._facts.called)
        members = members_of(entry.owner) if entry.owner is not None and entry.kind == "method" else {}
        functions = [each for each in members.get(entry.name, ()) if isinstance(each, Function)]
        return any(each.definition in self._facts.called for each in functions)

    @staticmethod
    def _are_of_other(loops: set[str], bus: Bus) -> bool:
        return bool(bus.loop) and all(loop and loop != bus.loop for loop in loops)

    def _loop_of(self, event: EventValue) -> str:
        moment = self._moments.get(event.name)
        is_own = moment is not None and event.name.startswith("d9d.") and moment.module in _LOOPS
        return moment.module if moment is not None and is_own else ""

    def _check_tag(self, site: Site, event: EventValue, found: list[Registration]) -> None:
        receivers = {_receiver(each) for each in found}
        for each in found:
            receiver, function = _receiver(each), definition_of(each)
            if receiver is not None and any(is_task(base) and base in receivers for base in receiver.ancestry[1:]):
                continue  # once is enough, where it begins
            handler = each.handler.function if isinstance(each.handler, Method) else each.handler
            owner = handler.owner if isinstance(handler, Function) else None
            where = site
            if receiver is not None and owner is not None and owner is not receiver and not is_task(owner):
                where = receiver.site if is_task(receiver) else site
            self._report_scope(function, event, each.bus.loop, receiver, where)

    def _report_scope(
        self, function: Definition | None, event: EventValue, runner: str, owner: ClassDefinition | None, site: Site
    ) -> None:
        _, _, rest = event.id.partition(".")
        twins = [
            name.rpartition(".")[2]
            for name, moment in self._moments.items()
            if name.startswith("d9d.") and moment.id == f"{runner}.{rest}"
        ]
        triggering = self._loop_of(event)
        remedy = f"Did you mean {twins[0]}?" if twins else f"Handle it in a subclass of {_TASK_OF[triggering]}"
        subject = f'Handler "{function.name}" of {event}' if function is not None else f"Handler of {event}"
        whose = f'runs "{owner.name}"' if owner is not None else "owns this bus"
        self._facts.report(
            "d9d-scope",
            f"{subject} is never called: the {_LOOPS[runner]} loop {whose}, and only the {_LOOPS[triggering]} loop "
            f"triggers this event. {remedy}",
            site,
        )

    # Subscriptions that fail or come too late

    def _check_late(self) -> None:
        for each in self._facts.registrations:
            entry = each.entry
            now = [self._moments.get(event.name) for event in entry.events]
            known = [moment for moment in now if moment is not None]
            is_repeated = bool(known) and all(moment.repeats for moment in known) and not entry.is_once
            is_repeated |= entry.name in _IN_EVERY_STEP and entry.owner is not None and is_task(entry.owner)
            targets = [self._moments.get(event.name) for event in each.events]
            later = [moment for moment in targets if moment is not None]
            # A bus of its own may be another each time.
            if is_repeated and not (each.guards or each.bus.is_own or each.is_once or self._is_ended(entry)):
                self._facts.report(
                    "d9d-late",
                    f'"{entry.name}" runs in every step and subscribes a handler each time, so the handler is called '
                    "once more with every step: subscribe it once, in register_events",
                    each.site,
                )
            elif known and later and len(later) == len(targets) and len(known) == len(now):
                if all(moment.never_after(known) for moment in later) and not each.bus.is_own:
                    self._report_passed(each, f'handler "{entry.name}" of {quoted(entry.events)}')
            elif each.bus.is_configured and later and all(moment.phase == "configuration" for moment in later):
                self._report_passed(each, "configure()")

    def _is_ended(self, entry: Entry) -> bool:
        """Return whether a run, or another one of the same object, ends subscriptions."""
        ending = self._facts.ending
        return entry in ending or (entry.owner is not None and any(each.owner is entry.owner for each in ending))

    def _report_passed(self, registration: Registration, moment: str) -> None:
        self._facts.report(
            "d9d-late",
            f"{quoted(registration.events)} is over when {moment} runs this, so the handler is never called: subscribe "
            "it in register_events",
            registration.site,
        )

    # Events of the program

    def _check_events(self) -> None:
        triggered = {event for trigger in self._facts.triggers for event in trigger.events}
        for event, uses in self._facts.event_uses.items():
            if (
                event.site is None
                or event in triggered
                or event.name.startswith("<")
                or is_test_module(event.site.module)
            ):
                continue
            loads = self._facts.event_loads.get(event, set())
            if loads and all(any(_contains(use, load) for use in uses) for load in loads):
                where = min(uses)
                self._facts.report(
                    "d9d-untriggered",
                    f"Nothing triggers {event}, so its handlers are never called: trigger it where it happens, with "
                    "bus.trigger or an emitter",
                    where,
                )
        self._check_buses(triggered)
        self._check_ids()

    def _check_buses(self, triggered: Iterable[EventValue]) -> None:
        """Report an event that is triggered on buses that the program creates, and heard on those of loops."""
        for event in triggered:
            triggers = [each for each in self._facts.triggers if event in each.events]
            heard = [each for each in self._facts.registrations if event in each.events]
            is_apart = all(each.bus is not None and each.bus.is_own and each.bus not in self._open for each in triggers)
            if event.site is None or not heard or not is_apart or not all(each.bus.loop for each in heard):
                continue
            site = min(each.site if each.tag is None else each.tag.site for each in heard)
            other = min(each.site for each in triggers)
            self._facts.report(
                "d9d-untriggered",
                f"Nothing triggers {event} on the bus of the loop, where its handlers are: "
                f"{other.seen_from(site)} triggers it on a bus that the program creates. Trigger it on "
                "ctx.event_bus, or subscribe the handlers there",
                site,
            )

    def _check_ids(self) -> None:
        seen: dict[tuple[Entry, Bus | None, str], EventValue] = {}
        calls: list[Registration | Trigger] = [*self._facts.registrations, *self._facts.triggers]
        for call in calls:
            for event in call.events:
                first = seen.setdefault((call.entry, call.bus, event.id), event)
                if event.id and first.name != event.name and event.site is not None and first.site is not None:
                    later = max(event, first, key=lambda each: each.site or ())
                    other = first if later is event else event
                    self._facts.report(
                        "d9d-event-id",
                        f"{later} has the id of {other.name}, and both are used on one bus, which raises a ValueError: "
                        "give one of them another id",
                        later.site or call.site,
                    )

    def _check_recursion(self) -> None:
        buses: dict[tuple[Definition, EventValue], set[Bus]] = {}
        for each in self._counted:
            function = definition_of(each)
            if function is not None:
                for event in each.events:
                    buses.setdefault((function, event), set()).add(each.bus)
        by_name = {(function.name, event): found for (function, event), found in buses.items()}
        for trigger in self._facts.triggers:
            for event in trigger.entry.events & trigger.events:
                found = by_name.get((trigger.entry.name, event), set())
                if trigger.entry.kind == "handler" and trigger.is_now and trigger.bus in found and not trigger.guards:
                    self._facts.report(
                        "d9d-recursion",
                        f'Handler "{trigger.entry.name}" of {event} triggers this event again, without end: trigger '
                        "another event, or call what it should do",
                        trigger.site,
                    )


def _place_of(name: str, definition: ClassDefinition) -> Site:
    """Return where the body of a class assigns a name."""
    for node in definition.facts["body"]:
        targets = node[1] if node[0] == "assign" else [node[1]] if node[0] == "annotate" else []
        for target in targets:
            if target[:2] == ["name", name]:
                return Site(definition.module, *target[2])
    return definition.site


def _contains(outer: Site, inner: Site) -> bool:
    starts = (outer.line, outer.column) <= (inner.line, inner.column)
    return (
        outer.module == inner.module
        and starts
        and (inner.end_line, inner.end_column) <= (outer.end_line, outer.end_column)
    )


def is_abstract(definition: ClassDefinition) -> bool:
    """Return whether a class is meant to be subclassed: it is declared abstract, or has an abstract method."""
    if any(base in {"abc.ABC", "typing.Protocol"} for base in definition.bases):
        return True
    if any(base in definition.outside and definition.find(name) is None for base, name in _ABSTRACT_METHODS.items()):
        return True
    if any(keyword == "metaclass" for keyword, _ in definition.facts["keywords"]):
        return True
    return any(
        isinstance(value, Function)
        and any(_last_name(node) == "abstractmethod" for node in value.definition.facts["decorators"])
        for values in members_of(definition).values()
        for value in values
    )


def _last_name(node: list[object]) -> object:
    return node[1] if node[0] == "name" else node[2] if node[0] == "attribute" else ""
