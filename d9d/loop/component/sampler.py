"""Which samples each process reads in each step."""

import abc
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from d9d.core.seed import derive_seed
from d9d.core.settings import ConfigurationError
from d9d.core.stepper import Stepper

__all__ = [
    "DataShare",
    "Epochs",
    "MicroBatchSamples",
    "Pass",
    "SequentialBatchSampler",
    "SequentialSteps",
    "ShufflingBatchSampler",
    "StepBatchSampler",
]


class MicroBatchSamples(list[int]):
    """The indices of the samples of one micro-batch, and its position in the run.

    Args:
        samples: The indices of the samples.
        step: The index of the step.
        number: The index of the micro-batch among those that all processes have in this step.
        is_repeated: Whether another process has the same micro-batch, and this one runs it only to stay in step.
    """

    __slots__ = ("is_repeated", "number", "step")

    def __init__(self, samples: Iterable[int], step: int, number: int, *, is_repeated: bool = False) -> None:
        super().__init__(samples)
        self.step = step
        self.number = number
        self.is_repeated = is_repeated

    def __reduce__(self) -> tuple[type["MicroBatchSamples"], tuple[list[int], int, int]]:
        """Pickle what a worker process needs: the indices and the position."""
        return MicroBatchSamples, (list(self), self.step, self.number)


@dataclasses.dataclass(frozen=True)
class DataShare:
    """Which of the micro-batches of a step a process has: those whose number is `index` modulo `count`.

    Attributes:
        index: The index of this share.
        count: How many shares there are.
    """

    index: int = 0
    count: int = 1


# So many steps are planned at a time: between the operators of a step, the same code takes several times as long.
_PLAN_SAMPLES = 1024


