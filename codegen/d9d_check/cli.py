"""The command `d9d check`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from d9d_check.check import Result, check
from d9d_check.codes import CODES, UNCHECKED
from d9d_check.report import FORMATS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Its arguments; by default those of the process.

    Returns:
        The exit status: 0 if nothing is wrong, 1 if something is, 2 if the command cannot be understood.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    missing = [path for path in options.paths if not path.exists()]
    if missing:
        parser.error(f"there is no file or folder {missing[0]}")
    disabled = {code for each in options.disable for code in each.split(",")}
    unknown = sorted(disabled - CODES.keys())
    if unknown:
        parser.error(f"there is no code {unknown[0]}; the codes are {', '.join(CODES)}")
    result = check(options.paths, use_cache=not options.no_cache)
    shown = [
        each
        for each in result.diagnostics
        if each.code not in disabled and (each.code != UNCHECKED or options.unchecked)
    ]
    _write(FORMATS[options.format](shown))
    if options.format == "text":
        _write(_summary(result, sum(each.severity == "error" for each in shown)))
    return int(any(each.severity == "error" for each in shown))


def _write(text: str) -> None:
    """Print a text; what the output cannot encode, such as the name of a file that is no text, is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _summary(result: Result, num_errors: int) -> str:
    num_unchecked = sum(each.code == UNCHECKED for each in result.diagnostics)
    files = f"{result.num_files} file{'' if result.num_files == 1 else 's'}"
    found = f"{num_errors} error{'' if num_errors == 1 else 's'}" if num_errors else "no errors"
    rest = f"; {num_unchecked} not verified (--unchecked lists them)" if num_unchecked else ""
    return f"{files} checked: {found}{rest}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="d9d check",
        description="Check that every handler is called, without running the program and without a type checker.",
    )
    parser.add_argument(
        "paths", nargs="*", type=Path, default=[Path()], metavar="PATH", help="files, notebooks, folders"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="how to print what is found (text)")
    parser.add_argument(
        "--disable", action="append", default=[], metavar="CODE", help="do not report a code; may be repeated"
    )
    parser.add_argument("--unchecked", action="store_true", help="also list what could not be verified")
    parser.add_argument("--no-cache", action="store_true", help="neither read nor write the folder .d9d_cache")
    return parser
