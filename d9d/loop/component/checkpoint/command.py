"""The command `d9d checkpoint`: lists, verifies and exports checkpoints."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d9d.loop.component.checkpoint.export import export_weights
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.storage import Checkpoint, find_complete
from d9d.loop.component.checkpoint.weight_mapping import WeightMapping

_COLUMNS = ("step", "time", "size", "mesh", "evaluations", "state")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Its arguments; by default those of the process.

    Returns:
        The exit status: 0 on success, 1 on failure.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except CheckpointError as error:
        print(f"d9d: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="d9d", description="Check programs, and manage checkpoints.")
    groups = parser.add_subparsers(required=True, metavar="COMMAND")
    groups.add_parser("check", help="check that every handler of a program is called", add_help=False)
    checkpoint = groups.add_parser("checkpoint", help="list, verify and export checkpoints")
    commands = checkpoint.add_subparsers(required=True, metavar="COMMAND")
    folder = "a folder of checkpoints, or one checkpoint"

    ls = commands.add_parser("ls", help="list checkpoints, and check the names and sizes of their files")
    ls.add_argument("folder", type=Path, metavar="DIR", help=folder)
    ls.set_defaults(run=_list)

    verify = commands.add_parser("verify", help="read all of each checkpoint, and print every problem")
    verify.add_argument("folder", type=Path, metavar="DIR", help=folder)
    verify.set_defaults(run=_verify)

    export = commands.add_parser("export", help="write the weights of the newest complete one to safetensors files")
    export.add_argument("folder", type=Path, metavar="DIR", help=folder)
    export.add_argument("to", type=Path, metavar="TO", help="a folder that does not exist or is empty")
    export.add_argument(
        "--mapping", metavar="MODULE:NAME", help="the WeightMapping that gives weights their names and shapes in files"
    )
    export.add_argument(
        "--config", type=Path, metavar="FILE", action="append", default=[], help="a file to copy, such as config.json"
    )
    export.add_argument("--name", default="model", help="the name of the files without suffix; by default model")
    export.set_defaults(run=_export)
    return parser


def _list(options: argparse.Namespace) -> int:
    rows = [_row(checkpoint) for checkpoint in _find(options.folder)]
    widths = [max(len(row[column]) for row in [_COLUMNS, *rows]) for column in range(len(_COLUMNS))]
    for row in [_COLUMNS, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _verify(options: argparse.Namespace) -> int:
    num_problems = 0
    for checkpoint in _find(options.folder):
        problems = list(checkpoint.verify())
        num_problems += len(problems)
        for problem in problems:
            print(f"{checkpoint.path}: {problem}")
        if not problems:
            print(f"{checkpoint.path}: complete and readable")
    return 1 if num_problems else 0


def _export(options: argparse.Namespace) -> int:
    first, *_ = _find(options.folder)
    # Of a folder of checkpoints, the newest complete one; one checkpoint must be complete itself.
    checkpoint = first if first.path == options.folder.resolve() else find_complete(options.folder) or first
    if problem := checkpoint.problem():
        raise CheckpointError(f"{checkpoint.path} cannot be exported: {problem}")
    mapping = None if options.mapping is None else _import_mapping(options.mapping)
    export_weights(checkpoint, options.to, mapping=mapping, config=options.config, name=options.name)
    print(f"exported the weights of {checkpoint.path} to {options.to}")
    return 0


def _import_mapping(target: str) -> WeightMapping:
    """Import a weight mapping; modules in the current folder are found, as with `python -m`."""
    module, _, name = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        mapping = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"--mapping {target} cannot be imported ({error}): pass MODULE:NAME, such as my_model:MAPPING"
        ) from error
    finally:
        sys.path.pop(0)
    if not isinstance(mapping, WeightMapping):
        raise CheckpointError(f"--mapping {target} is a {type(mapping).__qualname__}: name a d9d.WeightMapping")
    return mapping


def _find(path: Path) -> list[Checkpoint]:
    """Return the checkpoint at a path, or those in a folder: newest first, complete or not."""
    is_checkpoint = Checkpoint.is_name(path.name) and path.is_dir()
    found = [Checkpoint(path.resolve())] if is_checkpoint else Checkpoint.list_in(path)
    if not found:
        raise CheckpointError(f"{path} contains no checkpoint: name one, or the folder that a job saves into")
    return found


def _row(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the cells of a checkpoint; its time, its mesh or both are empty if the manifest cannot be read."""
    try:
        manifest = checkpoint.manifest()
    except (OSError, ValueError):
        manifest = {}
    num_bytes = sum(file.lstat().st_size for file in checkpoint.path.iterdir())
    return (
        str(checkpoint.num_steps),
        str(manifest.get("time", "")),
        _format_size(num_bytes),
        _format_mesh(manifest.get("mesh")),
        _format_results(manifest.get("evaluations")),
        checkpoint.problem() or "complete",
    )


def _format_mesh(mesh: Any) -> str:
    if not isinstance(mesh, dict):
        return ""
    return " ".join(f"{name}={size}" for name, size in mesh.items() if size != 1) or "one process"


def _format_results(evaluations: Any) -> str:
    cells = []
    for name, results in evaluations.items() if isinstance(evaluations, dict) else ():
        for number, value in results.items() if isinstance(results, dict) else ():
            cells.append(
                f"{name}/{number}={value:.4g}" if isinstance(value, float | int) else f"{name}/{number}={value}"
            )
    return " ".join(cells)


def _format_size(num_bytes: float) -> str:
    kilo, units = 1000, ("B", "KB", "MB", "GB", "TB")
    unit = 0
    while num_bytes >= kilo and unit < len(units) - 1:
        num_bytes, unit = num_bytes / kilo, unit + 1
    return f"{num_bytes:.0f} {units[unit]}" if unit == 0 else f"{num_bytes:.1f} {units[unit]}"
