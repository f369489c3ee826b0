"""Whether the fused form of an optimizer can update given parameters: it is tried."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from d9d.core.sharding import is_dtensor

logger = logging.getLogger(__name__)


def can_be_fused(
    optimizer_class: type[torch.optim.Optimizer], options: Mapping[str, Any], parameters: Iterable[nn.Parameter]
) -> bool:
    """Say whether an optimizer that knows `fused=True` steps with it, by a step over small stand-ins.

    Torch says no earlier: its lists of devices are private, and what has no fused form for a `DTensor`, as SGD and
    Adagrad in 2.13, fails in the first step.

    Args:
        optimizer_class: The optimizer.
        options: What else it is built with.
        parameters: The parameters, on their devices. One of a tensor subclass other than `DTensor` decides against it.

    Returns:
        True if such a step succeeds for each device, type, number of dimensions and sharding among the parameters. No
        process waits for another, nor for the device.
    """
    name = optimizer_class.__qualname__
    stand_ins: dict[tuple[object, ...], nn.Parameter] = {}
    for parameter in parameters:
        kind: tuple[object, ...] = (parameter.device, parameter.dtype, parameter.ndim)
        if is_dtensor(parameter):
            kind += (parameter.device_mesh, parameter.placements)
        elif type(parameter) is not nn.Parameter:
            logger.debug("%s runs without fused=True: a parameter is a %s", name, type(parameter).__qualname__)
            return False
        if kind not in stand_ins:
            stand_ins[kind] = _stand_in(parameter)
    try:
        groups = [{"params": part} for part in by_distribution(stand_ins.values())]
        optimizer_class(groups, **{**options, "fused": True}).step()
    except RuntimeError as error:
        logger.debug("%s runs without fused=True: %s", name, error)
        return False
    return True


def by_distribution(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Part distributed parameters from plain ones: torch's kernels for many tensors take no list of both.

    Args:
        parameters: The parameters.

    Returns:
        Those that are a `DTensor`, and the others; each in the given order.
    """
    distributed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in parameters:
        (distributed if is_dtensor(parameter) else plain).append(parameter)
    return distributed, plain


def _stand_in(parameter: nn.Parameter) -> nn.Parameter:
    # Two elements along each dimension: beside a DTensor, a plain tensor of one element would be taken for a scalar.
    local = torch.zeros([2] * parameter.ndim, dtype=parameter.dtype, device=parameter.device)
    if is_dtensor(parameter):
        from torch.distributed.tensor import DTensor  # noqa: PLC0415 -- see d9d.core.sharding

        local = DTensor.from_local(local, parameter.device_mesh, parameter.placements, run_check=False)
    stand_in = nn.Parameter(local)
    stand_in.grad = torch.zeros_like(local)
    return stand_in
