"""What all ranks hold, as one: who writes which tensor, and whether what must be the same is."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

import torch

from d9d.core.sharding import is_dtensor
from d9d.loop.component.checkpoint.state_tree import StateError, is_same_outline, merge_outlines, split_state
from d9d.loop.component.ranks import Ranks

logger = logging.getLogger(__name__)

# Integers of the width of other numbers, through which their bits are seen.
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def unite(
    state: Mapping[str, Any], ranks: Ranks, differing: Collection[str] = ()
) -> tuple[dict[str, torch.Tensor], Any]:
    """Take the state of all ranks apart.

    Args:
        state: The state of this rank, as `split_state` takes it.
        ranks: Who holds state. What several of them hold under one path is the same on each.
        differing: The paths of plain tensors that need not be the same: the first rank's is kept.

    Returns:
        The tensors that this rank writes, and the outline of all ranks' state.

    Raises:
        StateError: On all ranks, if state cannot be kept, or is not the same where it must be, with its path.
    """
    if ranks.is_alone:
        return split_state(state)
    tensors, *seen = ranks.everywhere(lambda: _take_apart(state))
    outlines, digests = zip(*ranks.gather(seen), strict=True)
    # All ranks see the same, and so come to the same error or none.
    merged = merge_outlines(outlines)
    writers = _writers(digests, differing, ranks)
    return {path: tensor for path, tensor in tensors.items() if writers.get(path, ranks.rank) == ranks.rank}, merged


def is_alike(state: Mapping[str, Any], ranks: Ranks, name: str = "") -> bool:
    """Say whether all ranks hold the same state.

    Args:
        state: The state of this rank.
        ranks: Who holds state.
        name: What errors call it.

    Returns:
        Whether it is the same, on all ranks alike.

    Raises:
        StateError: On all ranks, if state cannot be kept.
    """
    if ranks.is_alone:
        return True
    _, *seen = ranks.everywhere(lambda: _take_apart(state, name))
    (first, first_digests), *others = ranks.gather(seen)
    return all(is_same_outline(other, first) and digests == first_digests for other, digests in others)


def _take_apart(state: Mapping[str, Any], name: str = "") -> tuple[dict[str, torch.Tensor], Any, dict[str, int]]:
    """Return the tensors, the outline, and the digests of those tensors that a rank holds whole."""
    tensors, outline = split_state(state, name)
    return tensors, outline, _digests({path: held for path, held in tensors.items() if not is_dtensor(held)})


def _digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Sum the bits of each tensor, which any change of one number changes; waits for the device once."""
    by_device: dict[torch.device, dict[str, torch.Tensor]] = {}
    for path, tensor in tensors.items():
        numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        bits = numbers.reshape(-1).view(_INTEGERS[numbers.itemsize])
        by_device.setdefault(tensor.device, {})[path] = bits.sum(dtype=torch.int64)
    return {
        path: digest
        for sums in by_device.values()
        for path, digest in zip(sums, torch.stack(list(sums.values())).tolist(), strict=True)
    }


def _writers(digests: Collection[Mapping[str, int]], differing: Collection[str], ranks: Ranks) -> dict[str, int]:
    """Return which rank writes each plain tensor: the first that holds it."""
    writers: dict[str, int] = {}
    expected: dict[str, int] = {}
    for rank, held in enumerate(digests):
        for path, digest in held.items():
            writer = writers.setdefault(path, rank)
            if expected.setdefault(path, digest) == digest:
                continue
            if path not in differing:
                raise StateError(
                    f"the tensor {path!r} has other numbers on rank {writer} than on rank {rank}, and a checkpoint "
                    "keeps one of them: have it be the same on all ranks, or give it another name on each"
                )
            if ranks.is_main:
                logger.warning("%s differs on ranks %d and %d: the one of %d is kept", path, writer, rank, writer)
    return writers
