"""The random number generators that user code draws from are seeded, and carried over a restart."""

import random

import numpy as np
import pytest
import torch

from d9d.loop.component.checkpoint.state_dict import join_state, split_state
from d9d.loop.component.random_state import RandomState


@pytest.fixture
def state() -> RandomState:
    """The generators of a process on the CPU."""
    return RandomState(torch.device("cpu"))


def draw() -> list[float]:
    """Draw from each generator, in ways that leave halves of pairs behind."""
    return [
        float(torch.rand(())),
        float(torch.randn(())),
        random.random(),  # noqa: S311 -- not for secrets
        random.gauss(0.0, 1.0),
        float(np.random.rand()),
        float(np.random.randn()),
    ]


def test_a_seed_begins_all_streams_anew(state: RandomState) -> None:
    """The same numbers come again."""
    state.seed(3)
    first = draw()
    state.seed(3)

    assert draw() == first


@pytest.mark.parametrize("other", [4, 2**32 + 3, 2**63 - 1])
def test_another_seed_begins_other_streams(state: RandomState, other: int) -> None:
    """Seeds may be of 63 bits; numpy's generator takes 32 of them."""
    state.seed(3)
    first = draw()
    state.seed(other)
    second = draw()

    assert first[:4] != second[:4]


@pytest.mark.parametrize("num_draws", [0, 1, 2, 700])
def test_streams_go_on_from_where_they_were(state: RandomState, num_draws: int) -> None:
    """Wherever that was, through the form in which a checkpoint keeps it."""
    state.seed(5)
    for _ in range(num_draws):
        draw()
    tensors, outline = split_state(state.state_dict())
    expected = [draw(), draw()]
    state.seed(6)

    state.load_state_dict(join_state(outline, {path: tensor.clone() for path, tensor in tensors.items()}))

    assert [draw(), draw()] == expected


def test_taking_the_state_draws_nothing(state: RandomState) -> None:
    """A run that saves draws the same numbers as one that does not."""
    state.seed(5)
    expected = draw()
    state.seed(5)
    state.state_dict()

    assert draw() == expected
