"""Which samples each micro-batch of each step takes: pure functions of the seed and the step."""

import abc
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
        number: Which of the step's micro-batches this is, from 0.
    """

    def __init__(self, samples: Iterable[int], step: int, number: int) -> None:
        super().__init__(samples)
        self.step = step
        self.number = number

    def __reduce__(self) -> tuple[type["MicroBatchSamples"], tuple[list[int], int, int]]:
        """Travel to a worker process whole."""
        return MicroBatchSamples, (list(self), self.step, self.number)


class StepBatchSampler(Sampler[list[int]], abc.ABC):
    """Yields the micro-batches of all steps that a stepper has left, so that resuming needs the step alone.

    Args:
        stepper: Its current step, when iteration begins, is the first one to be sampled.
    """

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper

    @abc.abstractmethod
    def micro_batches(self, step: int) -> list[list[int]]:
        """Return the samples of one step.

        Args:
            step: The index of the step, from 0.

        Returns:
            The indices of the samples, a list for each micro-batch.
        """

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the samples of each micro-batch from the current step on."""
        for step in range(self._stepper.current_step, self._stepper.total_steps):
            for number, samples in enumerate(self.micro_batches(step)):
                yield MicroBatchSamples(samples, step, number)


class ShufflingBatchSampler(StepBatchSampler):
    """Takes the samples in a new random order each epoch, for as many epochs as the steps need.

    A step may reach over the end of an epoch into the next, so that all steps are of one size and no sample is left
    out.

    Args:
        num_samples: How many samples the dataset has.
        global_batch_size: How many samples a step takes.
        micro_batch_size: How many samples a micro-batch takes; divides the former.
        seed: Decides all orders.
        stepper: Knows the steps.
    """

    def __init__(
        self, *, num_samples: int, global_batch_size: int, micro_batch_size: int, seed: int, stepper: Stepper
    ) -> None:
        super().__init__(stepper)
        self._num_samples = num_samples
        self._global_batch_size = global_batch_size
        self._micro_batch_size = micro_batch_size
        self._seed = seed
        self._orders: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        """Return the number of micro-batches of the whole run."""
        return self._stepper.total_steps * (self._global_batch_size // self._micro_batch_size)

    def micro_batches(self, step: int) -> list[list[int]]:  # noqa: D102 -- inherited
        start = step * self._global_batch_size
        return [
            self._samples(position, position + self._micro_batch_size)
            for position in range(start, start + self._global_batch_size, self._micro_batch_size)
        ]

    def _samples(self, start: int, stop: int) -> list[int]:
        """Return what stands at some positions of the endless row of epochs."""
        samples: list[int] = []
        while start < stop:
            epoch, position = divmod(start, self._num_samples)
            samples += self._order(epoch)[position : position + stop - start].tolist()
            start = min(stop, (epoch + 1) * self._num_samples)
        return samples

    def _order(self, epoch: int) -> torch.Tensor:
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "epoch", epoch))
            # A step reads forward, so an order is never needed again once another has been made.
            self._orders = {epoch: torch.randperm(self._num_samples, generator=generator)}
        return self._orders[epoch]


class SequentialBatchSampler(StepBatchSampler):
    """Takes each sample once, in the order of the dataset; the last step and micro-batch may be smaller.

    Args:
        num_samples: How many samples the dataset has.
        global_batch_size: How many samples a step takes.
        micro_batch_size: How many samples a micro-batch takes; divides the former.
        stepper: Knows the steps; `num_steps` says how many there must be.
    """

    def __init__(self, *, num_samples: int, global_batch_size: int, micro_batch_size: int, stepper: Stepper) -> None:
        super().__init__(stepper)
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
        """Return the number of micro-batches of the whole run."""
        return math.ceil(self._num_samples / self._micro_batch_size)

    def micro_batches(self, step: int) -> list[list[int]]:  # noqa: D102 -- inherited
        start = step * self._global_batch_size
        stop = min(start + self._global_batch_size, self._num_samples)
        return [
            list(range(position, min(position + self._micro_batch_size, stop)))
            for position in range(start, stop, self._micro_batch_size)
        ]
