"""Splitting a state dict into tensors and metadata, and joining it again."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate


class StateError(TypeError):
    """State that a checkpoint cannot keep."""


def split_state(state: Any, name: str = "") -> tuple[dict[str, torch.Tensor], Any]:
    """Take the tensors out of nested state.

    Args:
        state: Tensors, numbers, strings, booleans and `None`, in dicts, lists and tuples at any depth.
        name: The path of the state in what it is a part of.

    Returns:
        The tensors by their path, such as `optimizer/state/0/exp_avg`, and the outline of the state, which JSON can
        hold, with those paths in place of the tensors.

    Raises:
        StateError: If anything else lies in the state, with its path and type; or if two paths read alike.
    """
    tensors: dict[str, torch.Tensor] = {}
    outline = _outline(state, name, tensors)
    return tensors, outline


def join_state(outline: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Put the tensors back into the outline of their state.

    Args:
        outline: What `split_state` returned, or a part of it.
        tensors: The tensors by their path.

    Returns:
        The state, equal to what was split.
    """
    match outline:
        case {"tensor": {"path": path}}:
            return tensors[path]
        case {"tuple": values}:
            return tuple(join_state(value, tensors) for value in values)
        case {"dict": items}:
            return {key: join_state(value, tensors) for key, value in items}
        case list():
            return [join_state(value, tensors) for value in outline]
        case _:
            return outline


def empty_tensors(
    outline: Any, divided_as: torch.Tensor | Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Make room for the tensors of an outline.

    Args:
        outline: What `split_state` returned, or a part of it.
        divided_as: A tensor that is divided among processes as those of the outline shall be, or one for each path.

    Returns:
        Uninitialised tensors by their path: on the CPU, or divided.
    """
    match outline:
        case {"tensor": {"path": path, "dtype": dtype, "shape": shape}}:
            model = divided_as.get(path) if isinstance(divided_as, Mapping) else divided_as
            return {path: _room(shape, dtype_of(dtype), model)}
        case {"tuple": values}:
            return empty_tensors(values, divided_as)
        case {"dict": items}:
            return empty_tensors([value for _, value in items], divided_as)
        case list():
            rooms = (empty_tensors(value, divided_as) for value in outline)
            return dict(itertools.chain.from_iterable(room.items() for room in rooms))
        case _:
            return {}


def merge_outlines(outlines: Sequence[Any], name: str = "") -> Any:
    """Put the outlines of all processes together.

    Args:
        outlines: What `split_state` returned on each process, by rank.
        name: The path of what they describe.

    Returns:
        The outline of what all of them hold. Dicts have the keys of all; all else is the same on each process.

    Raises:
        StateError: If it is not, with its path, and what two processes have there.
    """
    first = outlines[0]
    if not all(isinstance(outline, dict) and outline.keys() == {"dict"} for outline in outlines):
        for outline in outlines:
            if not is_same_outline(outline, first):
                raise StateError(
                    f"{name!r} is {_brief(first)} on one process and {_brief(outline)} on another: what processes hold "
                    "together must be the same on all of them"
                )
        return first
    held: dict[str | int, list[Any]] = {}
    for outline in outlines:
        for key, value in outline["dict"]:
            held.setdefault(key, []).append(value)
    return {"dict": [[key, merge_outlines(values, _below(name, key))] for key, values in held.items()]}


def is_same_outline(left: Any, right: Any) -> bool:
    """Say whether two outlines are the same; NaN is the same as NaN.

    Args:
        left: One.
        right: The other.

    Returns:
        Whether they are.
    """
    return bool(left == right) or json.dumps(left) == json.dumps(right)


def dtype_of(name: str) -> torch.dtype:
    """Return the number format of a name, which may come from a file.

    Args:
        name: Such as `float32`.

    Returns:
        The format.

    Raises:
        TypeError: If there is none of this name.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name!r} is no number format of torch")
    return dtype


def describe_state(state: Any) -> dict[str, Any]:
    """Describe nested state flatly, tensors by their type and shape alone.

    Args:
        state: As for `split_state`.

    Returns:
        What lies at each path, in JSON's types.

    Raises:
        StateError: As `split_state`.
    """
    return describe_outline(split_state(state)[1])


def describe_outline(outline: Any) -> dict[str, Any]:
    """Describe an outline flatly, as `describe_state` does.

    Args:
        outline: What `split_state` returned.

    Returns:
        What lies at each path, in JSON's types.
    """
    return dict(_described(outline, ""))


def _below(name: str, key: str | int) -> str:
    return f"{name}/{key}" if name else str(key)


def _brief(outline: Any) -> str:
    """Say what an outline describes, in a few words."""
    match outline:
        case {"tensor": {"dtype": dtype, "shape": shape}}:
            return f"{dtype}{shape}"
        case {"dict": items}:
            return f"a dict of {len(items)}"
        case {"tuple": values} | list(values):
            return f"a sequence of {len(values)}: {str(values)[:100]}"
        case _:
            return repr(outline)


def _room(shape: list[int], dtype: torch.dtype, model: torch.Tensor | None) -> torch.Tensor:
    # What is single numbers, such as the count of steps, is held whole by each process.
    if not isinstance(model, DTensor) or not shape:
        return torch.empty(shape, dtype=dtype)
    if list(model.shape) == shape:
        return torch.empty_like(model, dtype=dtype)
    # Of another shape, such as one moment for each row: held whole as well, but among DTensors.

    whole = torch.empty(shape, dtype=dtype, device=model.device)
    return DTensor.from_local(whole, model.device_mesh, [Replicate()] * model.device_mesh.ndim, run_check=False)


def _described(outline: Any, name: str) -> Iterator[tuple[str, Any]]:
    match outline:
        case {"tensor": {"dtype": dtype, "shape": shape}}:
            yield name, f"{dtype}{shape}"
        case {"tuple": values} | list(values):
            for index, value in enumerate(values):
                yield from _described(value, _below(name, index))
        case {"dict": items}:
            for key, value in items:
                yield from _described(value, _below(name, key))
        case _:
            yield name, outline


def _outline(state: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    match state:
        case torch.Tensor():
            if name in tensors:
                raise StateError(f"two tensors lie at the path {name!r}: rename one of the keys")
            tensors[name] = state.detach()
            return {
                "tensor": {"path": name, "dtype": str(state.dtype).removeprefix("torch."), "shape": list(state.shape)}
            }
        case None | bool() | int() | float() | str():
            return state
        case list():
            return [_outline(value, _below(name, index), tensors) for index, value in enumerate(state)]
        case tuple():
            return {"tuple": [_outline(value, _below(name, index), tensors) for index, value in enumerate(state)]}
        case Mapping() if all(type(key) in (str, int) for key in state):
            return {"dict": [[key, _outline(value, _below(name, key), tensors)] for key, value in state.items()]}
        case Mapping():
            odd = next(key for key in state if type(key) not in (str, int))
            raise StateError(f"the dict at {name!r} has the key {odd!r}: keys must be strings or integers")
        case _:
            raise StateError(
                f"{name!r} is a {type(state).__qualname__}, which a checkpoint cannot keep: state is made of tensors, "
                "numbers, strings, booleans and None, in dicts, lists and tuples"
            )
