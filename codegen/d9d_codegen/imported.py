"""Imports generated modules and compares their contexts with what a catalogue declares.

It runs in a separate process, `python -m d9d_codegen.imported`, since it runs the code of the project. It reads the
declared types as JSON, {module: {context: {field: type}}}, and writes a list of `Difference`.
"""

import builtins
import dataclasses
import importlib
import json
import os
import sys
import traceback
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from d9d_codegen.expression import BUILTINS, parse_type


class Difference(NamedTuple):
    """What differs between a module and the catalogue.

    Attributes:
        module: The full dotted name of the module.
        context: The context, if it is about one.
        field: The field, if it is about one.
        line: The line of the module that could not be run, if it is about one.
        message: What differs.
    """

    module: str
    context: str | None
    field: str | None
    line: int | None
    message: str


def differences(declared: Mapping[str, Mapping[str, Mapping[str, str]]]) -> Iterator[Difference]:
    """Import modules, and yield how their contexts differ from what is declared."""
    for name, contexts in declared.items():
        try:
            module = importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 -- the project's code may raise anything
            yield Difference(name, None, None, _line_in(name, error), f"cannot be imported: {_shown(error)}")
            continue
        for context, fields in contexts.items():
            for field, message in _compared(getattr(module, context, None), fields):
                yield Difference(name, context, field, None, message)


def _compared(context: Any, fields: Mapping[str, str]) -> Iterator[tuple[str | None, str]]:
    """Yield how a context differs from what is declared, field by field."""
    if not dataclasses.is_dataclass(context):
        yield None, "is not a dataclass in the imported module"
        return
    found = [field.name for field in dataclasses.fields(context)]
    for name in [name for name in fields if name not in found]:
        yield name, "does not exist in the imported module"
    for name in [name for name in found if name not in fields]:
        yield None, f"has a field {name} in the imported module"
    try:
        hints = typing.get_type_hints(context, include_extras=True)
    except Exception as error:  # noqa: BLE001 -- the project's code may raise anything
        yield None, f"has types that cannot be resolved: {_shown(error)}"
        return
    for name in [name for name in fields if name in found]:
        expected = parse_type(fields[name]).evaluate(_look_up)
        expected = type(None) if expected is None else expected
        if hints.get(name) != expected:
            yield name, f"has the type {hints.get(name)!r} in the imported module, not {expected!r}"


def _look_up(path: str) -> Any:
    """Return the object that a dotted path stands for."""
    if path in BUILTINS:
        return getattr(builtins, path)
    first, *others = path.split(".")
    found, module = importlib.import_module(first), first
    for name in others:
        module = f"{module}.{name}"
        found = getattr(found, name) if hasattr(found, name) else importlib.import_module(module)
    return found


def _line_in(module: str, error: BaseException) -> int | None:
    """Return the line of a module that was running when an error was raised, if it was running."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(f"{os.sep}{module.replace('.', os.sep)}.py")
    ]
    return lines[0] if lines else None


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def main() -> None:
    """Read what is declared from the standard input, and write what differs to the standard output."""
    declared = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the project's code prints is no part of the answer
    json.dump(list(differences(declared)), answer)
    answer.close()


if __name__ == "__main__":
    main()
