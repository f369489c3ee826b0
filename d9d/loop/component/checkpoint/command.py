"""The command `d9d checkpoint`: lists, verifies and exports checkpoints."""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from d9d.loop.component.checkpoint.export import export_weights
from d9d.loop.component.checkpoint.files import CheckpointError
from d9d.loop.component.checkpoint.storage import Checkpoint, find_complete
from d9d.loop.component.checkpoint.weight_mapping import WeightMapping

_COLUMNS = ("step", "time", "size", "mesh", "evaluations", "state")


def run(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: Its parsed arguments; the parser is in `d9d.__main__`, which loads no torch.

    Returns:
        The exit status: 0 on success, 1 on failure.
    """
    try:
        return _COMMANDS[options.command](options)
    except CheckpointError as error:
        print(f"d9d: {error}", file=sys.stderr)
        return 1


def _list(options: argparse.Namespace) -> int:
    found = _find(options.folder)
    if options.format == "json":
        print(json.dumps([_describe(checkpoint) for checkpoint in found], indent=2))
        return 0
    rows = [_row(checkpoint) for checkpoint in found]
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


def _describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what is known of a checkpoint; what its manifest would say is `None` if that cannot be read."""
    try:
        manifest = checkpoint.manifest()
    except (OSError, ValueError):
        manifest = {}
    return {
        "path": str(checkpoint.path),
        "step": checkpoint.num_steps,
        **{name: manifest.get(name) for name in ("time", "mesh", "evaluations", "stop_reason")},
        "size_bytes": sum(file.lstat().st_size for file in checkpoint.path.iterdir()),
        "problem": checkpoint.problem(),
    }


def _row(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the cells of a checkpoint; its time, its mesh or both are empty if the manifest cannot be read."""
    found = _describe(checkpoint)
    return (
        str(found["step"]),
        str(found["time"] or ""),
        _format_size(found["size_bytes"]),
        _format_mesh(found["mesh"]),
        _format_results(found["evaluations"]),
        found["problem"] or "complete",
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


_COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "ls": _list,
    "verify": _verify,
    "export": _export,
}
