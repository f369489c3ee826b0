"""All ranks raise the true reason for which one of them could not load a checkpoint."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from ranks import run_on_ranks
from torch import distributed

from d9d.loop.component.checkpoint.files import CheckpointError, TensorReader
from d9d.loop.component.checkpoint.storage import Checkpoint
from d9d.loop.component.ranks import Ranks

REASONS = {
    "PermissionError": PermissionError(13, "Permission denied"),
    "FileNotFoundError": FileNotFoundError(2, "No such file or directory"),
    "MemoryError": MemoryError(),
    "RuntimeError": RuntimeError("PytorchStreamReader failed reading zip archive"),
}
REMEDIES = {
    "PermissionError": "it may be intact: make its files readable on all machines, and run again",
    "FileNotFoundError": "it may be intact: make its folder visible on all machines, and run again",
    "MemoryError": "there is too little memory to load it, and it may be intact: free memory, or use more processes",
    "RuntimeError": "remove it to resume from the checkpoint before it",
}


def errors_of_loading(folder: Path) -> dict[str, str]:
    """Load a checkpoint once for each reason, with an error in rank 1 alone."""
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size(), distributed.group.WORLD)
    checkpoint = Checkpoint.write(folder, 1, {"weight": torch.ones(3)}, {}, ranks=ranks)
    found: dict[str, str] = {}
    for name, reason in REASONS.items():
        saved = checkpoint.open(ranks)
        fails = mock.patch.object(TensorReader, "read_data", side_effect=reason)
        if ranks.rank == 1:
            fails.start()
        with pytest.raises(CheckpointError) as caught:
            saved.load({"weight": torch.zeros(3)})
        if ranks.rank == 1:
            fails.stop()
        found[name] = str(caught.value)
    return found


def test_the_reason_of_one_rank_is_known_to_all(tmp_path: Path) -> None:
    """Only bytes that cannot be understood are damage."""
    first, second = run_on_ranks(2, errors_of_loading, tmp_path)

    assert first == second
    for name, message in first.items():
        assert f"step-1 cannot be read (rank 1: {name}" in message
        assert message.endswith(f"): {REMEDIES[name]}")
