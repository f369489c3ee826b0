"""The command `d9d-catalogue`: writes, checks and lints what is generated from a catalogue."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from d9d_codegen.compile import check, generate
from d9d_codegen.diagnostic import FORMATS, DiagnosticError
from d9d_codegen.lint import lint_all
from d9d_codegen.project import find_catalogues


def lint(paths: Sequence[Path]) -> str:
    """Say whether catalogues live up to every rule.

    Args:
        paths: The catalogues.

    Returns:
        That all is well, in a sentence.

    Raises:
        DiagnosticError: A catalogue has diagnostics.
    """
    modules = [module for catalogue in lint_all(paths) for module in catalogue.modules]
    return f"{_count(sum(len(module.events) for module in modules), 'event')}, no errors"


def types(paths: Sequence[Path], templates: Path | None = None) -> str:
    """Say whether the generated modules of catalogues are right in the eyes of mypy.

    Args:
        paths: The catalogues.
        templates: A folder of templates to use instead of the one that the project names.

    Returns:
        That all is well, in a sentence.

    Raises:
        DiagnosticError: A catalogue has diagnostics, a file differs from what it says, or mypy found something.
    """
    check(paths, templates)
    from d9d_codegen.verify import typecheck  # noqa: PLC0415 -- no other command starts a process

    return f"mypy finds nothing wrong with {_count(typecheck(paths), 'module')}"


def init(paths: Sequence[Path]) -> str:
    """Start a catalogue in a project.

    Args:
        paths: Where it shall lie.

    Returns:
        What was written, and what to do next.

    Raises:
        DiagnosticError: There is a file already.
    """
    from d9d_codegen.project import start  # noqa: PLC0415 -- needed once in the life of a project

    return start(paths[0])


COMMANDS: Final[dict[str, tuple[Callable[..., str], str]]] = {
    "generate": (generate, "write the Python modules, the API pages and the index, all of them or none"),
    "check": (check, "say which generated files are not as the catalogue says, with a diff; write nothing"),
    "lint": (lint, "say what is wrong with the catalogue itself"),
    "types": (
        types,
        "type-check the generated modules with mypy, and tell each diagnostic at its line of the catalogue",
    ),
    "init": (init, "start a catalogue in a project of your own"),
}


_WITH_TEMPLATES: Final = ("generate", "check", "types")


def diff(options: argparse.Namespace) -> tuple[int, str]:
    """Return the exit status and the report of `diff`."""
    from d9d_codegen.diff import diff  # noqa: PLC0415 -- no other command needs it

    return diff(options.old, options.new, _paths(options)[0], options.format)


def coverage(options: argparse.Namespace) -> tuple[int, str]:
    """Return the exit status and the report of `coverage`."""
    from d9d_codegen.coverage import coverage  # noqa: PLC0415 -- no other command needs it

    return coverage(options.paths, _paths(options), options.format)


def schema(options: argparse.Namespace) -> tuple[int, str]:
    """Return the exit status and the text of `schema`, which is the same for every catalogue."""
    del options
    from d9d_codegen.schema import json_schema  # noqa: PLC0415 -- no other command needs it

    return 0, json_schema()


REPORTS: Final[dict[str, tuple[Callable[[argparse.Namespace], tuple[int, str]], str]]] = {
    "diff": (diff, "say what changed between two versions of a catalogue, and whom each change breaks"),
    "coverage": (coverage, "say which declared events the source in PATHS triggers and hears, and in which order"),
    "schema": (schema, "print the JSON Schema by which editors complete a catalogue"),
}
_ARGUMENTS: Final[dict[str, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "diff": (
        ("old", {"metavar": "OLD", "help": "a file, a git revision, or REVISION:PATH"}),
        ("new", {"metavar": "NEW", "help": "the same"}),
    ),
    "coverage": (("paths", {"metavar": "PATHS", "nargs": "+", "type": Path, "help": "files and folders of source"}),),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows the command's name; by default those of this process.

    Returns:
        The exit status: 0 where all is well, 1 where there are diagnostics, 2 where there is nothing to lint_text.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command in REPORTS:
            report, _ = REPORTS[options.command]
            status, text = report(options)
            _say(text)
            return status
        run, _ = COMMANDS[options.command]
        summary = run(_paths(options), **({"templates": options.templates} if "templates" in options else {}))
    except DiagnosticError as refused:
        _say(FORMATS[options.format](refused.diagnostics))
        return 1
    _say(f"{summary}\n" if options.format == "text" else FORMATS[options.format]([]))
    return 0


def _paths(options: argparse.Namespace) -> list[Path]:
    if options.catalogue:
        return [options.catalogue]
    return [Path("catalogue.yaml")] if options.command == "init" else find_catalogues()


def _parser() -> argparse.ArgumentParser:
    everywhere = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    _add_options(everywhere)
    parser = argparse.ArgumentParser(prog="d9d-catalogue", description="Compiles a catalogue of events.")
    _add_options(parser)
    parser.set_defaults(catalogue=None, format="text")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, description) in COMMANDS.items():
        command = commands.add_parser(
            name, parents=[everywhere], help=description, description=description.capitalize()
        )
        if name in _WITH_TEMPLATES:
            command.add_argument(
                "--templates", type=Path, metavar="DIR", help="templates that replace the compiler's, or come on top"
            )
    for name, (_, description) in REPORTS.items():
        command = commands.add_parser(
            name, parents=[everywhere], help=description, description=description.capitalize()
        )
        for argument, settings in _ARGUMENTS.get(name, ()):
            command.add_argument(argument, **settings)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--catalogue",
        type=Path,
        metavar="PATH",
        help="the catalogue (default: those that pyproject.toml names, or catalogue.yaml)",
    )
    parser.add_argument("--format", choices=FORMATS, help="how diagnostics are printed (default: text)")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _say(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know fewer characters than a catalogue
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:  # whoever reads has gone, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more when it ends
        if not isinstance(error, BrokenPipeError):
            sys.exit(f"the output cannot be written: {error.strerror}")
