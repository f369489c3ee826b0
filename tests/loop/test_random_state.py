"""The random number generators that user code draws from are seeded, saved and restored."""

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
    """Draw from each generator, leaving half of a pair of Gaussian numbers in some."""
    return [
        float(torch.rand(())),
        float(torch.randn(())),
        random.random(),  # noqa: S311 -- not for secrets
        random.gauss(0.0, 1.0),
        float(np.random.rand()),
        float(np.random.randn()),
    ]


def test_a_seed_restarts_all_generators(state: RandomState) -> None:
    """They return the same numbers again."""
    state.seed(3)
    first = draw()
    state.seed(3)

    assert draw() == first


@pytest.mark.parametrize("other", [4, 2**32 + 3, 2**63 - 1])
def test_another_seed_gives_other_numbers(state: RandomState, other: int) -> None:
    """Seeds have up to 63 bits, of which numpy gets 32."""
    state.seed(3)
    first = draw()
    state.seed(other)
    second = draw()

    assert first[:4] != second[:4]


@pytest.mark.parametrize("num_draws", [0, 1, 2, 700])
def test_generators_continue_from_their_saved_state(state: RandomState, num_draws: int) -> None:
    """After any number of draws, and through the format of a checkpoint."""
    state.seed(5)
    for _ in range(num_draws):
        draw()
    tensors, metadata = split_state(state.state_dict())
    expected = [draw(), draw()]
    state.seed(6)

    state.load_state_dict(join_state(metadata, {path: tensor.clone() for path, tensor in tensors.items()}))

    assert [draw(), draw()] == expected


def test_saving_the_state_draws_nothing(state: RandomState) -> None:
    """A run that saves draws the same numbers as one that does not."""
    state.seed(5)
    expected = draw()
    state.seed(5)
    state.state_dict()

    assert draw() == expected
