"""The command `d9d-catalogue`: writes, checks and lints what is generated from a catalogue."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from d9d_codegen.compile import check, generate
from d9d_codegen.diagnostic import FORMATS, DiagnosticError
from d9d_codegen.lint import lint_all
from d9d_codegen.project import find_catalogues


def lint(paths: Sequence[Path]) -> str:
    """Check catalogues against every rule.

    Args:
        paths: The catalogues.

    Returns:
        That all is well, in a sentence.

    Raises:
        DiagnosticError: A catalogue is not valid.
    """
    modules = [module for catalogue in lint_all(paths) for module in catalogue.modules]
    return f"{_count(sum(len(module.events) for module in modules), 'event')}, no errors"


def check_files(paths: Sequence[Path], templates: Path | None = None, *, imports: bool = False) -> str:
    """Compare the generated files of catalogues with the files on disk, and the imported modules with the catalogues.

    Args:
        paths: The catalogues.
        templates: A folder of templates to use instead of the one that the project names.
        imports: Whether to import the generated modules, which runs code of the project.

    Returns:
        That all is well, in a sentence.

    Raises:
        DiagnosticError: A catalogue is not valid, a file is not up to date, or a module differs from its declaration.
    """
    summary = check(paths, templates)
    if not imports:
        return summary
    from d9d_codegen.verify import check_imports  # noqa: PLC0415 -- no other command starts a process

    return f"{summary}; {_count(check_imports(paths), 'context')} imported as declared"


def types(paths: Sequence[Path], templates: Path | None = None) -> str:
    """Check the generated modules of catalogues with mypy.

    Args:
        paths: The catalogues.
        templates: A folder of templates to use instead of the one that the project names.

    Returns:
        That all is well, in a sentence.

    Raises:
        DiagnosticError: A catalogue is not valid, a file is not up to date, or mypy reported an error.
    """
    check(paths, templates)
    from d9d_codegen.verify import typecheck  # noqa: PLC0415 -- no other command starts a process

    return f"mypy reports no errors in {_count(typecheck(paths), 'module')}"


def init(paths: Sequence[Path]) -> str:
    """Start a catalogue in a project.

    Args:
        paths: The path of the catalogue.

    Returns:
        What was written, and what to do next.

    Raises:
        DiagnosticError: The file already exists.
    """
    from d9d_codegen.project import start  # noqa: PLC0415 -- needed once in the life of a project

    return start(paths[0])


COMMANDS: Final[dict[str, tuple[Callable[..., str], str]]] = {
    "generate": (generate, "write the Python modules, the API pages and the index, all of them or none"),
    "check": (check_files, "report which generated files are not up to date, with a diff; write nothing"),
    "lint": (lint, "check the catalogue itself"),
    "types": (
        types,
        "type-check the generated modules with mypy, and report errors at the lines of the catalogue",
    ),
    "init": (init, "start a catalogue in a project of your own"),
}


_WITH_TEMPLATES: Final = ("generate", "check", "types")


def diff(options: argparse.Namespace) -> tuple[int, str]:
    """Return the exit status and the report of `diff`."""
    from d9d_codegen.diff import diff  # noqa: PLC0415 -- no other command needs it

    return diff(options.old, options.new, _paths(options), options.format)


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
    "diff": (diff, "report what changed between two versions of the catalogues, and whom each change breaks"),
    "coverage": (coverage, "report which declared events the source in PATHS triggers and handles, and in which order"),
    "schema": (schema, "print the JSON Schema by which editors complete a catalogue"),
}
_ARGUMENTS: Final[dict[str, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "diff": (
        ("old", {"metavar": "OLD", "help": "a git revision, REVISION:PATH, or a file"}),
        ("new", {"metavar": "NEW", "nargs": "?", "help": "the same (default: the catalogues as they are on disk)"}),
    ),
    "coverage": (("paths", {"metavar": "PATHS", "nargs": "+", "type": Path, "help": "files and folders of source"}),),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The arguments of the command; by default those of this process.

    Returns:
        The exit status: 0 if all is well, 1 if there are errors, 2 for wrong use of the command.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command in REPORTS:
            report, _ = REPORTS[options.command]
            status, text = report(options)
            _say(text)
            return status
        run, _ = COMMANDS[options.command]
        given = {name: getattr(options, name) for name in ("templates", "imports") if name in options}
        summary = run(_paths(options), **given)
    except DiagnosticError as error:
        _say(FORMATS[options.format](error.diagnostics))
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
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    _add_options(parser)
    parser.set_defaults(catalogue=None, format="text")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, description) in COMMANDS.items():
        command = commands.add_parser(name, parents=[everywhere], help=description, description=_sentence(description))
        if name in _WITH_TEMPLATES:
            command.add_argument(
                "--templates", type=Path, metavar="DIR", help="templates that replace the compiler's, or add files"
            )
        if name == "check":
            command.add_argument(
                "--import",
                dest="imports",
                action="store_true",
                help="also import the generated modules, which runs code of the project, and compare their fields",
            )
    for name, (_, description) in REPORTS.items():
        command = commands.add_parser(name, parents=[everywhere], help=description, description=_sentence(description))
        for argument, settings in _ARGUMENTS.get(name, ()):
            command.add_argument(argument, **settings)
    return parser


def _sentence(description: str) -> str:
    return f"{description[0].upper()}{description[1:]}."


def _version() -> str:
    try:
        return metadata.version("d9d-hooks")
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return "unknown"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--catalogue",
        type=Path,
        metavar="PATH",
        help="the catalogue (default: those that pyproject.toml names, or catalogue.yaml)",
    )
    parser.add_argument("--format", choices=FORMATS, help="how errors are printed (default: text)")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _say(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may support fewer characters
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:  # the reader is gone, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python tries again at exit
        if not isinstance(error, BrokenPipeError):
            sys.exit(f"the output cannot be written: {error.strerror}")
