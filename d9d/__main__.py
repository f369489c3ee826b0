"""The command `d9d`: looks after checkpoints."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from d9d.loop.component.checkpoint.export import export_weights
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.storage import (
    CheckpointSummary,
    choose_checkpoint,
    find_checkpoints,
    find_faults,
)

_KILO = 1000
_UNITS = ("B", "KB", "MB", "GB", "TB")
_COLUMNS = ("step", "time", "size", "mesh", "state")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows its name; by default what the shell has given.

    Returns:
        The exit status: 0 if all is well, 1 if not.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except CheckpointError as error:
        print(f"d9d: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="d9d", description="Look after what training and inference leave on disk.")
    groups = parser.add_subparsers(required=True, metavar="checkpoint")
    checkpoint = groups.add_parser("checkpoint", help="list, verify and export checkpoints")
    commands = checkpoint.add_subparsers(required=True, metavar="ls|verify|export")
    folder = "a folder of checkpoints, or one checkpoint"

    ls = commands.add_parser("ls", help="list checkpoints, with what names and sizes of files tell of them")
    ls.add_argument("folder", type=Path, metavar="DIR", help=folder)
    ls.set_defaults(run=_list)

    verify = commands.add_parser("verify", help="read all of each checkpoint, and say what is wrong")
    verify.add_argument("folder", type=Path, metavar="DIR", help=folder)
    verify.set_defaults(run=_verify)

    export = commands.add_parser("export", help="write the weights of the newest complete one as safetensors")
    export.add_argument("folder", type=Path, metavar="DIR", help=folder)
    export.add_argument("to", type=Path, metavar="TO", help="a folder that is not there yet, or empty")
    export.set_defaults(run=_export)
    return parser


def _list(options: argparse.Namespace) -> int:
    summaries = [CheckpointSummary.of(checkpoint) for checkpoint in find_checkpoints(options.folder)]
    rows = [
        (str(summary.num_steps), summary.time, _size(summary.num_bytes), summary.mesh, summary.defect or "complete")
        for summary in summaries
    ]
    widths = [max(len(row[column]) for row in [_COLUMNS, *rows]) for column in range(len(_COLUMNS))]
    for row in [_COLUMNS, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _verify(options: argparse.Namespace) -> int:
    num_faults = 0
    for checkpoint in find_checkpoints(options.folder):
        faults = list(find_faults(checkpoint))
        num_faults += len(faults)
        for fault in faults:
            print(f"{checkpoint.path}: {fault}")
        if not faults:
            print(f"{checkpoint.path}: complete, and all of it can be read")
    return 1 if num_faults else 0


def _export(options: argparse.Namespace) -> int:
    checkpoint = choose_checkpoint(options.folder)
    export_weights(checkpoint, options.to)
    print(f"the weights of {checkpoint.path} are in {options.to}")
    return 0


def _size(num_bytes: float) -> str:
    unit = 0
    while num_bytes >= _KILO and unit < len(_UNITS) - 1:
        num_bytes, unit = num_bytes / _KILO, unit + 1
    return f"{num_bytes:.0f} {_UNITS[unit]}" if unit == 0 else f"{num_bytes:.1f} {_UNITS[unit]}"


if __name__ == "__main__":
    sys.exit(main())
