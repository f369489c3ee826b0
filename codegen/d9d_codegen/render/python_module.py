"""The content of one generated Python module: imports, context classes, event constants and deprecated names."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from d9d_codegen.catalogue import Catalogue, Context, EventSpec, Field, Module, Scope, Status, deprecation, with_status
from d9d_codegen.diagnostic import width_of
from d9d_codegen.expression import BUILTINS, is_mutable, parse_literal, parse_type, split, write_literal
from d9d_codegen.render.docstring import Docstring

_DIGITS: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement.

    Attributes:
        module: The module that is imported, or imported from.
        names: The names imported from it; none where the module itself is imported.
    """

    module: str
    names: tuple[str, ...] = ()


def natural(name: str) -> tuple[object, ...]:
    """Return a sort key that orders numbers within names by value."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in _DIGITS.split(name) if part)


def role(name: str) -> int:
    """Return a sort key that orders names as isort does: constants, then classes, then everything else."""
    if len(name) > 1 and name.isupper():
        return 0
    return 1 if name[0].isupper() else 2


def _without_case(name: str) -> tuple[object, ...]:
    return natural(name.lower()), natural(name)


class Imports:
    """The imports of one module.

    A name is imported from its module. Where two names would clash, or one clashes with a name that the module defines,
    the full dotted path is used instead.

    Args:
        modules: Top-level modules that are imported whole.
        paths: The full dotted paths that the module mentions.
        taken: The names that the module defines.
        is_module: Returns whether a dotted path is a module: one with a capital looks like a class.
    """

    def __init__(
        self, modules: Iterable[str], paths: Iterable[str], taken: Iterable[str], is_module: Callable[[str], bool]
    ) -> None:
        self._is_module = is_module
        self._modules = frozenset(modules)
        self._paths = sorted(set(paths))
        targets = {split(path)[:2] for path in self._paths}
        times = Counter(name for _, name in targets)
        reserved = {*taken, *BUILTINS, *self._modules}
        self._spelled_out = {target for target in targets if times[target[1]] > 1 or target[1] in reserved}
        while hidden := {target for target in targets - self._spelled_out if target[1] in self._roots()}:
            self._spelled_out |= hidden

    def _roots(self) -> set[str]:
        return {module.partition(".")[0] for module, _ in self._spelled_out}

    def spell(self, path: str) -> str:
        """Return the spelling of a dotted path in the module."""
        module, name, rest = split(path)
        return path if (module, name) in self._spelled_out else name + rest

    def is_imported_by_name(self, path: str) -> bool:
        """Return whether the last part of a dotted path is a name in the module."""
        return self.spell(path) == path.rpartition(".")[2]

    def sections(self, package: str) -> list[list[Import]]:
        """Return the statements in sections: the standard library, other packages, the package's own project.

        Args:
            package: The package that the module belongs to.
        """
        own = package.partition(".")[0]
        names: dict[str, set[str]] = {}
        for module, name, _ in map(split, self._paths):
            if (module, name) not in self._spelled_out:
                names.setdefault(module, set()).add(name)
        whole = {f"{module}.{name}" for module, name in self._spelled_out if self._is_module(f"{module}.{name}")}
        plain = {module for module, _ in self._spelled_out} | self._modules | whole
        statements = [Import(module) for module in sorted(plain, key=_without_case)]
        statements += [
            Import(module, tuple(sorted(names[module], key=lambda name: (role(name), _without_case(name)))))
            for module in sorted(names, key=_without_case)
        ]
        sections = [[line for line in statements if _section(line.module, own) == number] for number in range(3)]
        return [section for section in sections if section]


def _section(module: str, own: str) -> int:
    root = module.partition(".")[0]
    if root == own:
        return 2
    return 0 if root in sys.stdlib_module_names else 1


@dataclass(frozen=True, slots=True)
class NameAlias:
    """A deprecated name of a module that stands for another name.

    Attributes:
        name: The deprecated name.
        target: The name that it stands for.
        message: The warning, as Python source.
        docstring: The docstring below the name.
        skip: A comment that turns the formatter off where a line cannot be short enough.
    """

    name: str
    target: str
    message: str
    docstring: Docstring
    skip: str


@dataclass(frozen=True, slots=True)
class FieldAlias:
    """A property of a context that stands for one of its fields.

    Attributes:
        name: The deprecated name.
        target: The field that it stands for.
        type: The type of both, as Python source.
        message: The warning, as Python source.
        docstring: The property's docstring.
        skip: A comment that turns the formatter off where a line cannot be short enough.
    """

    name: str
    target: str
    type: str
    message: str
    docstring: Docstring
    skip: str


def warning(name: str, status: Status) -> str:
    """Return the warning for users of a deprecated name, as Python source."""
    return write_literal(f"{name} is d{deprecation(status)[1:]}")


def aliases(catalogue: Catalogue, module: Module) -> Iterator[tuple[EventSpec | Context, str]]:
    """Yield the aliases of a module, with the names that they stand for.

    A context that is defined in `common` can also be imported from the modules whose events carry it, under its old
    name too.
    """
    own = {str(entry.name) for entry in module.entries}
    for entry in module.entries:
        if entry.status.replaced_by:
            yield entry, entry.status.replaced_by
    path_of_module, scope = f"{catalogue.package}.{module.name}", Scope(catalogue, module)
    carried = {scope.resolve(event.context) for event in module.own_events}
    for path, target in catalogue.renamed_contexts.items():
        context = catalogue.contexts[path]
        if path.rpartition(".")[0] != path_of_module and context.name not in own and target in carried:
            yield context, target


def ids_in_step(catalogue: Catalogue, module: Module) -> frozenset[str]:
    """Return the ids of the events that lie in a step, so that handlers can ask for every N-th step.

    A step is one run of a phase that repeats, from its first `.pre` to the `.post` of the same moment. The context of
    the event must have the stepper.
    """
    scope = Scope(catalogue, module)
    found: set[str] = set()
    for phase in module.phases:
        if not phase.repeats or phase.anytime or phase.around:
            continue
        events = [event for event in module.own_events if event.phase == phase.name]
        ids = [str(event.id) for event in events]
        first = next((event_id for event_id in ids if event_id.endswith(".pre")), "")
        last = first.removesuffix("pre") + "post"
        if first and last in ids:
            step = events[ids.index(first) : ids.index(last) + 1]
            found |= {str(event.id) for event in step if _has_stepper(catalogue, scope.resolve(event.context))}
    return frozenset(found)


def _has_stepper(catalogue: Catalogue, path: str | None) -> bool:
    context = catalogue.contexts.get(path or "")
    fields = context.own_fields if context else []
    return any((field.name, field.type.strip()) == ("stepper", _STEPPER) for field in fields)


_STEPPER: Final = "d9d.core.stepper.Stepper"
_EVENT: Final = "d9d.loop.event.Event"
_FINAL: Final = "typing.Final"
_TYPE_CHECKING: Final = "typing.TYPE_CHECKING"
_DEPRECATED: Final = "d9d.loop.event.deprecation.deprecated"
_DEPRECATED_NAMES: Final = "d9d.loop.event.deprecation.deprecated_names"
_SECRET_CODES: Final = ("S104", "S105", "S108")  # a default text is not a password


@dataclass(frozen=True, slots=True)
class ContextClass:
    """The source of a context's class: its name, its docstring, its fields (one line each) and its properties."""

    name: str
    docstring: Docstring
    fields: list[str]
    aliases: list[FieldAlias]


