"""What a checkpoint shares with a job that goes on from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d9d.loop.component.checkpoint.saved_state import CheckpointError

_ABSENT = "absent"
_NUM_DIFFERENCES_SHOWN = 10


def require_same(expected: Mapping[str, Any], found: Mapping[str, Any], path: Path, *, remedy: str) -> None:
    """Refuse a checkpoint that belongs to other settings.

    Args:
        expected: The settings of this job.
        found: The settings of the checkpoint.
        path: The checkpoint.
        remedy: What to do about differences.

    Raises:
        CheckpointError: If any of them differ, with both values of each.
    """
    differences = find_differences(expected, found)
    if differences:
        raise CheckpointError(
            f"{path} belongs to a job of other settings:\n  " + "\n  ".join(differences) + f"\n{remedy}"
        )


def find_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Say what differs.

    Args:
        expected: What this job has, by name.
        found: What the checkpoint has.

    Returns:
        A line for each of the first differences, with both values.
    """
    differences = [
        f"{name} is {expected.get(name, _ABSENT)!r} here and {found.get(name, _ABSENT)!r} in the checkpoint"
        for name in dict.fromkeys([*expected, *found])
        if expected.get(name, _ABSENT) != found.get(name, _ABSENT)
    ]
    shown = differences[:_NUM_DIFFERENCES_SHOWN]
    if len(differences) > len(shown):
        shown.append(f"… and {len(differences) - len(shown)} more")
    return shown
