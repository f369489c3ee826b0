"""The command `d9d`: checks programs, and manages checkpoints."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import d9d


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Its arguments; by default those of the process.

    Returns:
        The exit status: 0 on success, 1 on failure.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["check"]:
        from d9d_check.cli import main as check  # noqa: PLC0415 -- it loads no torch, and starts in a tenth of the time

        return check(given[1:])
    options = _parser().parse_args(given)
    from d9d.loop.component.checkpoint.command import run  # noqa: PLC0415 -- it loads torch

    return run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="d9d", description="Check programs, and manage checkpoints.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {d9d.__version__}")
    groups = parser.add_subparsers(required=True, metavar="COMMAND")
    groups.add_parser("check", help="check that every handler of a program is called", add_help=False)
    description = "list, verify and export checkpoints"
    checkpoint = groups.add_parser("checkpoint", help=description, description=f"{description.capitalize()}.")
    commands = checkpoint.add_subparsers(dest="command", required=True, metavar="COMMAND")

    ls = _command(commands, "ls", "list checkpoints, and check the names and sizes of their files")
    ls.add_argument("--format", choices=("text", "json"), default="text", help="how they are printed (default: text)")
    _command(commands, "verify", "read all of each checkpoint, and print every problem")
    export = _command(commands, "export", "write the weights of the newest complete one to safetensors files")
    export.add_argument("to", type=Path, metavar="TO", help="a folder that does not exist or is empty")
    export.add_argument(
        "--mapping", metavar="MODULE:NAME", help="the WeightMapping that gives weights their names and shapes in files"
    )
    export.add_argument(
        "--config", type=Path, metavar="FILE", action="append", default=[], help="a file to copy, such as config.json"
    )
    export.add_argument("--name", default="model", help="the name of the files without suffix (default: model)")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, description: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=description, description=f"{description.capitalize()}.")
    command.add_argument("folder", type=Path, metavar="DIR", help="a folder of checkpoints, or one checkpoint")
    return command


if __name__ == "__main__":
    sys.exit(main())
