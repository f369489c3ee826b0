"""State of tensors and plain values is split and joined without loss."""

import json
import math
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d9d.loop.component.checkpoint.state_dict import (
    StateError,
    allocate_tensors,
    describe_state,
    join_state,
    split_state,
)
from d9d.loop.component.checkpoint.storage import Checkpoint

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
]
SHAPES = [[], [1], [0], [3, 0, 2], [2, 3], [1, 1, 1, 1, 5]]

tensors = st.builds(
    lambda shape, dtype, seed: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    st.sampled_from(SHAPES),
    st.sampled_from(DTYPES),
    st.integers(0, 99),
)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | tensors
# No two keys of one dict may read alike, and no key like a path: the names of tensors would clash.
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/0123456789-")) | st.integers()
states = st.dictionaries(
    keys,
    st.recursive(
        values,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(keys, inner, max_size=3)
        ),
        max_leaves=12,
    ),
    max_size=4,
)


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """View a tensor as bytes, so that NaN equals itself and every dtype can be compared."""
    return tensor.flatten().contiguous().view(torch.uint8)


def is_same(left: Any, right: Any) -> bool:
    """Return whether two states are equal in structure, types and, bit for bit, in tensors."""
    if isinstance(left, torch.Tensor):
        return (
            isinstance(right, torch.Tensor)
            and (left.dtype, left.shape) == (right.dtype, right.shape)
            and torch.equal(bytes_of(left), bytes_of(right))
        )
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(is_same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(is_same, left, right))
    return bool(left == right and math.copysign(1, left) == math.copysign(1, right)) if left == 0 else left == right


@given(states)
def test_state_is_split_and_joined_without_loss(state: dict[Any, Any]) -> None:
    """Through JSON text: keys keep their types, and tuples and lists stay what they are."""
    parts, metadata = split_state(state)

    assert is_same(join_state(json.loads(json.dumps(metadata)), parts), state)


@given(states)
def test_metadata_is_enough_to_allocate_each_tensor(state: dict[Any, Any]) -> None:
    """With its dtype and shape."""
    parts, metadata = split_state(state)
    allocated = allocate_tensors(metadata)

    assert {path: (tensor.dtype, tensor.shape) for path, tensor in allocated.items()} == {
        path: (part.dtype, part.shape) for path, part in parts.items()
    }


@given(states)
def test_a_description_passes_through_json_unchanged(state: dict[Any, Any]) -> None:
    """As it does in the manifest of a checkpoint."""
    described = describe_state(state)

    assert json.loads(json.dumps(described)) == described


@settings(deadline=None, max_examples=25)
@given(states)
def test_state_is_saved_and_read_without_loss(state: dict[Any, Any]) -> None:
    """On disk it is the same as in memory."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint.write(Path(folder), 1, state, {})

        assert checkpoint.problem() is None
        assert is_same(checkpoint.read(), state)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tensors_of_each_dtype_and_shape_are_saved(dtype: torch.dtype, shape: list[int], tmp_path: Path) -> None:
    """Scalars and empty tensors included."""
    tensor = torch.randint(0, 2, shape).to(dtype)

    assert is_same(Checkpoint.write(tmp_path, 1, {"tensor": tensor}, {}).read(), {"tensor": tensor})


def test_tensors_that_are_not_contiguous_are_saved(tmp_path: Path) -> None:
    """Transposed, strided and expanded ones, and views of larger ones."""
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"turned": whole.T, "strided": whole[::2, 1::2], "row": whole[2], "expanded": torch.ones(1).expand(3)}

    assert is_same(Checkpoint.write(tmp_path, 1, state, {}).read(), state)


def test_numbers_that_are_not_finite_are_saved(tmp_path: Path) -> None:
    """Infinities and NaN, in JSON and in tensors."""
    state = {"infinite": math.inf, "undefined": math.nan, "tensor": torch.tensor([math.inf, math.nan])}
    read = Checkpoint.write(tmp_path, 1, state, {}).read()

    assert read["infinite"] == math.inf
    assert math.isnan(read["undefined"])
    assert is_same(read["tensor"], state["tensor"])


def test_tensors_are_saved_without_autograd_history(tmp_path: Path) -> None:
    """A parameter is saved as its values."""
    weight = torch.nn.Parameter(torch.ones(2))

    read = Checkpoint.write(tmp_path, 1, {"weight": weight}, {}).read()["weight"]

    assert torch.equal(read, torch.ones(2))
    assert not read.requires_grad


def test_state_without_tensors_is_saved(tmp_path: Path) -> None:
    """Not every job has any."""
    assert Checkpoint.write(tmp_path, 1, {"count": 3}, {}).read() == {"count": 3}


def test_mappings_become_dicts(tmp_path: Path) -> None:
    """Such as the `OrderedDict` of a module."""
    assert Checkpoint.write(tmp_path, 1, {"model": OrderedDict(a=1)}, {}).read() == {"model": {"a": 1}}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"task": {"seen": {1}}}, "'task/seen' is a set, which a checkpoint cannot hold: convert it to tensors, "),
        ({"task": [0, [b"raw"]]}, "'task/1/0' is a bytes, which"),
        ({"task": (1j,)}, "'task/0' is a complex, which"),
        ({"task": {"when": Path()}}, "'task/when' is a PosixPath, which"),
        ({"task": {(1, 2): 3}}, "the dict at 'task' has the key (1, 2): keys must be strings or integers"),
        ({"task": {True: 3}}, "the dict at 'task' has the key True: keys must be strings or integers"),
        (
            {"a": {"b": torch.ones(1)}, "a/b": torch.ones(1)},
            "two tensors have the same path, 'a/b', which joins their keys with '/': rename a key",
        ),
    ],
)
def test_values_that_a_checkpoint_cannot_hold_are_refused(state: dict[str, Any], message: str) -> None:
    """The error has the path and the type."""
    with pytest.raises(StateError) as caught:
        split_state(state)
    assert message in str(caught.value)


def test_a_description_has_the_kind_of_tensors_and_all_other_values() -> None:
    """By which jobs are compared."""
    state = {"model": {"weight": torch.ones(2, 3)}, "groups": [{"lr": 0.1, "betas": (0.9, 0.95)}]}

    assert describe_state(state) == {
        "model/weight": "float32[2, 3]",
        "groups/0/lr": 0.1,
        "groups/0/betas/0": 0.9,
        "groups/0/betas/1": 0.95,
    }
