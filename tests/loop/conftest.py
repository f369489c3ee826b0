"""What holds for all tests of the loops: one thread, so that they are fast and sums have one order."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from d9d.loop.config import CheckpointingConfig


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Run torch on one thread."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget a launcher that may have started the tests themselves."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture
def every_step(tmp_path: Path) -> CheckpointingConfig:
    """Settings that save after each step, and keep all of it."""
    return CheckpointingConfig(folder=tmp_path / "checkpoints", period_steps=1, num_to_keep=1000)