class StepBatchSampler(Sampler[list[int]], abc.ABC):
    """Yields the micro-batches of all remaining steps of a stepper, so that resuming needs nothing but the step.

    The samples of a step, and how they are divided into micro-batches, are the same for any number of processes.

    Args:
        global_batch_size: How many samples a step takes, in all processes together.
        micro_batch_size: How many samples a micro-batch takes. Times the number of shares it divides
            `global_batch_size`.
        stepper: Its current step, when iteration begins, is the first one to be sampled.
        share: Which of the micro-batches this process has.
    """

    def __init__(
        self,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        stepper: Stepper,
        share: DataShare = DataShare(),
    ) -> None:
        self._global_batch_size = global_batch_size
        self._micro_batch_size = micro_batch_size
        self._stepper = stepper
        self._share = share
        self._plan: tuple[int, list[list[MicroBatchSamples]]] = (0, [])
        self._planned_from: tuple[int, ...] = ()

    @abc.abstractmethod
    def _num_in_step(self, step: int) -> int:
        """Return how many samples a step takes, in all processes together."""

    @abc.abstractmethod
    def _samples(self, start: int, stop: int) -> Sequence[int]:
        """Return the samples at some positions, counted over all steps."""

    @property
    @abc.abstractmethod
    def _origin(self) -> tuple[int, ...]:
        """Where the order of the samples begins. It changes when a run resumes, which may be after a first look."""

    def _forget(self) -> None:
        """Forget what was planned from another origin."""
        self._plan = (0, [])

    def micro_batches(self, step: int) -> list[MicroBatchSamples]:
        """Return the micro-batches that this process has in a step.

        Args:
            step: The index of the step.

        Returns:
            The micro-batches, in order.
        """
        if self._planned_from != self._origin:
            self._forget()
            self._planned_from = self._origin
        first, planned = self._plan
        if not 0 <= step - first < len(planned):
            stop = min(step + max(1, _PLAN_SAMPLES // self._global_batch_size), self._stepper.total_steps)
            first, planned = self._plan = step, [self._divide(each) for each in range(step, stop)]
        return planned[step - first]

    def __iter__(self) -> Iterator[list[int]]:
        """Yield each micro-batch from the current step on."""
        for step in range(self._stepper.current_step, self._stepper.total_steps):
            yield from self.micro_batches(step)

    def __len__(self) -> int:
        """Return how many micro-batches this process has in the whole run."""
        first, last = self._first_step, self._stepper.total_steps - 1
        return max(last - first, 0) * len(self._numbers(first)) + len(self._numbers(last))

    @property
    def _first_step(self) -> int:
        """The first step that takes as many samples as the steps that follow."""
        return 0

    def _start(self, step: int) -> int:
        """Return how many samples the steps before a step take."""
        return step * self._global_batch_size

    def _numbers(self, step: int) -> range:
        """Return the numbers of the micro-batches that this process has in a step.

        All processes have equally many, because they run the model together. Numbers past the last micro-batch of the
        step stand for a repetition of it.
        """
        num_micro_batches = math.ceil(self._num_in_step(step) / self._micro_batch_size)
        stop = math.ceil(num_micro_batches / self._share.count) * self._share.count
        return range(self._share.index, stop, self._share.count)

    def _divide(self, step: int) -> list[MicroBatchSamples]:
        start, size = self._start(step), self._micro_batch_size
        stop = start + self._num_in_step(step)
        last = (stop - start - 1) // size
        micro_batches = []
        for number in self._numbers(step):
            existing = min(number, last)
            first = start + existing * size
            samples = self._samples(first, min(first + size, stop))
            micro_batches.append(MicroBatchSamples(samples, step, existing, is_repeated=number > last))
        return micro_batches


class Pass(NamedTuple):
    """A pass over a dataset, in which every sample is taken once.

    Attributes:
        epoch: Its number, from 0.
        num_samples: How many samples the dataset has in it.
        seed: The seed of its order.
    """

    epoch: int
    num_samples: int
    seed: int


_NO_PASSES = range(0)


class Epochs:
    """The passes over a dataset: which samples each step takes, and which passes start and finish in it.

    The samples of all steps follow one another. So a step may hold the start or the end of several passes, of one, or
    of none. A run that resumes with another seed, dataset or batch size finishes the pass that runs in its old order,
    from the first sample that it has not taken.

    Args:
        num_samples: How many samples the dataset has.
        global_batch_size: How many samples a step takes, in all processes together.
        seed: The seed of all orders.

    Attributes:
        origin: Where the passes begin: the first step, the pass that runs then, and how much of it was read before.
    """

    def __init__(self, num_samples: int, global_batch_size: int, seed: int = 0) -> None:
        self._num_samples = num_samples
        self._global_batch_size = global_batch_size
        self._seed = seed
        self._first_step = 0
        self._first_pass = Pass(0, num_samples, seed)
        self._first_offset = 0  # how many samples of the first pass were taken before the first step
        self.origin: tuple[int, ...] = (0, *self._first_pass, 0)
        self._without_limits = range(0)  # steps in which no pass starts or finishes, as far as was looked ahead

    def locate(self, position: int) -> tuple[Pass, int]:
        """Find a sample.

        Args:
            position: Its position among the samples of all steps: step times samples per step, plus its number there.

        Returns:
            Its pass, and its number in the order of the pass.
        """
        taken = position - self._first_step * self._global_batch_size + self._first_offset
        if taken < self._first_pass.num_samples:
            return self._first_pass, taken
        number, offset = divmod(taken - self._first_pass.num_samples, self._num_samples)
        return Pass(self._first_pass.epoch + 1 + number, self._num_samples, self._seed), offset

    def started_in(self, step: int) -> range:
        """Return the passes, counted from 0, whose first sample a step takes.

        Args:
            step: The index of the step.
        """
        if step in self._without_limits:
            return _NO_PASSES
        return range(self._started_before(step), self._started_before(step + 1))

    def finished_in(self, step: int) -> range:
        """Return the passes, counted from 0, whose last sample a step takes.

        Args:
            step: The index of the step.
        """
        if step in self._without_limits:
            return _NO_PASSES
        (current, offset), size = self.locate(step * self._global_batch_size), self._global_batch_size
        # Most steps lie within a pass, so the next ones are looked at together.
        self._without_limits = range(step + (offset == 0), step + (current.num_samples - offset - 1) // size)
        return range(current.epoch, self.locate((step + 1) * size)[0].epoch)

    def is_due(self, period_epochs: int, step: int) -> bool:
        """Return whether a step takes the last sample of a pass that completes a period.

        Args:
            period_epochs: The period in passes.
            step: The index of the step.
        """
        finished = self.finished_in(step)
        return finished.stop // period_epochs > finished.start // period_epochs

    def position_at(self, step: int) -> dict[str, int]:
        """Describe where a step starts, for a checkpoint.

        Args:
            step: The index of the step.

        Returns:
            The step, the pass that runs then with its size and seed, and how many of its samples were taken.
        """
        current, offset = self.locate(step * self._global_batch_size)
        return {"step": step, **current._asdict(), "offset": offset}

    def resume_at(self, position: Mapping[str, int]) -> None:
        """Go on where a checkpoint was saved.

        Args:
            position: What `position_at` returned.

        Raises:
            ConfigurationError: If the dataset has become smaller in the middle of a pass.
        """
        current = Pass(position["epoch"], position["num_samples"], position["seed"])
        if position["offset"] == 0:  # no sample of this pass is taken yet, so it follows the new order
            current = Pass(current.epoch, self._num_samples, self._seed)
        if current.num_samples > self._num_samples:
            raise ConfigurationError(
                f"the dataset has {self._num_samples} samples, and the checkpoint was saved in the middle of a pass "
                f"over {current.num_samples}, of which {current.num_samples - position['offset']} are still to be "
                "read: a dataset may grow within a pass, but not shrink. Restore its samples"
            )
        self._first_step, self._first_pass, self._first_offset = position["step"], current, position["offset"]
        self.origin = (self._first_step, *current, self._first_offset)
        self._without_limits = range(0)

    def _started_before(self, step: int) -> int:
        current, offset = self.locate(step * self._global_batch_size)
        return current.epoch + (offset > 0)


# Indices are converted to Python integers in blocks of this size: many steps at a time, and a small part of an epoch.
_BLOCK_SAMPLES = 8192


class ShufflingBatchSampler(StepBatchSampler):
    """Takes the samples in a new random order each epoch, for as many epochs as the steps need.

    A step may extend into the next epoch, so all steps have the same size and no sample is left out.

    Args:
        seed: The seed of the job, which determines all orders.
        epochs: The passes over the dataset; by default those of a run that starts fresh.
        num_samples: How many samples the dataset has.
        global_batch_size: As in `StepBatchSampler`, like all that follow.
        micro_batch_size: See there.
        stepper: See there.
        share: See there.
    """

    def __init__(
        self,
        *,
        seed: int,
        num_samples: int,
        global_batch_size: int,
        micro_batch_size: int,
        stepper: Stepper,
        share: DataShare = DataShare(),
        epochs: Epochs | None = None,
    ) -> None:
        super().__init__(
            global_batch_size=global_batch_size, micro_batch_size=micro_batch_size, stepper=stepper, share=share
        )
        self._epochs = Epochs(num_samples, global_batch_size, seed) if epochs is None else epochs
        self._order: tuple[Pass | None, torch.Tensor] = (None, torch.empty(0))
        self._block: tuple[int, list[int]] = (0, [])

    @property
    def _origin(self) -> tuple[int, ...]:
        return self._epochs.origin

    def _forget(self) -> None:
        super()._forget()
        self._block = (0, [])

    def _num_in_step(self, step: int) -> int:
        del step
        return self._global_batch_size

    def _samples(self, start: int, stop: int) -> list[int]:
        block_start, block = self._block
        samples = block[start - block_start : stop - block_start] if start >= block_start else []
        while len(samples) < stop - start:
            position = start + len(samples)
            self._block = position, self._read(position)
            samples += self._block[1][: stop - position]
        return samples

    def _read(self, start: int) -> list[int]:
        """Return the block of samples from a position on, which ends with its epoch at the latest."""
        current, position = self._epochs.locate(start)
        if self._order[0] != current:
            generator = torch.Generator().manual_seed(derive_seed(current.seed, "epoch", current.epoch))
            self._order = current, torch.randperm(current.num_samples, generator=generator)
        block: list[int] = self._order[1][position : position + _BLOCK_SAMPLES].tolist()
        return block


class SequentialSteps:
    """Which samples of a dataset the steps take that read each sample once, in order. The last step may have fewer.

    A run that resumes with another dataset or batch size continues at the first sample that it has not taken.

    Args:
        num_samples: How many samples the dataset has.
        global_batch_size: How many samples a step takes, in all processes together.

    Attributes:
        first_step: The step from which on all steps but the last take `global_batch_size` samples.
    """

    def __init__(self, num_samples: int, global_batch_size: int) -> None:
        self._num_samples = num_samples
        self.global_batch_size = global_batch_size
        self.first_step = 0
        self._first_sample = 0

    @property
    def origin(self) -> tuple[int, ...]:
        """Where these steps begin: the first step, and its first sample."""
        return self.first_step, self._first_sample

    @property
    def num_steps(self) -> int:
        """How many steps it takes, with those before a change."""
        return self.first_step + math.ceil((self._num_samples - self._first_sample) / self.global_batch_size)

    def start_of(self, step: int) -> int:
        """Return the first sample of a step, which is the number of those before it.

        Args:
            step: The index of the step, not before a change.
        """
        start = self._first_sample + (step - self.first_step) * self.global_batch_size
        return min(start, self._num_samples)

    def position_at(self, step: int) -> dict[str, int]:
        """Describe where a step starts, for a checkpoint.

        Args:
            step: The index of the step.
        """
        return {"step": step, "sample": self.start_of(step)}

    def resume_at(self, position: Mapping[str, int]) -> None:
        """Continue where a checkpoint was saved.

        Args:
            position: What `position_at` returned.

        Raises:
            ConfigurationError: If the dataset has fewer samples than were taken.
        """
        step, sample = position["step"], position["sample"]
        if sample > self._num_samples:
            raise ConfigurationError(
                f"the dataset has {self._num_samples} samples, and the checkpoint was saved after {sample}: restore "
                "its samples, or start fresh in another checkpointing.folder"
            )
        if self.start_of(step) != sample or self.num_steps < step:
            self.first_step, self._first_sample = step, sample


class SequentialBatchSampler(StepBatchSampler):
    """Takes each sample once, in the order of the dataset. The last step and its last micro-batch may be smaller.

    If the last step has too few micro-batches for all processes, some repeat its last one.

    Args:
        steps: Which samples each step takes.
        micro_batch_size: As in `StepBatchSampler`, like all that follow.
        stepper: See there.
        share: See there.
    """

    def __init__(
        self, steps: SequentialSteps, *, micro_batch_size: int, stepper: Stepper, share: DataShare = DataShare()
    ) -> None:
        super().__init__(
            global_batch_size=steps.global_batch_size, micro_batch_size=micro_batch_size, stepper=stepper, share=share
        )
        self._steps = steps

    @property
    def _origin(self) -> tuple[int, ...]:
        return self._steps.origin

    @property
    def _first_step(self) -> int:
        return self._steps.first_step

    def _start(self, step: int) -> int:
        return self._steps.start_of(step)

    def _num_in_step(self, step: int) -> int:
        return self._steps.start_of(step + 1) - self._steps.start_of(step)

    def _samples(self, start: int, stop: int) -> range:
        return range(start, stop)
