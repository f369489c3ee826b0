"""Which samples a step takes is a pure function of the seed and the step."""

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from d9d.core.stepper import Stepper
from d9d.loop.component.sampler import SequentialBatchSampler, ShufflingBatchSampler

sizes = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda pair: (pair[0] * pair[1], pair[1]))
nums_samples = st.integers(1, 30)
seeds = st.integers(0, 2**63)


def shuffling(
    num_samples: int, batch: tuple[int, int], seed: int = 0, *, total_steps: int = 12, current_step: int = 0
) -> ShufflingBatchSampler:
    """Make a sampler of a global and a micro-batch size."""
    return ShufflingBatchSampler(
        num_samples=num_samples,
        global_batch_size=batch[0],
        micro_batch_size=batch[1],
        seed=seed,
        stepper=Stepper(total_steps, current_step),
    )


def sequential(num_samples: int, batch: tuple[int, int], *, current_step: int = 0) -> SequentialBatchSampler:
    """Make a sampler of a global and a micro-batch size."""
    return SequentialBatchSampler(
        num_samples=num_samples,
        global_batch_size=batch[0],
        micro_batch_size=batch[1],
        stepper=Stepper(SequentialBatchSampler.num_steps(num_samples, batch[0]), current_step),
    )


def flat(batches: Sequence[Sequence[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


@given(nums_samples, sizes, seeds)
def test_each_epoch_is_a_permutation(num_samples: int, batch: tuple[int, int], seed: int) -> None:
    """Cut wherever steps cut it, each whole epoch holds each sample once."""
    samples = flat(list(shuffling(num_samples, batch, seed)))
    epochs = [samples[start : start + num_samples] for start in range(0, len(samples), num_samples)]

    for epoch in epochs[:-1]:
        assert sorted(epoch) == list(range(num_samples))
    assert max(Counter(epochs[-1]).values()) == 1


@given(nums_samples, sizes, seeds, st.integers(0, 12))
def test_starting_late_gives_the_tail(num_samples: int, batch: tuple[int, int], seed: int, start: int) -> None:
    """Resuming needs the step alone."""
    whole = list(shuffling(num_samples, batch, seed))
    tail = list(shuffling(num_samples, batch, seed, current_step=start))

    assert tail == whole[start * (batch[0] // batch[1]) :]


@given(nums_samples, sizes, seeds, st.lists(st.integers(0, 11), max_size=6))
def test_a_step_is_the_same_whenever_it_is_asked_for(
    num_samples: int, batch: tuple[int, int], seed: int, steps: list[int]
) -> None:
    """In any order, and again."""
    sampler = shuffling(num_samples, batch, seed)

    for step in steps:
        assert sampler.micro_batches(step) == shuffling(num_samples, batch, seed).micro_batches(step)


@given(nums_samples, st.integers(1, 4), st.integers(1, 4), seeds)
def test_how_a_step_is_cut_does_not_matter(num_samples: int, micro: int, factor: int, seed: int) -> None:
    """The micro-batches, one after the other, are the global batch."""
    size = micro * factor

    assert flat(list(shuffling(num_samples, (size, micro), seed))) == flat(
        list(shuffling(num_samples, (size, size), seed))
    )


@given(nums_samples, sizes, seeds)
def test_all_micro_batches_are_full(num_samples: int, batch: tuple[int, int], seed: int) -> None:
    """A step that reaches over the end of an epoch is as large as any other."""
    sampler = shuffling(num_samples, batch, seed)
    batches = list(sampler)

    assert {len(samples) for samples in batches} == {batch[1]}
    assert len(batches) == len(sampler) == 12 * (batch[0] // batch[1])


@given(st.integers(12, 60), seeds, seeds)
def test_seeds_and_epochs_have_orders_of_their_own(num_samples: int, seed: int, other: int) -> None:
    """Neither another seed nor another epoch repeats an order; and no epoch of one seed is that of another."""
    assume(seed != other)
    whole = (num_samples, num_samples)
    orders = [tuple(order) for each in (seed, other) for order in shuffling(num_samples, whole, each, total_steps=3)]

    assert len(set(orders)) == 6


def test_orders_are_the_same_on_every_machine() -> None:
    """These have been drawn once, and are what a checkpoint of today will be resumed with tomorrow."""
    assert list(shuffling(5, (4, 2), seed=3, total_steps=3)) == [[1, 0], [2, 3], [4, 4], [2, 0], [1, 3], [3, 4]]


@given(nums_samples, sizes)
def test_the_sequential_sampler_takes_each_sample_once_and_in_order(num_samples: int, batch: tuple[int, int]) -> None:
    """In as many micro-batches as it says."""
    sampler = sequential(num_samples, batch)
    batches = list(sampler)

    assert flat(batches) == list(range(num_samples))
    assert len(batches) == len(sampler)
    assert {len(samples) for samples in batches[:-1]} <= {batch[1]}


@given(nums_samples, sizes, st.data())
def test_the_sequential_sampler_starts_late_too(num_samples: int, batch: tuple[int, int], data: st.DataObject) -> None:
    """Its tail begins where the steps before it have ended."""
    start = data.draw(st.integers(0, SequentialBatchSampler.num_steps(num_samples, batch[0])))

    assert (
        flat(list(sequential(num_samples, batch, current_step=start))) == list(range(num_samples))[start * batch[0] :]
    )


@given(nums_samples, sizes)
def test_the_steps_of_the_sequential_sampler_are_full_but_for_the_last(
    num_samples: int, batch: tuple[int, int]
) -> None:
    """The last one takes what is left, and is not empty."""
    sampler = sequential(num_samples, batch)
    num_steps = SequentialBatchSampler.num_steps(num_samples, batch[0])
    counts = [len(flat(sampler.micro_batches(step))) for step in range(num_steps)]

    assert counts[:-1] == [batch[0]] * (num_steps - 1)
    assert 1 <= counts[-1] <= batch[0]


@pytest.mark.parametrize(("num_samples", "num_steps"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_there_are_as_many_steps_as_samples_need(num_samples: int, num_steps: int) -> None:
    """Rounded up."""
    assert SequentialBatchSampler.num_steps(num_samples, 4) == num_steps


def test_an_epoch_longer_than_what_is_read_at_a_time_is_whole() -> None:
    """Blocks of an order are read one after the other, and again where a run begins in the middle."""
    num_samples, batch = 20_001, (7, 7)
    num_steps = num_samples // 7
    samples = flat(list(shuffling(num_samples, batch, total_steps=num_steps)))

    assert len(set(samples)) == num_steps * 7
    resumed = flat(list(shuffling(num_samples, batch, total_steps=num_steps, current_step=1_500)))
    assert resumed == samples[1_500 * 7 :]
