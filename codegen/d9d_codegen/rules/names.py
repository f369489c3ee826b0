"""Rules about names: Python's, and the house's."""

import keyword
import re
import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Final

from d9d_codegen.annotation import BUILTINS
from d9d_codegen.model import Catalogue
from d9d_codegen.problem import Finding
from d9d_codegen.source import Text

_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SEGMENT: Final = re.compile(r"[a-z][a-z0-9_]*")


def bad_package(catalogue: Catalogue) -> Iterator[Finding]:
    """The package is no dotted name."""
    package = catalogue.package
    if package and not all(_is_python_name(part) for part in package.split(".")):
        yield Finding(
            package, f'"{package}" is no dotted Python name', "write something like `package: project.events`"
        )


def bad_name(catalogue: Catalogue) -> Iterator[Finding]:
    """A name is no Python identifier, is a keyword, or begins with two underscores."""
    for noun, name in chain(_modules(catalogue), _constants(catalogue), _contexts(catalogue), _fields(catalogue)):
        if keyword.iskeyword(name):
            yield Finding(name, f'the {noun} "{name}" is called like a keyword of Python', "choose another name")
        elif not _is_python_name(name):
            yield Finding(name, f'the {noun} "{name}" is no Python name', "use letters, digits and underscores")
        elif name.startswith("__"):
            message = f'the {noun} "{name}" begins with two underscores, which Python reserves'
            yield Finding(name, message, f'call it "{name.strip("_") or noun}"')
    for phase in _phases(catalogue):
        if not phase.isidentifier():
            yield Finding(phase, f'the phase "{phase}" is no name', "use letters, digits and underscores")


def name_style(catalogue: Catalogue) -> Iterator[Finding]:
    """A name is not spelled as names of its kind are."""
    for noun, name in _constants(catalogue):
        if _has_style(name) and (name != name.upper() or name.startswith("_")):
            yield Finding(name, f'the {noun} "{name}" is not in capitals', f'call it "{_snake(name).upper()}"')
    for noun, name in _contexts(catalogue):
        if _has_style(name) and (not name[0].isupper() or "_" in name):
            capitalised = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
            yield Finding(name, f'the {noun} "{name}" is not in CapWords', f'call it "{capitalised}"')
    for noun, name in chain(_modules(catalogue), _fields(catalogue)):
        if _has_style(name) and (name != name.lower() or name.startswith("_")):
            yield Finding(name, f'the {noun} "{name}" is not in small letters', f'call it "{_snake(name)}"')
    for phase in _phases(catalogue):
        if phase.isidentifier() and not _SEGMENT.fullmatch(phase):
            remedy = "use small letters, digits and underscores"
            yield Finding(phase, f'the phase "{phase}" is not in small letters', remedy)


def duplicate_name(catalogue: Catalogue) -> Iterator[Finding]:
    """Two events have one constant, or an event and a context of one module have one name."""
    constants: dict[str, Text] = {}
    for module in catalogue.modules:
        contexts = {str(context.name): context.name for context in module.contexts}
        for event in module.events:
            first = constants.setdefault(event.name, event.name)
            if first is not event.name:
                message = f"the constant {event.name} is declared twice"
                yield Finding(event.name, message, f"the first one stands in line {first.span.line}")
            if event.name in contexts:
                message = f"a context is called {event.name} as well"
                yield Finding(event.name, message, f"it stands in line {contexts[event.name].span.line}")


def reserved_name(catalogue: Catalogue) -> Iterator[Finding]:
    """A context or a constant is called like a class that is built into Python."""
    for noun, name in chain(_contexts(catalogue), _constants(catalogue)):
        if name in BUILTINS:
            better = f"Event{name}Context" if noun == "context" else f"EVENT_{_snake(name).upper()}"
            yield Finding(name, f'the {noun} "{name}" is called like a class of Python', f'call it "{better}"')


def _has_style(name: str) -> bool:
    """Return whether a name is good enough to have its style judged."""
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
