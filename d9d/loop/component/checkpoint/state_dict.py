"""State dicts: split into tensors and metadata, which JSON can hold, and joined again.

In metadata a tensor is `{"tensor": {"path", "dtype", "shape"}}`, a dict is `{"dict": [[key, value], …]}`, which keeps
the type of each key, and a tuple is `{"tuple": […]}`. Lists, numbers, strings, booleans and `None` are themselves.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


class StateError(TypeError):
    """State that a checkpoint cannot hold."""


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A tensor without its values.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """The size of its values."""
        return functools.reduce(int.__mul__, self.shape, self.dtype.itemsize)

    def __str__(self) -> str:
        return f"{dtype_name(self.dtype)}{list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class Region:
    """A part of a tensor: a view of memory, and where in the whole tensor it is.

    Attributes:
        tensor: The values, or the memory for them.
        offsets: The index of its first element in the whole tensor.
    """

    tensor: torch.Tensor
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Self | None:
        """Return the part of a tensor that this rank holds; `None` if it holds nothing."""
        if isinstance(tensor, DTensor):
            _, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
            region = cls(tensor.to_local().detach(), tuple(offsets))
        else:
            region = cls(tensor.detach(), (0,) * tensor.ndim)
        return region if region.tensor.numel() else None


def split_state(state: Any, path: str = "") -> tuple[dict[str, torch.Tensor], Any]:
    """Split state into its tensors and its metadata.

    Args:
        state: Tensors, numbers, strings, booleans and `None`, in dicts, lists and tuples of any depth.
        path: The path of the state within a larger one.

    Returns:
        The tensors by path, such as `optimizer/state/0/exp_avg`, and the metadata, in which paths replace the tensors.

    Raises:
        StateError: If the state contains anything else, with its path and type, or if two tensors have one path.
    """
    tensors: dict[str, torch.Tensor] = {}
    return tensors, _split(state, path, tensors)


def join_state(metadata: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Join metadata and tensors to the state that they were split from.

    Args:
        metadata: What `split_state` returned, or a part of it.
        tensors: The tensors by path.

    Returns:
        The state.
    """
    match metadata:
        case {"tensor": {"path": path}}:
            return tensors[path]
        case {"tuple": values}:
            return tuple(join_state(value, tensors) for value in values)
        case {"dict": items}:
            return {key: join_state(value, tensors) for key, value in items}
        case list():
            return [join_state(value, tensors) for value in metadata]
        case _:
            return metadata


