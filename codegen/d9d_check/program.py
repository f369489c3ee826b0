"""Runs everything in a program that something outside it may call: modules, functions, classes, handlers."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Final

from d9d_check.catalogues import Catalogues
from d9d_check.effects import is_metric
from d9d_check.extent import Extent
from d9d_check.facts import Entry, Facts, Watcher
from d9d_check.framework import is_task, loop_of, members_of
from d9d_check.interpret import Interpreter
from d9d_check.source import Module
from d9d_check.values import (
    NOTHING,
    UNKNOWN,
    Bus,
    ClassDefinition,
    Definition,
    EventValue,
    External,
    Function,
    Instance,
    Method,
    Partial,
    RegistrationContext,
    Site,
    Typed,
    Values,
    in_order,
)

_RARE: Final = frozenset({"train.epoch.start", "train.epoch.finished"})
"""Events that lie in a step, but happen in few of them."""


@dataclasses.dataclass
class Program:
    """A program that has been run.

    Attributes:
        facts: What the runs have found.
        catalogues: The declared events.
        crashes: What could not be run because of a fault of this package: where, and why.
    """

    facts: Facts
    catalogues: Catalogues
    crashes: list[tuple[Site, str]]


def run_program(
    modules: Sequence[Module],
    catalogues: Catalogues,
    watcher: Watcher,
    *,
    configures: bool = False,
    extent: Extent | None = None,
) -> Program:
    """Run a program, or a part that shares no module with the rest, from everywhere.

    Args:
        modules: The modules.
        catalogues: The declared events.
        watcher: What rules want to see.
        configures: Whether the program is known to configure a loop.
        extent: How much of the program is followed.
    """
    runner = _Runner(Interpreter(modules, catalogues, watcher, extent), catalogues)
    runner.interpreter.facts.configures = configures
    runner.run()
    return Program(runner.interpreter.facts, catalogues, runner.crashes)


class _Runner:
    def __init__(self, interpreter: Interpreter, catalogues: Catalogues) -> None:
        self.interpreter = interpreter
        self.crashes: list[tuple[Site, str]] = []
        self._catalogues = catalogues
        self._by_hand: set[Definition] = set()
        self._classes: dict[tuple[str, str, int], ClassDefinition] = {}

    def run(self) -> None:
        facts = self.interpreter.facts
        for key in self.interpreter.module_keys():
            self._guarded(Site(key, 1, 0, 1, 0), functools.partial(self.interpreter.run_module, key))
        self.interpreter.relevance.add(
            [each.name for each in facts.subscribers] + [function.name for function in facts.tagged_functions]
        )
        self._run_classes()
        for function, owner in list(facts.functions):
            is_tagged = function.definition in facts.tagged_functions
            if owner is None and (is_tagged or self._is_run(function, None)):
                site = function.definition.site
                self._guarded(site, functools.partial(self._run_function, function))
        self._run_classes()  # those that functions define
        facts.classes[:] = self._classes.values()
        self._run_subscribed()
        if self.interpreter.extent.runs_unseen:
            for function in [*facts.closures.values()]:
                if function.definition not in facts.called:
                    run = functools.partial(self.interpreter.run, function, Entry("closure", function.definition.name))
                    self._guarded(function.definition.site, run)

    def _run_classes(self) -> None:
        """Run the classes that have been defined since the last time; a function defines its classes once."""
        facts = self.interpreter.facts
        new = []
        for definition in facts.classes:
            key = (definition.module, str(definition.facts["path"]), definition.site.line)
            if key not in self._classes:
                self._classes[key] = definition
                new.append(definition)
        for definition in new:
            self._guarded(definition.site, functools.partial(self._begin_class, definition))
        self._by_hand = {
            function.definition
            for each in facts.registrations
            if each.tag is None
            and isinstance(function := getattr(each.handler, "function", each.handler), Function)
            and function.definition not in facts.called
        }
        for definition in new:
            self._guarded(definition.site, functools.partial(self._run_methods, definition))

    def _guarded(self, site: Site, run: Callable[[], object]) -> None:
        """Run something; a fault of this package must not keep it from checking the rest."""
        try:
            run()
        except Exception as error:  # noqa: BLE001 -- any fault
            self.crashes.append((site, f"{type(error).__name__}: {error}"))

    def _begin_class(self, definition: ClassDefinition) -> None:
        """Run what a loop runs first: the constructor, and the registration of handlers."""
        instance = Instance(definition)
        self._run_member(instance, "__init__", Entry("construct", "__init__", definition))
        self._run_member(instance, "__post_init__", Entry("construct", "__post_init__", definition))
        if is_task(definition):
            context: Values = frozenset({RegistrationContext(Bus(loop_of(definition)))})
            self._run_member(instance, "register_events", Entry("register", "register_events", definition), context)

    def _run_member(self, instance: Instance, name: str, entry: Entry, *arguments: Values) -> None:
        for value in in_order(members_of(instance.definition).get(name, NOTHING)):
            if isinstance(value, Function) and self._is_run(value, instance.definition):
                self.interpreter.run(self._bound(instance, value), entry, list(arguments))

    @staticmethod
    def _bound(instance: Instance, function: Function) -> Function | Method:
        return function if function.kind == "static" else Method(instance, function)

    def _run_methods(self, definition: ClassDefinition) -> None:
        instance = Instance(definition)
        done = {"__init__", "__post_init__", *(["register_events"] if is_task(definition) else [])}
        for name, values in members_of(definition).items():
            for value in in_order(values):
                if name in done or not isinstance(value, Function) or not self._is_run(value, definition):
                    continue
                bound = self._bound(instance, value)
                if value.tags:
                    self._run_handler(bound, definition, value)
                elif value.definition not in self._by_hand:  # what is subscribed by hand is run as a handler later
                    self.interpreter.run(bound, Entry("method", name, definition))

    def _is_run(self, function: Function, owner: ClassDefinition | None) -> bool:
        """Return whether a function is worth a run from outside."""
        is_own = owner is not None and (owner in self.interpreter.facts.subscribers or is_metric(owner))
        return is_own or self.interpreter.relevance.leads(function.definition)

    def _run_handler(self, handler: Function | Method, owner: ClassDefinition | None, function: Function) -> None:
        events = frozenset(event for tag in function.tags for event in tag.events)
        often = frozenset(event for tag in function.tags for event in tag.events if not tag.is_periodic)
        entry = Entry(
            "handler",
            function.definition.name,
            owner,
            events,
            is_filtered=any(tag.is_periodic or tag.is_on_main_only for tag in function.tags),
            counts_steps=any(tag.counts_steps for tag in function.tags),
            is_in_every_step=self._is_in_every_step(often) and not function.is_opaque,
            is_on_main_only=bool(function.tags) and all(tag.is_on_main_only for tag in function.tags),
            is_once=bool(function.tags) and all(tag.is_once for tag in function.tags),
        )
        self.interpreter.run(handler, entry, [self._context_of(events)])

    def _is_in_every_step(self, events: frozenset[EventValue]) -> bool:
        """Return whether one of some events happens in every step."""
        moments = [self._catalogues.moments.get(event.name) for event in events]
        return any(moment is not None and moment.fires_in_every_step and moment.id not in _RARE for moment in moments)

    def _run_subscribed(self) -> None:
        """Run the handlers that are subscribed by hand, as the bus calls them."""
        done: set[tuple[object, frozenset[EventValue]]] = set()
        for each in list(self.interpreter.facts.registrations):
            handler = each.handler
            called = handler
            while isinstance(called, Partial):
                called = called.callee
            function = called.function if isinstance(called, Method) else called
            if each.tag is not None or not isinstance(function, Function) or (function.definition, each.events) in done:
                continue
            done.add((function.definition, each.events))
            receiver = called.receiver if isinstance(called, Method) else None
            owner = receiver.definition if isinstance(receiver, Instance) else each.entry.owner
            entry = Entry(
                "handler",
                function.definition.name,
                owner,
                each.events,
                is_filtered=each.is_periodic or each.is_on_main_only,
                counts_steps=each.counts_steps,
                is_in_every_step=self._is_in_every_step(each.events) and not (each.is_periodic or function.is_opaque),
                is_on_main_only=each.is_on_main_only,
                is_once=each.is_once,
            )
            run = functools.partial(self.interpreter.run, handler, entry, [self._context_of(each.events)])
            self._guarded(function.definition.site, run)

    def _context_of(self, events: frozenset[EventValue]) -> Values:
        found: Values = frozenset()
        for event in events:
            if isinstance(event.context, External):
                found |= {Typed(event.context.name)}
        return found or UNKNOWN

    def _run_function(self, function: Function) -> None:
        scope = self.interpreter.run_module(function.definition.module)
        current = scope.names.get(function.definition.name, frozenset())
        tagged = [value for value in current if isinstance(value, Function) and value.tags]
        if tagged:
            for value in tagged:
                self._run_handler(value, None, value)
        else:
            self.interpreter.run(function, Entry("function", function.definition.name))
