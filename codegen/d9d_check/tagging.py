"""Rules about one handler: what decorators, overrides and attributes do to its tag, and the context that it takes."""

import dataclasses
from collections.abc import Iterable
from typing import Final

from d9d_check.facts import Frame, Registration
from d9d_check.framework import canonical
from d9d_check.lower import Node
from d9d_check.machine import Machine
from d9d_check.values import (
    STEPS,
    Attribute,
    Bus,
    Container,
    Definition,
    Emitter,
    External,
    Function,
    Instance,
    Method,
    Site,
    Tag,
    Tagger,
    Typed,
    Unknown,
    Value,
    Values,
)

_RUNNING: Final = {
    "TrainingConfigurator": frozenset({"configure"}),
    "InferenceConfigurator": frozenset({"configure"}),
    "Trainer": frozenset({"train", "steps", "evaluate", "export", "load_best", "save", "sleep", "wake"}),
    "Inference": frozenset({"infer", "save"}),
}
"""Methods of a loop that are useless if they are only named."""
_BUS_METHODS: Final = frozenset({"subscribe", "trigger", "bounded", "emitter"})
_LAZY: Final = frozenset({External("builtins.map"), External("builtins.filter")})
"""Functions that call nothing until somebody takes what they return."""


class Tagging:
    """Rules about one handler, where it is defined.

    Args:
        interpreter: Runs the program.
    """

    def __init__(self, interpreter: Machine) -> None:
        self._run = interpreter
        self._facts = interpreter.facts
        self._catalogues = interpreter.catalogues

    def check_uncalled(self, values: Values, site: Site) -> None:
        """Report a statement that names a function of the bus, and does not call it."""
        for value in values:
            name = ""
            if isinstance(value, Attribute) and isinstance(value.owner, Bus) and value.name in _BUS_METHODS:
                name = f"bus.{value.name}"
            elif isinstance(value, Attribute) and isinstance(value.owner, Emitter) and value.name == "call":
                name = "emitter.call"
            elif isinstance(value, External) and canonical(value.name) == "subscribe_annotated":
                name = "subscribe_annotated"
            elif (
                isinstance(value, Attribute) and isinstance(value.owner, Typed) and value.owner.name.startswith("d9d.")
            ):
                name = value.name if value.name in _RUNNING.get(canonical(value.owner.name), ()) else ""
            if name:
                self._facts.report(
                    "d9d-uncalled", f'"{name}" is named here, but not called: nothing happens. Call it', site
                )

    def check_steps(self, values: Values, site: Site) -> None:
        """Report a statement that makes the generator of a training, and does not run it."""
        if STEPS in values:
            self._facts.report(
                "d9d-uncalled",
                '"steps" makes a generator, and no step runs until something iterates over it: write "for ctx in '
                'trainer.steps():", or call "train"',
                site,
            )

    def check_each_step(self, registrations: Iterable[Registration], num_guards: int) -> None:
        """Report what a loop over the steps of a training subscribes in each of them.

        Args:
            registrations: What the loop subscribes.
            num_guards: The conditions around the loop.
        """
        for each in registrations:
            is_always = len(each.guards) == num_guards and each.entry not in self._facts.ending
            if is_always and each.bus.loop == "train" and not each.is_once:
                self._facts.report(
                    "d9d-late",
                    "This loop subscribes a handler in each step, so the handler is called once more with every step: "
                    "subscribe it once, before the loop",
                    each.site,
                )

    def check_consumed(self, expression: Node, values: Values, callee: Values, site: Site) -> bool:
        """Report a statement that makes an iterator or a coroutine of calls of the bus, and does not run it.

        Returns:
            Whether that is so, and nothing in it happens.
        """
        is_iterator = bool(values) and all(isinstance(each, Container) and each.kind == "iterator" for each in values)
        is_iterator &= _are(callee, "generator") or (bool(callee) and callee <= _LAZY)
        is_coroutine = _are(callee, "async")
        if expression[0] == "comprehension" and expression[1] == "generator":
            what, remedy = "This generator expression is never consumed", "write a for loop"
        elif expression[0] == "call" and is_coroutine:
            what, remedy = "This coroutine is never awaited", "await it, or make the function one without async"
        elif expression[0] == "call" and is_iterator:
            what, remedy = "This iterator is never consumed", "write a for loop"
        else:
            return False
        self._facts.report("d9d-uncalled", f"{what}, so nothing in it is called: {remedy}", site)
        return True

    def check_ended(self, frame: Frame, site: Site) -> None:
        """Report a subscription that a block ends before the loop triggers anything."""
        is_generator = frame.function is not None and frame.function.definition.facts["generator"]
        if frame.entry.kind == "register" and not is_generator:
            self._facts.report(
                "d9d-late",
                'This subscription ends with the "with" block, before the loop triggers an event, so the handler is '
                'never called: remove the "with"',
                site,
            )

    def check_result(self, callee: Values, called: Values, site: Site) -> None:
        """Report a handler that is called where it is subscribed, and returns nothing."""
        is_subscription = any(
            isinstance(each, Attribute) and isinstance(each.owner, Bus) and each.name == "subscribe" for each in callee
        )
        functions = [each.function if isinstance(each, Method) else each for each in called]
        if (
            is_subscription
            and functions
            and all(isinstance(each, Function) and _gives_none(each) for each in functions)
        ):
            self._facts.report(
                "d9d-handler",
                "bus.subscribe gets None in place of a handler, and raises a TypeError: pass the function itself, and "
                "do not call it",
                site,
            )

    def check_replaced(self, old: Values, new: Values, site: Site) -> None:
        """Report an assignment to a class that replaces a handler with a function without its tag."""
        tags = tuple(tag for value in old if isinstance(value, Function) for tag in value.tags)
        if tags and new and all(isinstance(each, Function) and not (each.tags or each.is_opaque) for each in new):
            name = next(value.definition.name for value in old if isinstance(value, Function) and value.tags)
            self._facts.report(
                "d9d-dropped",
                f'This replaces "{name}", a handler of {_events(tags)}, by a function without its tag, so it is never '
                "called: decorate the function with @subscribe, or use functools.wraps in what makes it",
                site,
            )

    def check_redefined(self, old: Values, new: Values, definition: Definition) -> None:
        """Report a handler that a later method of the same name in the same class replaces."""
        for value in old:
            if isinstance(value, Function) and value.tags and not any(_is_derived(each, value) for each in new):
                self._facts.report(
                    "d9d-dropped",
                    f'"{definition.name}" is defined again in line {definition.site.line}, so this handler of '
                    f"{_events(value.tags)} is never called: give one of the two another name",
                    value.tags[0].site,
                )

    def check_hidden(self, owner: Instance, name: str, values: Values, site: Site) -> None:
        """Report an attribute of an object with the name of a handler of its class."""
        found = owner.definition.find(name)
        handlers = [value for value in found[1] if isinstance(value, Function)] if found else []
        tags = tuple(tag for value in handlers for tag in value.tags)
        if tags and values and all(isinstance(value, Function) and not value.tags for value in values):
            self._facts.report(
                "d9d-dropped",
                f'This hides "{name}", a handler of {_events(tags)}, but the bus keeps calling the method of the '
                "class: call what you assign from that method, or give it another name",
                site,
            )

    def with_copied(self, decorated: Values, tags: tuple[Tag, ...]) -> Values:
        """Return what a decorator returns with the tags that it may have copied, with all attributes of a function."""
        return frozenset(
            dataclasses.replace(value, tags=value.tags or tags)
            if isinstance(value, Function) and value.definition in self._facts.given_attributes
            else value
            for value in decorated
        )

    def check_decorator(
        self, decorator: Values, sides: tuple[Values, Values], tags: tuple[Tag, ...], function: Function, site: Site
    ) -> tuple[Tag, ...]:
        """Report a decorator that loses the tag of a handler, and `@subscribe` on what is no function.

        Args:
            decorator: The decorator.
            sides: What it is given, and what it returns.
            tags: The tags of the handler below the decorator.
            function: The function at the bottom.
            site: Where the decorator is.

        Returns:
            The tags above the decorator.
        """
        before, after = sides
        new = tuple(tag for value in after if isinstance(value, Function) for tag in value.tags)
        is_known = all(not isinstance(value, Unknown) and not getattr(value, "is_opaque", False) for value in after)
        if tags and not new and is_known and after:
            self._facts.lost_tags.add(function.definition)
            self._facts.report(
                "d9d-dropped",
                f'The decorator in line {site.line} loses the tag of "{function.definition.name}", a handler of '
                f"{_events(tags)}, so it is never called: put @subscribe above the decorator, or use "
                "functools.wraps in it",
                tags[0].site,
            )
            return ()
        taggers = [value for value in decorator if isinstance(value, Tagger)]
        if taggers and before and all(isinstance(value, Function) and value.kind == "property" for value in before):
            self._facts.lost_tags.add(function.definition)
            self._facts.report(
                "d9d-handler",
                f'@subscribe decorates "{function.definition.name}", which is a property and no method: make it a '
                "method",
                site,
            )
        return new or tags

    def check_handler(self, function: Function, decorated: Values) -> None:
        """Report a handler whose context is that of another event."""
        for value in decorated:
            if isinstance(value, Function) and value.tags:
                parameter = _context_parameter(value)
                if parameter is None or parameter[1] != "plain":
                    parameter = _context_parameter(function)
                what = _not_run(value)
                if what and value.definition is function.definition:
                    self._facts.report(
                        "d9d-handler",
                        f'Handler "{function.definition.name}" of {_events(value.tags)} makes a {what} when it is '
                        "called, and nothing runs that: make it a plain function",
                        value.tags[0].site,
                    )
                if parameter is not None and parameter[2] is not None:
                    taken = self._run.annotated(parameter[2], function.scope)
                    self._check_taken(function.definition, value.tags, taken, str(parameter[0]))

    def _check_taken(self, definition: Definition, tags: tuple[Tag, ...], taken: Values, parameter: str) -> None:
        names = {self._catalogues.resolve(value.name) for value in taken if isinstance(value, Typed)} - {None}
        if not names or len(names) < len(taken):
            return
        for tag in tags:
            for event in tag.events if len(tag.events) == 1 else ():
                context = event.context.name if isinstance(event.context, External) else ""
                carried = self._catalogues.resolve(context)
                if carried is not None and carried not in names:
                    found, wanted = (str(each).rpartition(".")[2] for each in (min(map(str, names)), carried))
                    self._facts.report(
                        "d9d-handler",
                        f'Handler "{definition.name}" of {event} takes "{found}", but the event carries "{wanted}": '
                        f'annotate "{parameter}" with "{wanted}"',
                        tag.site,
                    )

    # Calls


