"""Reading batches in the loop's own process: as torch's data loader does."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from d9d.loop.component.data import read


class Rows(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, index])


class RowsAtOnce(Rows):
    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [torch.tensor([index, -index]) for index in indices]


class Doubling(DataLoader[Any]):
    def __iter__(self) -> Any:
        return (2 * batch for batch in super().__iter__())


LOADERS = [
    pytest.param(lambda: DataLoader(Rows(), batch_size=3), id="plain"),
    pytest.param(lambda: DataLoader(RowsAtOnce(), batch_size=3), id="batch at once"),
    pytest.param(lambda: DataLoader(Rows(), batch_size=3, collate_fn=len), id="collated"),
    pytest.param(lambda: DataLoader(Rows(), batch_size=None), id="without batches"),
    pytest.param(lambda: Doubling(Rows(), batch_size=3), id="a class of its own"),
]


@pytest.mark.parametrize("make", LOADERS)
def test_what_is_read_is_what_the_loader_yields(make: Any) -> None:
    """Whatever the loader does beside fetching happens here too."""
    expected, found = list(make()), list(read(make()))

    assert [str(batch) for batch in found] == [str(batch) for batch in expected]


def test_batches_are_fetched_when_they_are_asked_for() -> None:
    """The memory of one batch is taken at a time, and the random numbers of a step are drawn in it."""
    asked: list[int] = []

    class Noting(Rows):
        def __getitem__(self, index: int) -> torch.Tensor:
            asked.append(index)
            return super().__getitem__(index)

    batches: Iterator[Any] = read(DataLoader(Noting(), batch_size=2))
    assert asked == []

    next(batches)
    assert asked == [0, 1]
