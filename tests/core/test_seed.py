"""A seed is derived from the name of its random stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d9d.core.seed import derive_seed

parts = st.lists(st.integers() | st.text(), max_size=4)


@given(parts, parts)
def test_different_names_have_different_seeds(first: list[int | str], second: list[int | str]) -> None:
    """Equal names have equal seeds."""
    assert (derive_seed(*first) == derive_seed(*second)) == (first == second)


@given(parts)
def test_a_seed_has_63_bits(names: list[int | str]) -> None:
    """So every generator accepts it, signed or not."""
    assert 0 <= derive_seed(*names) < 2**63


def test_neighbouring_streams_are_unrelated() -> None:
    """Epoch 1 of seed 0 is not epoch 0 of seed 1."""
    seeds = {derive_seed(seed, "epoch", epoch) for seed in range(100) for epoch in range(100)}

    assert len(seeds) == 10_000


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), 2847183694713211083),
        ((0,), 2631537505891389924),
        ((0, "epoch", 1), 65714578822508956),
        ((3, "data_loader"), 1662557121816725058),
    ],
)
def test_seeds_are_the_same_on_every_machine(names: tuple[int | str, ...], expected: int) -> None:
    """A checkpoint can be resumed anywhere, and by later versions."""
    assert derive_seed(*names) == expected