def allocate_tensors(
    metadata: Any, like: torch.Tensor | Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Allocate the tensors that metadata describes.

    Args:
        metadata: What `split_state` returned, or a part of it.
        like: A tensor whose device mesh and placements all of them get, or one such tensor for each path.

    Returns:
        Uninitialised tensors by path: on the CPU, or distributed like the given ones.
    """
    match metadata:
        case {"tensor": {"path": path, "dtype": dtype, "shape": shape}}:
            model = like.get(path) if isinstance(like, Mapping) else like
            return {path: _allocate(shape, dtype_from_name(dtype), model)}
        case {"tuple": values} | list(values):
            children = values
        case {"dict": items}:
            children = [value for _, value in items]
        case _:
            children = []
    allocated: dict[str, torch.Tensor] = {}
    for child in children:
        allocated |= allocate_tensors(child, like)
    return allocated


def merge_metadata(metadata_of_ranks: Sequence[Any], path: str = "") -> Any:
    """Merge the metadata of all ranks.

    Args:
        metadata_of_ranks: What `split_state` returned on each rank.
        path: The path of the state that they describe.

    Returns:
        Metadata whose dicts have the keys of all ranks; everything else is the same on each.

    Raises:
        StateError: If it is not the same, with its path and two of the values.
    """
    first = metadata_of_ranks[0]
    if not all(isinstance(metadata, dict) and metadata.keys() == {"dict"} for metadata in metadata_of_ranks):
        for metadata in metadata_of_ranks:
            if not is_same_metadata(metadata, first):
                raise StateError(
                    f"{path!r} is {_summarize(first)} on one rank and {_summarize(metadata)} on another: state that "
                    "ranks share must be the same on all of them"
                )
        return first
    values_by_key: dict[str | int, list[Any]] = {}
    for metadata in metadata_of_ranks:
        for key, value in metadata["dict"]:
            values_by_key.setdefault(key, []).append(value)
    return {"dict": [[key, merge_metadata(values, _join_path(path, key))] for key, values in values_by_key.items()]}


def is_same_metadata(left: Any, right: Any) -> bool:
    """Return whether two states have the same metadata; NaN equals NaN."""
    return bool(left == right) or json.dumps(left) == json.dumps(right)


def describe_state(state: Any) -> dict[str, Any]:
    """Describe state by a flat dict, in which tensors are represented by dtype and shape.

    Args:
        state: As for `split_state`.

    Returns:
        The value at each path, in JSON's types.

    Raises:
        StateError: As `split_state`.
    """
    return describe_metadata(split_state(state)[1])


def describe_metadata(metadata: Any) -> dict[str, Any]:
    """Describe metadata as `describe_state` describes the state.

    Args:
        metadata: What `split_state` returned.
    """
    return dict(_describe(metadata, ""))


def dtype_from_name(name: str) -> torch.dtype:
    """Return the dtype of a name that may come from a file.

    Args:
        name: Such as `float32`.

    Raises:
        TypeError: If torch has no dtype of this name.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name!r} is not a dtype of torch")
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype, such as `float32`."""
    return str(dtype).removeprefix("torch.")


def _split(state: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    # Loops instead of comprehensions halve the number of frames that a deep state needs.
    match state:
        case torch.Tensor():
            if path in tensors:
                raise StateError(
                    f"two tensors have the same path, {path!r}, which joins their keys with '/': rename a key"
                )
            tensors[path] = state.detach()
            return {"tensor": {"path": path, "dtype": dtype_name(state.dtype), "shape": list(state.shape)}}
        case None | bool() | int() | float() | str():
            return state
        case list() | tuple():
            values: list[Any] = []
            for index, value in enumerate(state):
                values.append(_split(value, _join_path(path, index), tensors))
            return values if isinstance(state, list) else {"tuple": values}
        case Mapping():
            items: list[Any] = []
            for key, value in state.items():
                if type(key) not in (str, int):
                    raise StateError(f"the dict at {path!r} has the key {key!r}: keys must be strings or integers")
                items.append([key, _split(value, _join_path(path, key), tensors)])
            return {"dict": items}
        case _:
            raise StateError(
                f"the state at {path!r} is a {type(state).__qualname__}, which a checkpoint cannot hold: convert it to "
                "tensors, numbers, strings, booleans or None, in dicts, lists or tuples"
            )


def _join_path(path: str, key: str | int) -> str:
    return f"{path}/{key}" if path else str(key)


def _allocate(shape: list[int], dtype: torch.dtype, like: torch.Tensor | None) -> torch.Tensor:
    # A scalar, such as the step count of an optimizer, is a plain tensor on each rank.
    if not isinstance(like, DTensor) or not shape:
        return torch.empty(shape, dtype=dtype)
    if list(like.shape) == shape:
        return torch.empty_like(like, dtype=dtype)
    # A tensor of another shape, such as one moment for each row of a weight, is replicated on the same mesh.
    local = torch.empty(shape, dtype=dtype, device=like.device)
    return DTensor.from_local(local, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)


def _summarize(metadata: Any) -> str:
    match metadata:
        case {"tensor": {"dtype": dtype, "shape": shape}}:
            return f"{dtype}{shape}"
        case {"dict": items}:
            return f"a dict of {len(items)}"
        case {"tuple": values} | list(values):
            return f"a sequence of {len(values)}: {str(values)[:100]}"
        case _:
            return repr(metadata)


def _describe(metadata: Any, path: str) -> Iterator[tuple[str, Any]]:
    match metadata:
        case {"tensor": {"dtype": dtype, "shape": shape}}:
            yield path, f"{dtype}{shape}"
        case {"tuple": values} | list(values):
            for index, value in enumerate(values):
                yield from _describe(value, _join_path(path, index))
        case {"dict": items}:
            for key, value in items:
                yield from _describe(value, _join_path(path, key))
        case _:
            yield path, metadata
