"""Rules about names and ids: valid, in style, unique, and owned by one catalogue."""

import keyword
import re
import sys
import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Final

from d9d_codegen.catalogue import Catalogue, EventSpec, Module
from d9d_codegen.diagnostic import Text, Violation
from d9d_codegen.expression import BUILTINS

_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SEGMENT: Final = re.compile(r"[a-z][a-z0-9_]*")


def bad_package(catalogue: Catalogue) -> Iterator[Violation]:
    """The package is not a dotted Python name, or hides a module of Python."""
    package = catalogue.package
    top = package.partition(".")[0]
    if top in sys.stdlib_module_names:
        yield Violation(package, f'the package "{package}" hides Python\'s own "{top}"', "choose another name")
    if package and not all(_is_python_name(part) for part in package.split(".")):
        yield Violation(
            package, f'"{package}" is not a dotted Python name', "use a name such as `package: project.events`"
        )


def bad_name(catalogue: Catalogue) -> Iterator[Violation]:
    """A name is not a Python identifier, is a keyword, or begins with two underscores."""
    for noun, name in chain(_modules(catalogue), _constants(catalogue), _contexts(catalogue), _fields(catalogue)):
        if keyword.iskeyword(name):
            yield Violation(name, f'the {noun} "{name}" is a Python keyword', "choose another name")
        elif not _is_python_name(name):
            yield Violation(
                name, f'the {noun} "{name}" is not a valid Python name', "use letters, digits and underscores"
            )
        elif name.startswith("__"):
            message = f'the {noun} "{name}" begins with two underscores, which Python reserves'
            yield Violation(name, message, f'rename it to "{name.strip("_") or noun}"')
    for phase in _phases(catalogue):
        if not phase.isidentifier():
            yield Violation(phase, f'the phase "{phase}" is not a valid name', "use letters, digits and underscores")


def name_style(catalogue: Catalogue) -> Iterator[Violation]:
    """A name does not follow the naming style of its kind."""
    for noun, name in _constants(catalogue):
        if _has_style(name) and (name != name.upper() or name.startswith("_")):
            yield Violation(name, f'the {noun} "{name}" is not in upper case', f'rename it to "{_snake(name).upper()}"')
    for noun, name in _contexts(catalogue):
        if _has_style(name) and (not name[0].isupper() or "_" in name):
            capitalised = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
            yield Violation(name, f'the {noun} "{name}" is not in CapWords', f'rename it to "{capitalised}"')
    for noun, name in chain(_modules(catalogue), _fields(catalogue)):
        if _has_style(name) and (name != name.lower() or name.startswith("_")):
            yield Violation(name, f'the {noun} "{name}" is not in snake case', f'rename it to "{_snake(name)}"')
    for phase in _phases(catalogue):
        if phase.isidentifier() and not _SEGMENT.fullmatch(phase):
            remedy = "use lower-case letters, digits and underscores"
            yield Violation(phase, f'the phase "{phase}" is not in snake case', remedy)


def duplicate_name(catalogue: Catalogue) -> Iterator[Violation]:
    """Two events have the same constant, or an event and a context of one module have the same name."""
    constants: dict[str, Text] = {}
    for module in catalogue.modules:
        contexts = {str(context.name): context.name for context in module.contexts}
        for event in module.events:
            first = constants.setdefault(event.name, event.name)
            if first is not event.name:
                message = f"the constant {event.name} is declared twice"
                yield Violation(
                    event.name, message, f"rename or remove one of the two: the first is on line {first.span.line}"
                )
            if event.name in contexts:
                message = f"{event.name} is also the name of a context"
                yield Violation(
                    event.name,
                    message,
                    f"rename one of the two: the context is on line {contexts[event.name].span.line}",
                )


def reserved_name(catalogue: Catalogue) -> Iterator[Violation]:
    """A context or a constant has the name of a Python built-in class."""
    for noun, name in chain(_contexts(catalogue), _constants(catalogue)):
        if name in BUILTINS:
            better = f"Event{name}Context" if noun == "context" else f"EVENT_{_snake(name).upper()}"
            yield Violation(name, f'the {noun} "{name}" has the name of a Python built-in', f'rename it to "{better}"')


def _has_style(name: str) -> bool:
    """Return whether a name is valid, so that its style can be checked."""
    return _is_python_name(name) and not name.startswith("__")


