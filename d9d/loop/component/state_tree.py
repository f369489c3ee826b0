"""State as a checkpoint keeps it: tensors by name, and an outline in JSON that holds all the rest.

The outline is plain JSON, so that reading it executes nothing and people can look at it.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch


class StateError(TypeError):
    """State that a checkpoint cannot keep."""


def split_state(state: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Take the tensors out of nested state.

    Args:
        state: Tensors, numbers, strings, booleans and `None`, in dicts, lists and tuples at any depth.

    Returns:
        The tensors by their path, such as `optimizer/state/0/exp_avg`, and the outline of the state, which JSON can
        hold, with those paths in place of the tensors.

    Raises:
        StateError: If anything else lies in the state, with its path and type; or if two paths read alike.
    """
    tensors: dict[str, torch.Tensor] = {}
    outline = _outline(state, "", tensors)
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


def empty_tensors(outline: Any) -> dict[str, torch.Tensor]:
    """Make room for the tensors of an outline.

    Args:
        outline: What `split_state` returned, or a part of it.

    Returns:
        Uninitialised tensors on the CPU, by their path.
    """
    match outline:
        case {"tensor": {"path": path, "dtype": dtype, "shape": shape}}:
            return {path: torch.empty(shape, dtype=getattr(torch, dtype))}
        case {"tuple": values}:
            return empty_tensors(values)
        case {"dict": items}:
            return empty_tensors([value for _, value in items])
        case list():
            rooms = (empty_tensors(value) for value in outline)
            return dict(itertools.chain.from_iterable(room.items() for room in rooms))
        case _:
            return {}


def describe_state(state: Any) -> dict[str, Any]:
    """Describe nested state flatly, tensors by their type and shape alone.

    Args:
        state: As for `split_state`.

    Returns:
        What lies at each path, in JSON's types.

    Raises:
        StateError: As `split_state`.
    """
    return dict(_described(split_state(state)[1], ""))


def _below(name: str, key: str | int) -> str:
    return f"{name}/{key}" if name else str(key)


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
