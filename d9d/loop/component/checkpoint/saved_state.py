"""The state that a checkpoint holds, as the ranks of a job read it: each its part."""

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from d9d.loop.component.checkpoint.state_tree import dtype_of, empty_tensors
from d9d.loop.component.ranks import Ranks, or_checkpoint_exception

READ_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, pickle.PickleError)
"""What reading damaged files raises."""


class CheckpointError(RuntimeError):
    """A checkpoint that is incomplete, or that belongs to other settings."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedState:
    """What is saved, and where to read it.

    Attributes:
        folder: The checkpoint.
        outline: The outline of the state of all ranks, as `split_state` makes it.
        index: Where its tensors lie.
        num_ranks: How many ranks saved it.
        ranks: Those that read it.
    """

    folder: Path
    outline: Any
    index: Mapping[str, Any]
    num_ranks: int
    ranks: Ranks

    def names(self) -> set[str]:
        """Return the names of all parts."""
        return {name for name, _ in self.outline["dict"]}

    def has(self, *path: str) -> bool:
        """Say whether anything lies at a path."""
        return self._find(path) is not None

    def outline_at(self, *path: str) -> Any:
        """Return the outline of what lies at a path.

        Args:
            *path: The keys that lead there.

        Returns:
            The outline.

        Raises:
            CheckpointError: If nothing lies there.
        """
        found = self._find(path)
        if found is None:
            raise CheckpointError(
                f"{self.folder} holds nothing at {'/'.join(path)!r}: it belongs to another kind of job"
            )
        return found

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Read tensors; all ranks call this, each with those that it needs.

        Args:
            tensors: Where to read to, by path.

        Raises:
            CheckpointError: On all ranks, if what the files hold is damaged.
        """
        from d9d.loop.component.checkpoint.tensor_files import load_tensors  # noqa: PLC0415 -- it loads torch's checkpoints

        try:
            load_tensors(self.folder, tensors, self.index, self.ranks)
        except or_checkpoint_exception(*READ_ERRORS) as error:
            raise damage_error(self.folder, error) from error

    def _find(self, path: tuple[str, ...]) -> Any:
        outline = self.outline
        for key in path:
            outline = dict(outline["dict"]).get(key) if isinstance(outline, dict) and "dict" in outline else None
        return outline


def require_consistent(outline: Any, index: Mapping[str, Any]) -> None:
    """Refuse texts that cannot be of one checkpoint.

    Args:
        outline: The outline of a state.
        index: Where its tensors lie.

    Raises:
        ValueError: If they differ in a tensor.
        TypeError: If a tensor has no number format.
    """
    with torch.device("meta"):  # nothing is allocated
        expected = empty_tensors(outline)
    if expected.keys() != index.keys():
        raise ValueError(f"{min(expected.keys() ^ index.keys())!r} is in one of two files alone")
    for path, tensor in expected.items():
        if (dtype_of(index[path]["dtype"]), index[path]["shape"]) != (tensor.dtype, list(tensor.shape)):
            raise ValueError(f"{path!r} has another type or shape in one file than in the other")


def damage_error(folder: Path, error: BaseException) -> CheckpointError:
    """Return what to say of a complete checkpoint that cannot be read.

    Args:
        folder: The checkpoint.
        error: What reading it raised.

    Returns:
        The error.
    """
    return CheckpointError(
        f"{folder} has all of its files, and one of them is damaged ({type(error).__qualname__}): "
        "remove it to go back to the checkpoint before it"
    )
