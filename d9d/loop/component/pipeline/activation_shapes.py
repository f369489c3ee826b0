"""The shapes of what travels between the stages of a pipeline, found out without running it."""

import copy
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from d9d.loop.component.tensor_tree import map_tensors

Shapes: TypeAlias = tuple[tuple[tuple[int, ...], torch.dtype], ...]
"""The shape and the number format of each of several tensors."""

_META = torch.device("meta")


class StageOutline:
    """A stage without its weights, which tells what the stage returns for inputs of some shapes.

    The stage itself would count what it sees, and speak with other processes, when it is asked.

    Args:
        module: The stage, before it is parallelised.
    """

    def __init__(self, module: nn.Module) -> None:
        # What copying finds among the known it takes as it is, so that no weight is held twice.
        known: dict[int, Any] = {
            **{id(parameter): _parameter_on_meta(parameter) for parameter in module.parameters()},
            **{id(buffer): _on_meta(buffer) for buffer in module.buffers()},
        }
        self._module = copy.deepcopy(module, known).eval()

    def outputs(self, activations: Shapes, keywords: Mapping[str, Any]) -> Shapes:
        """Return the shapes of what the stage returns.

        Args:
            activations: The shapes of its positional arguments.
            keywords: Its keyword arguments.

        Returns:
            The shapes of its outputs.

        Raises:
            TypeError: If it returns something else than a tensor, or several.
        """
        arguments = [torch.empty(shape, dtype=dtype, device=_META) for shape, dtype in activations]
        with torch.no_grad():
            returned = self._module(*arguments, **map_tensors(dict(keywords), _on_meta))
        return shapes_of(as_tuple(returned))


def as_tuple(outputs: Any) -> tuple[torch.Tensor, ...]:
    """Return what a stage has returned as a tuple.

    Args:
        outputs: A tensor, or several in a tuple or a list.

    Returns:
        The tensors.

    Raises:
        TypeError: If there is anything else.
    """
    tensors = tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)
    odd = next((tensor for tensor in tensors if not isinstance(tensor, torch.Tensor)), None)
    if odd is not None:
        raise TypeError(
            f"a stage of the pipeline returned a {type(odd).__qualname__}: a stage that is not the last one returns a "
            "tensor, or a tuple of tensors, which the next stage takes as its positional arguments"
        )
    return tensors


def shapes_of(tensors: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> Shapes:
    """Return the shapes of tensors."""
    return tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device=_META, requires_grad=False)


def _parameter_on_meta(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(_on_meta(parameter), requires_grad=parameter.requires_grad)
