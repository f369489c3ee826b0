"""A handler next to its event, and what is wrong with the two."""

import dataclasses
from collections.abc import Sequence

from mypy.checker import TypeChecker
from mypy.messages import format_type, format_type_distinctly
from mypy.nodes import ARG_POS, CallExpr, ClassDef, Context, FuncDef, LambdaExpr, MemberExpr, NameExpr
from mypy.subtypes import is_subtype
from mypy.types import AnyType, CallableType, Instance, NoneType, Type, TypeOfAny, get_proper_type

from d9d.mypy import callables, errors
from d9d.mypy.errors import Mistake
from d9d.mypy.events import EventName
from d9d.mypy.index import Indexes, nearest

_MAX_ALTERNATIVES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wiring:
    """A handler and the event that it is about to listen to.

    Attributes:
        api: The checker of the file.
        indexes: The indexes of all catalogues.
        handler: What the code decorates or passes.
        event: The event as its author knows it.
        context: The type of the context that the event carries.
    """

    api: TypeChecker
    indexes: Indexes
    handler: Context
    event: EventName
    context: Type

    def find_mistake(self, signatures: Sequence[CallableType]) -> Mistake | None:
        """Return what would go wrong when the bus calls the handler.

        Args:
            signatures: The ways in which the handler can be called.

        Returns:
            Nothing if one of them is right, and else what is wrong with the first.
        """
        mistakes = [self._mistake_of_shape(each) or self._mistake_of_type(each) for each in signatures]
        return mistakes[0] if mistakes and None not in mistakes else None

    def _mistake_of_shape(self, signature: CallableType) -> Mistake | None:
        """Return why a call with one argument would fail, or not run the body, whatever the argument is."""
        expected = format_type(self.context, self.api.options)
        if callables.is_asynchronous(signature):
            return _asynchronous(self._subject, expected)
        if callables.is_generator(signature):
            return _generator(self._subject, expected)
        if callables.context_position(signature) is None:
            return _no_parameter(self._subject, expected)
        if extras := callables.required_extras(signature):
            return _extra_parameters(self._subject, extras, expected)
        return None

    def _mistake_of_type(self, signature: CallableType) -> Mistake | None:
        """Return what mypy's own rules have against a call with the context, or why they do not apply."""
        position = callables.context_position(signature) or 0
        given, parameter = signature.arg_types[position], callables.quote(signature, position)
        given_text, expected = format_type_distinctly(given, self.context, options=self.api.options)
        if callables.is_unannotated(given):
            return _untyped(self._subject, parameter, expected)
        if not self._fits(signature, AnyType(TypeOfAny.special_form)):
            return _wrong_context(self._subject, parameter, given_text, expected, self._alternatives(given))
        if not self._fits(signature, NoneType()):
            return _returns(self._subject, format_type(signature.ret_type, self.api.options), expected)
        return None

    @property
    def _subject(self) -> str:
        name = _name(self.handler)
        return f'Handler "{name}" of {self.event}' if name else f"Handler of {self.event}"

    def _fits(self, signature: CallableType, result: Type) -> bool:
        """Say whether mypy accepts a call with the context, and the use of what it returns as the given type."""
        function = self.api.named_generic_type("builtins.function", [])
        call = CallableType([self.context], [ARG_POS], [None], result, function)
        return is_subtype(signature, call, options=self.api.options)

    def _alternatives(self, given: Type) -> list[str]:
        """Return the constants of events that carry what the handler takes."""
        context = get_proper_type(given)
        if not isinstance(context, Instance):
            return []
        modules = (self.event.full_name.rpartition(".")[0], context.type.module_name)
        paths = [self.api.modules[name].path for name in modules if name in self.api.modules]
        found = nearest(self.event.full_name, context.type.fullname, map(self.indexes.beside, paths))
        return [name.rpartition(".")[2] for name in found[:_MAX_ALTERNATIVES]]


def _name(handler: Context) -> str:
    """Return how the code calls a handler; nothing for what has no name."""
    if isinstance(handler, LambdaExpr):
        return "<lambda>"
    if isinstance(handler, CallExpr) and handler.args:  # such as functools.partial(handler, ...)
        return _name(handler.args[0])
    return handler.name if isinstance(handler, NameExpr | MemberExpr | FuncDef | ClassDef) else ""


def _wrong_context(subject: str, parameter: str, given: str, expected: str, alternatives: Sequence[str]) -> Mistake:
    """Say that the parameter does not accept what the event carries."""
    *others, last = alternatives or ("",)
    question = f". Did you mean {', '.join(others)} or {last}?" if others else f". Did you mean {last}?" if last else ""
    return Mistake(
        errors.HANDLER,
        f"{subject} takes {given}, and the event carries {expected}: annotate {parameter} with it{question}",
    )


def _no_parameter(subject: str, expected: str) -> Mistake:
    """Say that there is no parameter to receive the context in."""
    return Mistake(
        errors.HANDLER, f"{subject} takes no positional argument, and is called with {expected}: add a parameter for it"
    )


def _extra_parameters(subject: str, extras: Sequence[str], expected: str) -> Mistake:
    """Say that parameters other than the context are required."""
    return Mistake(
        errors.HANDLER,
        f"{subject} requires {' and '.join(extras)} as well, and is called with {expected} alone: give a default, or "
        "bind with functools.partial",
    )


def _asynchronous(subject: str, expected: str) -> Mistake:
    """Say that nobody would await the handler."""
    return Mistake(
        errors.HANDLER,
        f'{subject} is asynchronous, and the bus awaits nothing: define it with "def", to take {expected} and return '
        "None",
    )


def _generator(subject: str, expected: str) -> Mistake:
    """Say that nobody would iterate the handler."""
    return Mistake(
        errors.HANDLER,
        f'{subject} is a generator, and the bus does not iterate it: remove the "yield", to take {expected} and return '
        "None",
    )


def _returns(subject: str, given: str, expected: str) -> Mistake:
    """Say that nobody would receive what the handler returns."""
    return Mistake(errors.HANDLER, f"{subject} returns {given}, which the bus drops: take {expected} and return None")


def _untyped(subject: str, parameter: str, expected: str) -> Mistake:
    """Say that nothing in the handler is checked."""
    return Mistake(
        errors.UNTYPED_HANDLER,
        f"{subject} has no annotation for its context, so nothing in it is checked: annotate {parameter} with "
        f"{expected}",
    )
