"""How a loop comes by its data."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from torch.utils.data import Dataset

from d9d.core.dist_context import DistributedContext


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeDatasetContext:
    """What a dataset can be built from.

    Attributes:
        dist_context: The process and its device; samples stay on the CPU, the loop moves batches to the device.
    """

    dist_context: DistributedContext


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class InitializeDatasetResult:
    """The data of a loop.

    Attributes:
        dataset: Samples by index, with a length; or, for training, an `IterableDataset`.
        collate: Makes one batch of a list of samples; by default what torch's `DataLoader` does.
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None = None


class DatasetProvider(Protocol):
    """A function, or an object that is called like one, which brings the data of a loop."""

    def __call__(self, ctx: InitializeDatasetContext, /) -> InitializeDatasetResult:
        """Build the dataset."""