def _are(values: Values, kind: str) -> bool:
    """Return whether all values are functions of a kind, "async" or "generator", that no decorator has changed."""
    functions = [each.function if isinstance(each, Method) else each for each in values]
    return bool(functions) and all(
        isinstance(each, Function) and each.definition.facts[kind] and not (each.is_opaque or each.kind == "manager")
        for each in functions
    )


def _not_run(function: Function) -> str:
    """Return what a call of a function only makes, in place of running its body; an empty text if it runs it."""
    facts = function.definition.facts
    if function.is_opaque or not (facts["async"] or facts["generator"]):
        return ""
    return "context manager" if function.kind == "manager" else "coroutine" if facts["async"] else "generator"


def _gives_none(function: Function) -> bool:
    return function.definition.facts["returns"] == ["constant", None, True] and not function.is_opaque


def _is_derived(new: Value, old: Function) -> bool:
    """Return whether a new member includes the old one, as the setter of a property does."""
    return isinstance(new, Function) and (new.kind == "property" or set(new.tags) >= set(old.tags))


def _events(tags: tuple[Tag, ...]) -> str:
    names = sorted({str(event) for tag in tags for event in tag.events})
    return " and ".join(names) or "an event"


def _context_parameter(function: Function) -> Node | None:
    """Return the parameter that receives the context of an event."""
    parameters: list[Node] = function.definition.facts["parameters"]
    number = 0 if function.owner is None or function.kind == "static" else 1
    star = next((each for each in parameters[: number + 1] if each[1] != "plain"), None)
    return star or (parameters[number] if len(parameters) > number else None)
