"""Which samples each process reads in each step."""

import abc
import dataclasses
import math
from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import Sampler

from d9d.core.seed import derive_seed
from d9d.core.stepper import Stepper


class MicroBatchSamples(list[int]):
    """The samples of one micro-batch, which know where in the run it stands.

    Args:
        samples: The indices of the samples.
        step: The index of the step.
        number: Which of all micro-batches of the step this is, from 0, whoever has it.
        is_repeated: Whether another process has the same, and this one only keeps step with it.
    """

    __slots__ = ("is_repeated", "number", "step")

    def __init__(self, samples: Iterable[int], step: int, number: int, *, is_repeated: bool = False) -> None:
        super().__init__(samples)
        self.step = step
        self.number = number
        self.is_repeated = is_repeated

    def __reduce__(self) -> tuple[type["MicroBatchSamples"], tuple[list[int], int, int]]:
        """Travel to a worker process, which needs no more than the place."""
        return MicroBatchSamples, (list(self), self.step, self.number)


@dataclasses.dataclass(frozen=True)
class DataShare:
    """Which of the micro-batches of each step a process has; they are dealt like cards.

    Attributes:
        index: Which share, from 0.
        count: How many shares there are.
    """

    index: int = 0
    count: int = 1


_ALL = DataShare()
_BLOCK_SAMPLES = 8192  # so many positions of an order are lists at a time: long beside a step, short beside an epoch


class StepBatchSampler(Sampler[list[int]], abc.ABC):
    """Yields the micro-batches of all steps that a stepper has left, so that resuming needs the step alone.

    The samples of a step, and how they are cut into micro-batches, are the same for any number of processes.

    Args:
        stepper: Its current step, when iteration begins, is the first one to be sampled.
        share: Which of the micro-batches are this process's own.
    """

    def __init__(self, stepper: Stepper, share: DataShare) -> None:
        self._stepper = stepper
        self._share = share
        self._latest: tuple[int | None, list[MicroBatchSamples]] = (None, [])

    def micro_batches(self, step: int) -> list[MicroBatchSamples]:
        """Return this process's samples of one step.

        Args:
            step: The index of the step, from 0.

        Returns:
            The indices of the samples, a list for each micro-batch.
        """
        # Inference and its data loader ask for the same, one after the other.
        if self._latest[0] != step:
            self._latest = (step, self._cut(step))
        return self._latest[1]

    @abc.abstractmethod
    def _cut(self, step: int) -> list[MicroBatchSamples]:
        """Choose this process's samples of one step."""

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the samples of each micro-batch from the current step on."""
        for step in range(self._stepper.current_step, self._stepper.total_steps):
            yield from self.micro_batches(step)


class ShufflingBatchSampler(StepBatchSampler):
    """Takes the samples in a new random order each epoch, for as many epochs as the steps need.

    A step may reach over the end of an epoch into the next, so that all steps are of one size and no sample is left
    out.

    Args:
        num_samples: How many samples the dataset has.
        global_batch_size: How many samples a step takes.
        micro_batch_size: How many samples a micro-batch takes; times the number of shares it divides the former.
        seed: Decides all orders.
        stepper: Knows the steps.
        share: Which of the micro-batches are this process's own.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        global_batch_size: int,
        micro_batch_size: int,
        seed: int,
        stepper: Stepper,
        share: DataShare = _ALL,
    ) -> None:
        super().__init__(stepper, share)
        self._num_samples = num_samples
        self._global_batch_size = global_batch_size
        self._micro_batch_size = micro_batch_size
        self._seed = seed
        self._orders: dict[int, torch.Tensor] = {}
        self._block_start = 0
        self._block: list[int] = []

    def __len__(self) -> int:
        """Return the number of micro-batches of the whole run that are this process's own."""
        return self._stepper.total_steps * (self._global_batch_size // (self._micro_batch_size * self._share.count))

    def _cut(self, step: int) -> list[MicroBatchSamples]:
        start, size = step * self._global_batch_size, self._micro_batch_size
        return [
            MicroBatchSamples(self._samples(start + number * size, start + (number + 1) * size), step, number)
            for number in range(self._share.index, self._global_batch_size // size, self._share.count)
        ]

    def _samples(self, start: int, stop: int) -> list[int]:
        """Return what stands at some positions of the endless row of epochs."""
        samples: list[int] = []
        while start < stop:
            if not 0 <= start - self._block_start < len(self._block):
                self._block_start, self._block = start, self._read(start)
            position = start - self._block_start
            found = self._block[position : position + stop - start]
            samples += found
            start += len(found)
        return samples

    def _read(self, start: int) -> list[int]:
        """Return what stands from a position on, no further than to the end of its epoch."""
        epoch, position = divmod(start, self._num_samples)
        block: list[int] = self._order(epoch)[position : position + _BLOCK_SAMPLES].tolist()
        return block

    def _order(self, epoch: int) -> torch.Tensor:
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "epoch", epoch))
            # A step reads forward, so an order is never needed again once another has been made.
            self._orders = {epoch: torch.randperm(self._num_samples, generator=generator)}
        return self._orders[epoch]


class SequentialBatchSampler(StepBatchSampler):
    """Takes each sample once, in the order of the dataset; the last step and micro-batch may be smaller.

    All processes have the same number of micro-batches in each step, since they run the model together. Where the last
    step has too few, some repeat one of another process, and mark it so.

    Args:
        num_samples: How many samples the dataset has.
        global_batch_size: How many samples a step takes.
        micro_batch_size: How many samples a micro-batch takes; times the number of shares it divides the former.
        stepper: Knows the steps; `num_steps` says how many there must be.
        share: Which of the micro-batches are this process's own.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        global_batch_size: int,
        micro_batch_size: int,
        stepper: Stepper,
        share: DataShare = _ALL,
    ) -> None:
        super().__init__(stepper, share)
        self._num_samples = num_samples
        self._global_batch_size = global_batch_size
        self._micro_batch_size = micro_batch_size

    @staticmethod
    def num_steps(num_samples: int, global_batch_size: int) -> int:
        """Return how many steps it takes to see each sample once.

        Args:
            num_samples: How many samples the dataset has.
            global_batch_size: How many samples a step takes.

        Returns:
            The number of steps.
        """
        return math.ceil(num_samples / global_batch_size)

    def __len__(self) -> int:
        """Return the number of micro-batches of the whole run that this process runs."""
        num_full_steps, num_left = divmod(self._num_samples, self._global_batch_size)
        num_per_step = self._global_batch_size // self._micro_batch_size
        num_in_last = math.ceil(num_left / self._micro_batch_size)
        return num_full_steps * num_per_step // self._share.count + math.ceil(num_in_last / self._share.count)

    def _cut(self, step: int) -> list[MicroBatchSamples]:
        start, size = step * self._global_batch_size, self._micro_batch_size
        stop = min(start + self._global_batch_size, self._num_samples)
        last = (stop - start - 1) // size
        micro_batches = []
        for number in range(self._share.index, _rounded_up(last + 1, self._share.count), self._share.count):
            own = min(number, last)
            first = start + own * size
            samples = range(first, min(first + size, stop))
            micro_batches.append(MicroBatchSamples(samples, step, own, is_repeated=number > last))
        return micro_batches


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