def _is_python_name(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name


def _snake(name: str) -> str:
    return _HUMP.sub("_", name).lower().strip("_")


def _modules(catalogue: Catalogue) -> Iterator[tuple[str, Text]]:
    return (("module", module.name) for module in catalogue.modules)


def _phases(catalogue: Catalogue) -> Iterator[Text]:
    return (phase.name for module in catalogue.modules for phase in module.phases)


def _constants(catalogue: Catalogue) -> Iterator[tuple[str, Text]]:
    return (("constant", event.name) for module in catalogue.modules for event in module.events)


def _contexts(catalogue: Catalogue) -> Iterator[tuple[str, Text]]:
    return (("context", context.name) for module in catalogue.modules for context in module.contexts)


def _fields(catalogue: Catalogue) -> Iterator[tuple[str, Text]]:
    for module in catalogue.modules:
        for context in module.contexts:
            yield from (("field", field.name) for field in context.fields)


ID: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
"""The grammar of ids; the mypy plugin has the same, and a test holds the two together."""


def bad_id(catalogue: Catalogue) -> Iterator[Violation]:
    """An id does not consist of lower-case segments joined by dots."""
    for module, event in _events(catalogue):
        if not ID.fullmatch(event.id):
            message = f'the id "{event.id}" of {event.name} does not consist of lower-case segments joined by dots'
            yield Violation(event.id, message, f'use an id such as "{module.name}.something"')


def foreign_id(catalogue: Catalogue) -> Iterator[Violation]:
    """An id does not begin with the name of its module."""
    modules = {str(module.name) for module in catalogue.modules}
    owners = catalogue.environment.owners if catalogue.environment else {}
    for module, event in _events(catalogue):
        first, _, rest = event.id.partition(".")
        if first == module.name or not (ID.fullmatch(event.id) and ID.fullmatch(f"{module.name}.{rest}")):
            continue
        if first in owners and first not in modules:
            continue  # reported by owned-namespace
        message = f'the id "{event.id}" of {event.name} does not begin with its module, "{module.name}"'
        if first in modules:
            yield Violation(
                event.id, message, f'move the event to module "{first}", or begin its id with "{module.name}."'
            )
        else:
            yield Violation(event.id, message, f'did you mean "{module.name}.{rest}"?')


def duplicate_id(catalogue: Catalogue) -> Iterator[Violation]:
    """Two events have the same id, and neither is an alias of the other."""
    first: dict[str, EventSpec] = {}
    for module, event in _events(catalogue):
        other = first.setdefault(event.id, event)
        if other is not event and not _mean_the_same(event, other, module):
            message = f'{event.name} has the id "{event.id}", which {other.name} already has'
            yield Violation(event.id, message, f"give it another id: line {other.id.span.line} has this one already")


def _mean_the_same(event: EventSpec, other: EventSpec, module: Module) -> bool:
    meanings = {str(each.status.replaced_by or each.name) for each in (event, other)}
    return len(meanings) == 1 and event.name != other.name and other in module.events


def _events(catalogue: Catalogue) -> Iterator[tuple[Module, EventSpec]]:
    """Yield the events that have an id, with their modules."""
    for module in catalogue.modules:
        yield from ((module, event) for event in module.events if event.id)


def owned_namespace(catalogue: Catalogue) -> Iterator[Violation]:
    """An id begins with the name of a module of another catalogue."""
    owners = catalogue.environment.owners if catalogue.environment else {}
    for module in catalogue.modules:
        for event in module.events:
            namespace = event.id.partition(".")[0]
            if namespace in owners and namespace == module.name:
                message = f'the namespace "{namespace}" of {event.name} belongs to {owners[namespace]}'
                yield Violation(event.id, message, "rename the module, and begin the id with its new name")
            elif namespace in owners and namespace not in {str(other.name) for other in catalogue.modules}:
                message = f'the namespace "{namespace}" of {event.name} belongs to {owners[namespace]}'
                yield Violation(event.id, message, f'begin the id with "{module.name}."')


def owned_package(catalogue: Catalogue) -> Iterator[Violation]:
    """A package is that of another catalogue of the project, or contains its modules."""
    for other in catalogue.environment.earlier if catalogue.environment else ():
        package = catalogue.package
        if package == other.package or package in other.module_paths or other.package in catalogue.module_paths:
            message = f'the package "{package}" is taken: {other.path} uses "{other.package}"'
            yield Violation(package, message, "give each catalogue a separate package")
