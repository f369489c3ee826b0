"""What a handler changes for the time between two events, such as swapped weights, and nothing changes back."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from d9d_check.catalogues import Catalogues, Moment
from d9d_check.facts import Facts
from d9d_check.framework import members_of
from d9d_check.lower import Node
from d9d_check.source import Module, is_test_module
from d9d_check.syntax import functions_of, last_name, outside_functions, parts_of
from d9d_check.values import ClassDefinition, Definition, EventValue, Function, Instance, Method, Partial, Site

_PAIRS: Final = {
    "swap_in": "swap_out",
    "swap": "unswap",
    "swap_to_ema": "swap_back",
    "enter": "exit",
    "merge": "unmerge",
    "merge_adapter": "unmerge_adapter",
    "patch": "unpatch",
    "activate": "deactivate",
    "suspend": "resume",
    "pause": "resume",
    "offload": "onload",
    "disable_adapters": "enable_adapters",
    "disable_adapter_layers": "enable_adapter_layers",
    "quantize": "dequantize",
    "mute": "unmute",
    "apply_shadow": "restore",
    "apply": "restore",
    "store": "restore",
    "apply_ema": "restore",
    "backup": "restore",
    "average": "restore",
    "swap_weights_in": "swap_weights_out",
    "begin": "end",
    "push": "pop",
    "lock": "unlock",
}
"""Methods that change something for a while, each with the one that changes it back."""
_OF_OTHERS: Final = frozenset(
    {*("merge_adapter", "disable_adapters", "disable_adapter_layers", "apply_shadow", "swap_in", "store", "__enter__")}
)
"""Those of classes of other packages; the other names mean too much."""
_TOGGLE: Final = re.compile(r"(swap|exchange|toggle)(_(weights|parameters|params|ema|averages|model|models|in_place))?")
_BACKUP: Final = re.compile(r"_*(backup|back_up|saved|stored|original|originals|orig|kept|previous|live|before)(_\w+)?")
_OVER: Final = (".finished", ".closed", ".failed")
_REPLACING: Final = re.compile(r"_*(swap|apply)(_\w+)?")
"""Names of handlers that put other weights into a model."""
_LOADING: Final = frozenset({"copy_", "load_state_dict"})
_OVERWRITING: Final = frozenset({"copy_", "load_state_dict", "data"})


def check_brackets(facts: Facts, catalogues: Catalogues, modules: Sequence[Module]) -> None:
    """Report what handlers of an event that begins something change, and nothing changes back when it has ended."""
    _Brackets(facts, catalogues, modules).check()


class _Brackets:
    def __init__(self, facts: Facts, catalogues: Catalogues, modules: Sequence[Module]) -> None:
        self._facts = facts
        self._moments = catalogues.moments
        self._modules = [module for module in modules if not is_test_module(module.key)]
        self._handlers: dict[Definition, tuple[Function, ClassDefinition | None, frozenset[EventValue]]] = {}
        for function, owner in facts.functions:
            events = {
                event
                for value in (owner.members.get(function.definition.facts["key"], ()) if owner else ())
                if isinstance(value, Function) and value.definition is function.definition
                for tag in value.tags
                for event in tag.events
            }
            if events:
                self._handlers[function.definition] = (function, owner, frozenset(events))
        for each in facts.registrations:
            handler = each.handler
            while isinstance(handler, Partial):
                handler = handler.callee
            receiver = handler.receiver if isinstance(handler, Method) else None
            called = handler.function if isinstance(handler, Method) else handler
            if isinstance(called, Function) and each.tag is None and each.events:
                owner = receiver.definition if isinstance(receiver, Instance) else None
                self._handlers.setdefault(called.definition, (called, owner, each.events))

    def check(self) -> None:
        for definition, (_, owner, events) in self._handlers.items():
            moments = self._moments_of(events)
            is_beginning = bool(moments) and all(map(self._begins, moments))
            if is_beginning and not is_test_module(definition.module):
                self._check_handler(definition, owner, events)

    def _moments_of(self, events: frozenset[EventValue]) -> list[Moment]:
        """Return when some events happen; nothing if one of them is not known."""
        found = [moment for event in events if (moment := self._moments.get(event.name)) is not None]
        return found if len(found) == len(events) else []

    def _begins(self, moment: Moment) -> bool:
        """Return whether an event begins something between steps that another event ends, again and again."""
        is_first = moment.id.endswith((".start", ".pre"))
        return moment.repeats and not moment.fires_in_every_step and is_first

    def _check_handler(
        self, definition: Definition, owner: ClassDefinition | None, events: frozenset[EventValue]
    ) -> None:
        bodies = list(self._bodies(definition, owner))
        own = [part for part in parts_of(bodies[0]) if part[0] == "call"]
        for call in [*own, *(part for body in bodies[1:] for part in parts_of(body) if part[0] == "call")]:
            name = last_name(call[1])
            site = Site(definition.module, *call[4]) if call in own else definition.site
            if self._closers(name) and call[1][0] == "attribute":
                self._check_pair(definition, name, events, site)
            if _TOGGLE.fullmatch(name.lstrip("_")) and call in own and self._is_its_own_opposite(name):
                self._check_toggle(definition, name, events, site)
            if name == "set_grad_enabled" and call[2] and call[2][0][:2] == ["constant", False]:
                is_only_one = len(list(self._mentioning(name))) == 1
                if is_only_one and any(["expression", call] == part[:2] for body in bodies for part in parts_of(body)):
                    self._report(definition, events, f'switches gradients off with "{name}(False)"', site)
        self._check_backup(definition, bodies, events)
        self._check_replacing(definition, bodies, events)

    def _bodies(self, definition: Definition, owner: ClassDefinition | None) -> Iterator[list[Node]]:
        """Yield the body of a handler, and those of methods of its own object that it calls."""
        members = members_of(owner) if owner is not None else {}
        done, pending = set[Definition](), [definition]
        while pending:
            each = pending.pop()
            if each in done:
                continue
            done.add(each)
            yield each.facts["body"]
            for part in parts_of(each.facts["body"]):
                if part[0] == "call" and part[1][0] == "attribute" and part[1][1][:2] == ["name", "self"]:
                    found = members.get(part[1][2], ())
                    pending += [value.definition for value in found if isinstance(value, Function) and not value.tags]

    @staticmethod
    def _closers(name: str) -> list[str]:
        """Return the names of what takes back what a method does: with its leading underscores, or without."""
        plain = name.lstrip("_")
        head, separator, tail = plain.partition("_")
        closer = _PAIRS.get(plain) or (f"{_PAIRS[head]}_{tail}" if separator and head in _PAIRS else "")
        prefixes = dict.fromkeys((name[: len(name) - len(plain)], ""))
        return [f"{prefix}{closer}" for prefix in prefixes] if closer else []

    def _defines(self, name: str) -> list[ClassDefinition]:
        """Return the classes that define a method; a handler of that name is called by a loop alone."""
        return [
            each
            for each in self._facts.classes
            if name in each.members
            and not any(
                isinstance(value, Function) and value.definition in self._handlers for value in each.members[name]
            )
        ]

    def _is_its_own_opposite(self, name: str) -> bool:
        """Return whether classes of the program define a method, and no other one that takes back what it does."""
        closers, owners = self._closers(name), self._defines(name)
        return bool(owners) and not any(closer in members_of(each) for each in owners for closer in closers)

    def _check_pair(self, definition: Definition, name: str, events: frozenset[EventValue], site: Site) -> None:
        closers = self._closers(name)
        owners = self._defines(name)
        has_pair = owners and all(any(closer in members_of(each) for closer in closers) for each in owners)
        if not (has_pair or (not owners and name in _OF_OTHERS)):
            return
        callers = [caller for closer in closers for caller in self._mentioning(closer)]
        handlers = [each.facts for each in self._handlers]
        own = [each for each in callers if each is None or each in handlers or each["name"] not in {*closers, name}]
        late = [self._late_handler(function) for function in own]
        if not own:
            self._report(definition, events, f'calls "{name}", and nothing calls "{closers[0]}"', site)
        elif all(late):
            what = f'calls "{name}", and only "{late[0]}" calls "{closers[0]}", when the run has ended'
            self._report(definition, events, what, site)

    def _late_handler(self, function: Mapping[str, Any] | None) -> str:
        """Return the name of a function if it only runs when the run has ended; an empty text if not."""
        for definition, (_, _, events) in self._handlers.items():
            if definition.facts is function and definition not in self._facts.called:
                moments = self._moments_of(events)
                if moments and all(not moment.repeats and moment.id.endswith(_OVER) for moment in moments):
                    return definition.name
        return ""

    def _check_toggle(self, definition: Definition, name: str, events: frozenset[EventValue], site: Site) -> None:
        callers = [function for function in self._mentioning(name) if function is None or function["name"] != name]
        if len(callers) == 1 and callers[0] is definition.facts:
            calls = [
                part for part in parts_of(definition.facts["body"]) if part[0] == "call" and last_name(part[1]) == name
            ]
            if len(calls) == 1:
                self._report(definition, events, f'calls "{name}" once, and nothing calls it again', site)

    def _check_backup(self, definition: Definition, bodies: list[list[Node]], events: frozenset[EventValue]) -> None:
        """Report a copy that is made before weights are overwritten, and that nothing reads."""
        parts = [part for body in bodies for part in parts_of(body)]
        if not any(part[0] == "attribute" and part[2] in _OVERWRITING for part in parts):
            return
        for part in parts:
            targets = part[1] if part[0] == "assign" else [part[1]] if part[0] == "annotate" else []
            for target in targets:
                if target[0] == "attribute" and _BACKUP.fullmatch(target[2]) and not self._is_read(target[2]):
                    self._report(
                        definition,
                        events,
                        f'overwrites weights, and nothing reads the copy that it keeps in "{target[2]}"',
                        Site(definition.module, *target[3]) if part in parts_of(bodies[0]) else definition.site,
                    )
                    return

    def _check_replacing(self, definition: Definition, bodies: list[list[Node]], events: frozenset[EventValue]) -> None:
        """Report a handler that by its name and its calls puts weights into a model, and that no other one follows."""
        closers = self._closers(definition.name)
        if not (closers and _REPLACING.fullmatch(definition.name) and any(map(_loads_weights, bodies))):
            return
        is_mentioned = any(self._defines(closer) or any(self._mentioning(closer)) for closer in closers)
        if not is_mentioned and not any(self._may_put_back(each) for each in self._handlers if each is not definition):
            self._report(
                definition,
                events,
                "puts other weights into the model, and no handler puts its own back",
                definition.site,
            )

    def _may_put_back(self, definition: Definition) -> bool:
        """Return whether a handler loads weights when something has ended, and not to average them after each step."""
        _, owner, events = self._handlers[definition]
        moments = self._moments_of(events)
        is_averaging = bool(moments) and all(each.fires_in_every_step and each.id.endswith(".post") for each in moments)
        is_beginning = bool(moments) and all(map(self._begins, moments))
        return not (is_averaging or is_beginning) and any(map(_loads_weights, self._bodies(definition, owner)))

    def _is_read(self, name: str) -> bool:
        """Return whether a program uses an attribute other than by assigning it or its items."""
        for module in self._modules:
            if module.may_mention(name):
                functions = (module.summary or {}).get("functions", ())
                everything = [*outside_functions(module), *(function["body"] for function in functions)]
                uses = sum(last_name(part) == name for each in everything for part in parts_of(each))
                texts = any(part[0] == "constant" and part[1] == name for each in everything for part in parts_of(each))
                if texts or uses > sum(_num_assigned(part, name) for each in everything for part in parts_of(each)):
                    return True
        return False

    def _mentioning(self, name: str) -> Iterator[dict[str, Any] | None]:
        """Yield the functions that mention a name; `None` for a mention outside of functions, or in a text."""
        for _, function in functions_of(self._modules):
            if name in function["mentions"]:
                yield function
        for module in self._modules:
            if module.may_mention(name):
                texts = [function["body"] for function in (module.summary or {}).get("functions", ())]
                is_named = any(last_name(part) == name for each in outside_functions(module) for part in parts_of(each))
                is_text = any(part[:2] == ["constant", name] for each in texts for part in parts_of(each))
                if is_named or is_text:
                    yield None

    def _report(self, definition: Definition, events: frozenset[EventValue], what: str, site: Site) -> None:
        names = " and ".join(sorted(map(str, events)))
        closing = self._closing(events)
        self._facts.report(
            "d9d-restore",
            f'Handler "{definition.name}" of {names} {what}, so the training goes on with what it has changed: change '
            f"it back in a handler of {closing}",
            site,
        )

    def _closing(self, events: frozenset[EventValue]) -> str:
        """Return the event that ends what an event begins."""
        for event in sorted(events, key=str):
            stem = event.name.rpartition(".")[2]
            for begin, end in (("_STARTED", "_FINISHED"), ("_STARTED", "_SAVED"), ("_PRE", "_POST")):
                other = event.name.removesuffix(begin) + end
                if stem.endswith(begin) and other in self._moments:
                    return other.rpartition(".")[2]
        return "the event that ends it"


def _loads_weights(body: list[Node]) -> bool:
    """Return whether statements load a state into something, or copy into what a loop goes over."""
    for part in parts_of(body):
        if part[0] == "call" and part[1][0] == "attribute" and part[1][2] in _LOADING:
            target = part[1][1]
            while target[0] in {"attribute", "item"}:
                target = target[1]
            if part[1][2] == "load_state_dict" or target[:2] != ["name", "self"]:
                return True
    return False


def _num_assigned(part: Node, name: str) -> int:
    """Return how often a statement assigns an attribute, or an item of what it holds."""
    targets = part[1] if part[0] == "assign" else [part[1]] if part[0] == "annotate" else []
    return sum(last_name(each) == name or (each[0] == "item" and last_name(each[1]) == name) for each in targets)