@dataclass(frozen=True, slots=True)
class EventConstant:
    """The source of an event's constant.

    Attributes:
        name: Its name.
        type: Its type.
        spell: The spelling of the class `Event`.
        id: The event's id on the bus.
        context_name: The full dotted path of its context.
        in_step: Whether it lies in a step.
        docstring: The docstring below it.
        skip: A comment that turns the formatter off where a line cannot be short enough.
    """

    name: str
    type: str
    spell: str
    id: str
    context_name: str
    in_step: bool
    docstring: Docstring
    skip: str


class PythonModule:
    """One module, ready to be rendered.

    Args:
        catalogue: A valid catalogue.
        module: The module.
        width: The longest line allowed.
    """

    def __init__(self, catalogue: Catalogue, module: Module, width: int) -> None:
        self._path = f"{catalogue.package}.{module.name}"
        self._module = module
        self._scope = Scope(catalogue, module)
        self._width = width
        self._positions = {f"{self._path}.{context.name}": at for at, context in enumerate(module.own_contexts)}
        self._codes: set[str] = set()
        self._event_contexts = {self._resolved(event.context) for event in module.own_events}
        self._aliases = list(aliases(catalogue, module))
        self._in_step = ids_in_step(catalogue, module)
        modules = ["dataclasses"] if module.own_contexts else []
        self._imports = Imports(modules, self._mentioned(), self._defined(), catalogue.is_module)
        self.docstring = self._docstring(module.doc)
        self._codes |= self.docstring.lint_codes()
        self.contexts = [self._context(context, number) for number, context in enumerate(module.own_contexts)]
        self.events = [self._event(event) for event in module.own_events]
        self.aliases = [self._alias(entry, target) for entry, target in self._aliases]
        self.import_sections = self._imports.sections(catalogue.package)
        for statement in (line for section in self.import_sections for line in section):
            self._fits(statement_line(statement))

    @property
    def public_names(self) -> list[str]:
        """The names that the module exports: all that it defines, and the contexts of its events."""
        names = {*self._defined()}
        for path in self._event_contexts:
            if not self._is_local(path) and self._imports.is_imported_by_name(path):
                names.add(self._imports.spell(path))
        return sorted(names, key=lambda name: (role(name), natural(name)))

    @property
    def lint_codes(self) -> list[str]:
        """The lint rules that the catalogue's texts, as typed, violate."""
        return [*sorted(self._codes), "RUF100"] if self._codes else []

    @property
    def spelled(self) -> dict[str, str]:
        """The spelling of what aliases need, by name."""
        paths = (_TYPE_CHECKING, _DEPRECATED, _DEPRECATED_NAMES)
        return {path.rpartition(".")[2]: self._imports.spell(path) for path in paths}

    def _defined(self) -> list[str]:
        contexts = [str(context.name) for context in self._module.own_contexts]
        events = [str(event.name) for event in self._module.own_events]
        return [*contexts, *events, *(str(entry.name) for entry, _ in self._aliases)]

    def _mentioned(self) -> Iterable[str]:
        if self._module.own_events:
            yield from (_EVENT, _FINAL)
        if self._aliases:
            yield from (_TYPE_CHECKING, _DEPRECATED_NAMES)
        if any(field.status.replaced_by for context in self._module.own_contexts for field in context.fields):
            yield _DEPRECATED
        yield from (path for path in self._event_contexts if not self._is_local(path))
        for context in self._module.own_contexts:
            for field in context.own_fields:
                for name in parse_type(field.type).names:
                    path = self._resolved(name.path)
                    if "." in path and not self._is_local(path):
                        yield path

    def _resolved(self, name: str) -> str:
        return self._scope.resolve(name) or name

    def _is_local(self, path: str) -> bool:
        return path.rpartition(".")[0] == self._path

    def _spell(self, name: str) -> str:
        path = self._resolved(name)
        if "." not in path:
            return path
        return path.rpartition(".")[2] if self._is_local(path) else self._imports.spell(path)

    def _docstring(self, text: str, attributes: Iterable[tuple[str, str]] = (), indent: int = 0) -> Docstring:
        return Docstring(text, attributes, indent, self._width)

    def _context(self, context: Context, number: int) -> ContextClass:
        attributes = [(field.name, with_status(field.doc, field.status)) for field in context.own_fields]
        docstring = self._docstring(with_status(context.doc, context.status), attributes, indent=4)
        self._codes |= docstring.lint_codes()
        self._fits(f"class {context.name}:")
        fields = [self._field(field, number) for field in context.own_fields]
        renamed = [self._field_alias(context, field, number) for field in context.fields if field.status.replaced_by]
        return ContextClass(context.name, docstring, fields, renamed)

    def _type(self, field: Field, number: int) -> str:
        expression = parse_type(field.type)
        spelled = expression.write(self._spell)
        if any(self._positions.get(self._resolved(name.path), -1) >= number for name in expression.names):
            return write_literal(spelled)  # mentions a class that is defined later
        return spelled

    def _field_alias(self, context: Context, field: Field, number: int) -> FieldAlias:
        spelled = self._type(field, number)
        message = warning(f"{context.name}.{field.name}", field.status)
        docstring = self._docstring(with_status(field.doc, field.status), indent=8)
        self._codes |= docstring.lint_codes()
        self._fits(f"            {message},")
        skip = "" if self._fits(f"    def {field.name}(self) -> {spelled}:") else "  # fmt: skip"
        return FieldAlias(field.name, field.status.replaced_by or "", spelled, message, docstring, skip)

    def _alias(self, entry: Context | EventSpec, target: str) -> NameAlias:
        message = warning(entry.name, entry.status)
        docstring = self._docstring(with_status(entry.doc, entry.status), indent=4)
        spelled = self._spell(target) if "." in target else target
        fits = self._fits(f"    {entry.name} = {spelled}") and self._fits(f'            "{entry.name}": (')
        self._fits(f"                {message},")
        return NameAlias(entry.name, spelled, message, docstring, "" if fits else "  # fmt: skip")

    def _field(self, field: Field, number: int) -> str:
        line = f"{field.name}: {self._type(field, number)}"
        if field.default is not None:
            line += f" = {self._default(parse_literal(field.default))}"
        return line if self._fits(f"    {line}") else f"{line}  # fmt: skip"

    def _default(self, value: object) -> str:
        if isinstance(value, str):
            self._codes.update(_SECRET_CODES)
        written = write_literal(value)
        if not is_mutable(value):
            return written
        factory = f"lambda: {written}" if value else type(value).__name__
        return f"dataclasses.field(default_factory={factory})"

    def _event(self, event: EventSpec) -> EventConstant:
        spelled = self._imports.spell(_EVENT)
        constant = f"{self._imports.spell(_FINAL)}[{spelled}[{self._spell(event.context)}]]"
        fits = self._fits(f"{event.name}: {constant} = {spelled}(")
        docstring = self._docstring(with_status(event.doc, event.status))
        context_name, in_step = self._resolved(event.context), event.id in self._in_step
        self._fits(f'    context_name="{context_name}",')
        skip = "" if fits else "  # fmt: skip"
        return EventConstant(event.name, constant, spelled, event.id, context_name, in_step, docstring, skip)

    def _fits(self, line: str) -> bool:
        fits = width_of(line) <= self._width
        if not fits:
            self._codes.add("E501")
        return fits


def statement_line(statement: Import) -> str:
    """Return the first line of an import statement."""
    return f"from {statement.module} import (" if statement.names else f"import {statement.module}"
