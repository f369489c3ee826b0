"""The samples of a step are a pure function of the seed and the step."""

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from d9d.core.stepper import Stepper
from d9d.loop.component.sampler import Epochs, SequentialBatchSampler, SequentialSteps, ShufflingBatchSampler

sizes = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda pair: (pair[0] * pair[1], pair[1]))
nums_samples = st.integers(1, 30)
seeds = st.integers(0, 2**63)


def shuffling(
    num_samples: int, batch: tuple[int, int], seed: int = 0, *, total_steps: int = 12, current_step: int = 0
) -> ShufflingBatchSampler:
    """Make a sampler; `batch` has the global and the micro-batch size."""
    return ShufflingBatchSampler(
        num_samples=num_samples,
        global_batch_size=batch[0],
        micro_batch_size=batch[1],
        seed=seed,
        stepper=Stepper(total_steps, current_step),
    )


def sequential(num_samples: int, batch: tuple[int, int], *, current_step: int = 0) -> SequentialBatchSampler:
    """Make a sampler; `batch` has the global and the micro-batch size."""
    steps = SequentialSteps(num_samples, batch[0])
    return SequentialBatchSampler(steps, micro_batch_size=batch[1], stepper=Stepper(steps.num_steps, current_step))


def flat(batches: Sequence[Sequence[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


@given(nums_samples, sizes, seeds)
def test_each_epoch_is_a_permutation(num_samples: int, batch: tuple[int, int], seed: int) -> None:
    """Each complete epoch has each sample once, wherever steps begin and end."""
    samples = flat(list(shuffling(num_samples, batch, seed)))
    epochs = [samples[start : start + num_samples] for start in range(0, len(samples), num_samples)]

    for epoch in epochs[:-1]:
        assert sorted(epoch) == list(range(num_samples))
    assert max(Counter(epochs[-1]).values()) == 1


@given(nums_samples, sizes, seeds, st.integers(0, 12))
def test_resuming_at_a_step_yields_the_rest(num_samples: int, batch: tuple[int, int], seed: int, start: int) -> None:
    """Resuming needs only the step."""
    whole = list(shuffling(num_samples, batch, seed))
    tail = list(shuffling(num_samples, batch, seed, current_step=start))

    assert tail == whole[start * (batch[0] // batch[1]) :]


@given(nums_samples, sizes, seeds, st.lists(st.integers(0, 11), max_size=6))
def test_a_step_is_the_same_whenever_it_is_requested(
    num_samples: int, batch: tuple[int, int], seed: int, steps: list[int]
) -> None:
    """In any order, and repeatedly."""
    sampler = shuffling(num_samples, batch, seed)

    for step in steps:
        assert sampler.micro_batches(step) == shuffling(num_samples, batch, seed).micro_batches(step)


@given(nums_samples, st.integers(1, 4), st.integers(1, 4), seeds)
def test_the_samples_of_a_step_do_not_depend_on_the_micro_batch_size(
    num_samples: int, micro: int, factor: int, seed: int
) -> None:
    """The micro-batches together are the global batch."""
    size = micro * factor

    assert flat(list(shuffling(num_samples, (size, micro), seed))) == flat(
        list(shuffling(num_samples, (size, size), seed))
    )


@given(nums_samples, sizes, seeds)
def test_all_micro_batches_are_full(num_samples: int, batch: tuple[int, int], seed: int) -> None:
    """Also those of a step that extends into the next epoch."""
    sampler = shuffling(num_samples, batch, seed)
    batches = list(sampler)

    assert {len(samples) for samples in batches} == {batch[1]}
    assert len(batches) == len(sampler) == 12 * (batch[0] // batch[1])


@given(st.integers(12, 60), seeds, seeds)
def test_each_seed_and_epoch_has_its_own_order(num_samples: int, seed: int, other: int) -> None:
    """No epoch of one seed has the order of an epoch of another."""
    assume(seed != other)
    whole = (num_samples, num_samples)
    orders = [tuple(order) for each in (seed, other) for order in shuffling(num_samples, whole, each, total_steps=3)]

    assert len(set(orders)) == 6


def test_orders_are_the_same_on_every_machine() -> None:
    """They must not change, because checkpoints resume with them."""
    assert list(shuffling(5, (4, 2), seed=3, total_steps=3)) == [[1, 0], [2, 3], [4, 4], [2, 0], [1, 3], [3, 4]]


@given(nums_samples, sizes)
def test_the_sequential_sampler_takes_each_sample_once_and_in_order(num_samples: int, batch: tuple[int, int]) -> None:
    """In as many micro-batches as its length."""
    sampler = sequential(num_samples, batch)
    batches = list(sampler)

    assert flat(batches) == list(range(num_samples))
    assert len(batches) == len(sampler)
    assert {len(samples) for samples in batches[:-1]} <= {batch[1]}


@given(nums_samples, sizes, st.data())
def test_the_sequential_sampler_resumes_at_a_step(
    num_samples: int, batch: tuple[int, int], data: st.DataObject
) -> None:
    """With the sample after those of the earlier steps."""
    start = data.draw(st.integers(0, SequentialSteps(num_samples, batch[0]).num_steps))

    assert (
        flat(list(sequential(num_samples, batch, current_step=start))) == list(range(num_samples))[start * batch[0] :]
    )


@given(nums_samples, sizes)
def test_only_the_last_step_of_the_sequential_sampler_may_be_smaller(num_samples: int, batch: tuple[int, int]) -> None:
    """It has the remaining samples, and is not empty."""
    sampler = sequential(num_samples, batch)
    num_steps = SequentialSteps(num_samples, batch[0]).num_steps
    counts = [len(flat(sampler.micro_batches(step))) for step in range(num_steps)]

    assert counts[:-1] == [batch[0]] * (num_steps - 1)
    assert 1 <= counts[-1] <= batch[0]


@pytest.mark.parametrize(("num_samples", "num_steps"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_the_number_of_steps_is_rounded_up(num_samples: int, num_steps: int) -> None:
    """The last step takes the remaining samples."""
    assert SequentialSteps(num_samples, 4).num_steps == num_steps


def test_an_epoch_longer_than_a_block_is_complete() -> None:
    """Also if a run resumes in the middle of a block."""
    num_samples, batch = 20_001, (7, 7)
    num_steps = num_samples // 7
    samples = flat(list(shuffling(num_samples, batch, total_steps=num_steps)))

    assert len(set(samples)) == num_steps * 7
    resumed = flat(list(shuffling(num_samples, batch, total_steps=num_steps, current_step=1_500)))
    assert resumed == samples[1_500 * 7 :]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 12))
def test_epochs_start_and_finish_in_the_steps_that_take_their_first_and_last_samples(
    num_samples: int, global_batch_size: int, step: int
) -> None:
    """A step starts the epochs whose first sample it takes, and finishes those whose last sample it takes."""
    epochs = Epochs(num_samples, global_batch_size)
    positions = range(step * global_batch_size, (step + 1) * global_batch_size)

    first = [position // num_samples for position in positions if position % num_samples == 0]
    last = [position // num_samples for position in positions if position % num_samples == num_samples - 1]

    assert [*epochs.started_in(step)] == first
    assert [*epochs.finished_in(step)] == last


def test_the_epochs_of_a_long_run_are_exact() -> None:
    """Also where the number of samples exceeds the integers that a float can represent."""
    epochs = Epochs(num_samples=2**53 + 1, global_batch_size=2**53 + 1)

    assert epochs.started_in(7) == epochs.finished_in(7) == range(7, 8)


@given(nums_samples, sizes, nums_samples, sizes, st.data())
def test_sequential_steps_continue_at_the_first_sample_that_was_not_taken(
    before: int, batch: tuple[int, int], more: int, new_batch: tuple[int, int], data: st.DataObject
) -> None:
    """With more samples, and other sizes of batches."""
    first = SequentialSteps(before, batch[0])
    step = data.draw(st.integers(0, first.num_steps))
    second = SequentialSteps(before + more - 1, new_batch[0])
    stepper = Stepper(second.num_steps)
    sampler = SequentialBatchSampler(second, micro_batch_size=new_batch[1], stepper=stepper)
    list(sampler)  # a first look, before the run resumes

    second.resume_at(first.position_at(step))
    stepper.set_total_steps(second.num_steps)
    stepper.load_state_dict({"current_step": step})
    taken = list(sampler)

    assert flat(taken) == [*range(min(step * batch[0], before), before + more - 1)]
    assert max(map(len, taken), default=0) <= new_batch[1]
    assert second.position_at(second.num_steps) == {"step": second.num_steps, "sample": before + more - 1}
