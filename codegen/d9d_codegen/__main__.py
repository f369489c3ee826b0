"""The command `d9d-catalogue`: writes, checks and lints what is generated from a catalogue."""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from d9d_codegen.drift import drift, foreign
from d9d_codegen.lint import examine
from d9d_codegen.problem import RefusedError
from d9d_codegen.project import find_project
from d9d_codegen.report import FORMATS
from d9d_codegen.write import Change, apply, compare


def generate(path: Path) -> str:
    """Writes every artefact of a catalogue, or none.

    Args:
        path: The catalogue.

    Returns:
        What was done, in a sentence.

    Raises:
        RefusedError: The catalogue has problems, or a file could not be written.
    """
    num_files, changes = _pending(path)
    foreigners = [foreign(change) for change in changes if change.is_foreign]
    if foreigners:
        raise RefusedError(foreigners)
    apply(changes)
    num_written = sum(change.after is not None for change in changes)
    removed = f", removed {len(changes) - num_written}" if len(changes) > num_written else ""
    return f"wrote {num_written} of {num_files} files{removed}"


def check(path: Path) -> str:
    """Says whether every artefact of a catalogue is as it should be; writes nothing.

    Args:
        path: The catalogue.

    Returns:
        That all is well, in a sentence.

    Raises:
        RefusedError: The catalogue has problems, or a file differs from what it says.
    """
    num_files, changes = _pending(path)
    if changes:
        raise RefusedError(drift(changes, path))
    return f"all {num_files} files are as {path.name} says"


def lint(path: Path) -> str:
    """Says whether a catalogue lives up to every rule.

    Args:
        path: The catalogue.

    Returns:
        That all is well, in a sentence.

    Raises:
        RefusedError: The catalogue has problems.
    """
    catalogue = examine(path)
    return f"{sum(len(module.events) for module in catalogue.modules)} events, no problems"


COMMANDS: Final[dict[str, tuple[Callable[[Path], str], str]]] = {
    "generate": (generate, "write the Python modules, the API pages and the index, all of them or none"),
    "check": (check, "say which generated files are not as the catalogue says, with a diff; write nothing"),
    "lint": (lint, "say what is wrong with the catalogue itself"),
}


def diff(options: argparse.Namespace) -> tuple[int, str]:
    """Returns the exit status and the report of `diff`."""
    from d9d_codegen.evolution import command  # noqa: PLC0415 -- no other command needs it

    return command.diff(options.old, options.new, options.catalogue, options.format)


def coverage(options: argparse.Namespace) -> tuple[int, str]:
    """Returns the exit status and the report of `coverage`."""
    from d9d_codegen.coverage import command  # noqa: PLC0415 -- no other command needs it

    return command.coverage(options.paths, options.catalogue, options.format)


REPORTS: Final[dict[str, tuple[Callable[[argparse.Namespace], tuple[int, str]], str]]] = {
    "diff": (diff, "say what changed between two editions of a catalogue, and whom each change breaks"),
    "coverage": (coverage, "say which declared events the source in PATHS triggers and hears, and in which order"),
}
_ARGUMENTS: Final[dict[str, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "diff": (
        ("old", {"metavar": "OLD", "help": "a file, a git revision, or REVISION:PATH"}),
        ("new", {"metavar": "NEW", "help": "the same"}),
    ),
    "coverage": (("paths", {"metavar": "PATHS", "nargs": "+", "type": Path, "help": "files and folders of source"}),),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: What follows the command's name; by default those of this process.

    Returns:
        The exit status: 0 where all is well, 1 where there are problems, 2 where there is nothing to judge.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command in REPORTS:
            report, _ = REPORTS[options.command]
            status, text = report(options)
            _say(text)
            return status
        run, _ = COMMANDS[options.command]
        summary = run(options.catalogue)
    except RefusedError as refused:
        _say(FORMATS[options.format](refused.problems))
        return 1
    _say(f"{summary}\n" if options.format == "text" else FORMATS[options.format]([]))
    return 0


def _pending(path: Path) -> tuple[int, list[Change]]:
    """Returns how many files a catalogue makes, and which of them are not on disk as they should be."""
    catalogue = examine(path)
    project = find_project(path)
    from d9d_codegen.render import notice, render  # noqa: PLC0415 -- templates are not loaded for a bad catalogue

    artefacts = render(catalogue, project)
    return len(artefacts), compare(project.root, artefacts, notice(catalogue))


def _parser() -> argparse.ArgumentParser:
    everywhere = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    _add_options(everywhere)
    parser = argparse.ArgumentParser(prog="d9d-catalogue", description="Compiles a catalogue of events.")
    _add_options(parser)
    parser.set_defaults(catalogue=Path("catalogue.yaml"), format="text")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, description) in COMMANDS.items():
        commands.add_parser(name, parents=[everywhere], help=description, description=description.capitalize())
    for name, (_, description) in REPORTS.items():
        command = commands.add_parser(
            name, parents=[everywhere], help=description, description=description.capitalize()
        )
        for argument, settings in _ARGUMENTS[name]:
            command.add_argument(argument, **settings)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--catalogue", type=Path, metavar="PATH", help="the catalogue (default: catalogue.yaml)")
    parser.add_argument("--format", choices=FORMATS, help="how problems are printed (default: text)")


def _say(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know fewer characters than a catalogue
    sys.stdout.write(text)


if __name__ == "__main__":
    sys.exit(main())
