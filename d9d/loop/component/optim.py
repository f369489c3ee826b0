"""Optimizers and learning rate schedules."""

import dataclasses
import difflib
import inspect
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from d9d.core.protocol import LRSchedulerProtocol, OptimizerProtocol
from d9d.loop.config import ConfigurationError
from d9d.loop.control import InitializeLRSchedulerContext, InitializeOptimizerContext

_logger = logging.getLogger(__name__)


class ParameterGroup:
    """A group of parameters with its own optimizer options.

    Args:
        matches: Called with the name of a parameter and the parameter; returns whether it belongs to this group.
        **options: The options of this group, such as `weight_decay=0.0`.
    """

    def __init__(self, matches: Callable[[str, nn.Parameter], bool], **options: Any) -> None:
        self.matches = matches
        self.options = options

    def __str__(self) -> str:
        name = getattr(self.matches, "__qualname__", type(self.matches).__qualname__)
        return ", ".join([f"ParameterGroup({name}", *(f"{key}={value!r}" for key, value in self.options.items())]) + ")"


class OptimizerBuilder:
    """An optimizer provider: builds an optimizer over all trainable parameters, fused if possible.

    Unless the options or a group set `fused` or `foreach`, the optimizer is built with `fused=True` if it has that
    argument and a trial step succeeds for each kind of parameter, and with torch's default otherwise. Fused kernels do
    not support sparse gradients. Those of `nn.Embedding(sparse=True)` are detected; if another module produces them,
    set `fused=False`.

    Args:
        optimizer_class: An optimizer class, such as those of `torch.optim`; AdamW by default.
        groups: Groups of parameters with their own options. A parameter belongs to the first group that matches it. All
            others form the first group of the optimizer.
        **options: The arguments of the optimizer, such as `lr=3e-4`.

    Raises:
        ConfigurationError: If the optimizer does not have these arguments.
    """

    def __init__(
        self,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
        *,
        groups: Sequence[ParameterGroup] = (),
        **options: Any,
    ) -> None:
        signature = inspect.signature(optimizer_class)
        try:
            signature.bind([], **options)
        except TypeError as error:
            known = ", ".join(list(signature.parameters)[1:])
            raise ConfigurationError(f"{optimizer_class.__qualname__}: {error}; its arguments are {known}") from error
        self._optimizer_class = optimizer_class
        self._groups = groups
        self._options = options

    def __call__(self, ctx: InitializeOptimizerContext, /) -> OptimizerProtocol:
        """Build the optimizer.

        A group without parameters is an error, except in a pipeline, where another process may have its parameters;
        there it is left out. A group with both plain and distributed parameters becomes two groups, because torch's
        multi-tensor kernels do not accept both at once. If this builder chose `fused`, loading a state does not change
        it.

        Args:
            ctx: Holds the stages of the model.

        Returns:
            The optimizer.

        Raises:
            ConfigurationError: If a group matches no parameter, or has an option that the optimizer does not have, or
                if the model has no trainable parameter.
        """
        members = self._members(ctx)
        self._check_members(members, holds_whole_model=ctx.holds_whole_model)
        groups = [
            {**options, "params": part}
            for options, parameters in zip(self._group_options(), members, strict=True)
            for part in _by_distribution(parameters)
            if part
        ]
        implementation = self._implementation(ctx, members)
        # The optimizer of a frozen stage has no parameters.
        optimizer = self._optimizer_class(groups or [{"params": []}], **self._options, **implementation)
        self._refuse_unknown_options(optimizer)
        if implementation:
            optimizer.register_load_state_dict_pre_hook(_keep_implementation)
        return optimizer

    def _group_options(self) -> list[dict[str, Any]]:
        return [{}, *(group.options for group in self._groups)]

    def _members(self, ctx: InitializeOptimizerContext) -> list[list[nn.Parameter]]:
        """Return the parameters that no group matches, followed by those of each group."""
        members: list[list[nn.Parameter]] = [[] for _ in range(1 + len(self._groups))]
        for name, parameter in ctx.named_parameters():
            if parameter.requires_grad:
                matching = (index for index, group in enumerate(self._groups, 1) if group.matches(name, parameter))
                members[next(matching, 0)].append(parameter)
        return members

    def _check_members(self, members: list[list[nn.Parameter]], *, holds_whole_model: bool) -> None:
        if holds_whole_model and not any(members):
            raise ConfigurationError(
                "the model has no parameter that requires gradients, so there is nothing to train: set requires_grad "
                "on the parameters to train"
            )
        for index, (group, parameters) in enumerate(zip(self._groups, members[1:], strict=True)):
            if parameters:
                continue
            if holds_whole_model:
                raise ConfigurationError(
                    f"groups[{index}], {group}, matches no parameter that requires gradients and is not in an earlier "
                    "group: compare it with the names in model.named_parameters(), or remove it"
                )
            _logger.info("groups[%d], %s, matches no parameter of this process and is left out", index, group)

    def _refuse_unknown_options(self, optimizer: torch.optim.Optimizer) -> None:
        for index, group in enumerate(self._groups):
            for option in group.options.keys() - optimizer.defaults.keys():
                close = difflib.get_close_matches(option, optimizer.defaults, n=1)
                known = ", ".join(sorted(optimizer.defaults))
                remedy = f"did you mean {close[0]!r}?" if close else f"its options are {known}"
                raise ConfigurationError(
                    f"groups[{index}], {group}, has the option {option!r}, but {type(optimizer).__qualname__} has no "
                    f"such option: {remedy}"
                )

    def _implementation(self, ctx: InitializeOptimizerContext, members: list[list[nn.Parameter]]) -> dict[str, Any]:
        is_chosen = any({"fused", "foreach"} & options.keys() for options in (self._options, *self._group_options()))
        if is_chosen or "fused" not in inspect.signature(self._optimizer_class).parameters:
            return {}
        if any(_makes_sparse_gradients(module) for stage in ctx.modules for module in stage.modules()):
            return {"fused": None}
        parameters = itertools.chain.from_iterable(members)
        return {"fused": _can_be_fused(self._optimizer_class, self._options, parameters) or None}


def _keep_implementation(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Ignore `fused` in a loaded state, which may come from another device or another sharding."""
    groups = [{**group, "fused": optimizer.defaults["fused"]} for group in state_dict["param_groups"]]
    return {**state_dict, "param_groups": groups}


def _makes_sparse_gradients(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse


def _can_be_fused(
    optimizer_class: type[torch.optim.Optimizer], options: Mapping[str, Any], parameters: Iterable[nn.Parameter]
) -> bool:
    """Return whether an optimizer works with `fused=True`, by running a step over small stand-ins of the parameters.

    torch cannot be asked: its list of devices is private, and an optimizer whose fused kernel does not support
    `DTensor`, like SGD and Adagrad in 2.13, fails in the first step.

    Args:
        optimizer_class: The optimizer, which has an argument `fused`.
        options: The other arguments that it is built with.
        parameters: The parameters, on their devices.

    Returns:
        True if the step succeeds for each device, dtype, number of dimensions and sharding among the parameters; false
        if a parameter has a tensor subclass other than `DTensor`. This waits neither for other processes nor for the
        device.
    """
    name = optimizer_class.__qualname__
    stand_ins: dict[tuple[object, ...], nn.Parameter] = {}
    for parameter in parameters:
        kind: tuple[object, ...] = (parameter.device, parameter.dtype, parameter.ndim)
        if isinstance(parameter, DTensor):
            kind += (parameter.device_mesh, parameter.placements)
        elif type(parameter) is not nn.Parameter:
            _logger.debug("%s runs without fused=True, because a parameter is a %s", name, type(parameter).__qualname__)
            return False
        if kind not in stand_ins:
            stand_ins[kind] = _stand_in(parameter)
    try:
        groups = [{"params": part} for part in _by_distribution(stand_ins.values())]
        optimizer_class(groups, **{**options, "fused": True}).step()
    except RuntimeError as error:
        _logger.debug("%s runs without fused=True: %s", name, error)
        return False
    return True


def _by_distribution(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split parameters into distributed and plain ones, because torch's multi-tensor kernels accept only one kind.

    Args:
        parameters: The parameters.

    Returns:
        Those that are a `DTensor`, and the others, each in the given order.
    """
    distributed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in parameters:
        (distributed if isinstance(parameter, DTensor) else plain).append(parameter)
    return distributed, plain


def _stand_in(parameter: nn.Parameter) -> nn.Parameter:
    # Two elements along each dimension: torch treats a plain tensor of one element next to a DTensor as a scalar.
    local = torch.zeros([2] * parameter.ndim, dtype=parameter.dtype, device=parameter.device)
    if isinstance(parameter, DTensor):
        local = DTensor.from_local(local, parameter.device_mesh, parameter.placements, run_check=False)
    stand_in = nn.Parameter(local)
    stand_in.grad = torch.zeros_like(local)
    return stand_in


class ConstantLRScheduler:
    """Leaves the learning rate as it is."""

    def step(self) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Do nothing."""


def constant_lr(ctx: InitializeLRSchedulerContext) -> LRSchedulerProtocol:
    """Build a scheduler that leaves the learning rate as it is.

    Args:
        ctx: Unused.

    Returns:
        The scheduler.
    """
    del ctx
    return ConstantLRScheduler()


DecayShape = Literal["linear", "cosine", "1-sqrt"]
"""How the learning rate decays: linearly, along half a cosine (Loshchilov and Hutter, arXiv 1608.03983), or as one
minus the square root of the progress, steep at first (Hägele et al., arXiv 2405.18392)."""

# The remaining fraction of the decay, from 1 to 0, as a function of its progress, from 0 to 1.
REMAINDERS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LRFactor:
    """The factor of the learning rate, a pure function of the step: warm-up to 1, constant, decay.

    `torch.optim.lr_scheduler.LambdaLR` saves its attributes in the state of the scheduler.

    Attributes:
        warmup_steps: The number of steps of the warm-up, from `1 / warmup_steps` to 1.
        decay_start: The index of the step at which the decay starts; the factor is still 1 there.
        decay_steps: The number of steps of the decay.
        final_fraction: The factor after the decay.
        shape: The shape of the decay.
    """

    warmup_steps: int
    decay_start: int
    decay_steps: int
    final_fraction: float
    shape: DecayShape

    def __call__(self, step: int) -> float:
        """Compute the factor of a step.

        Args:
            step: The index of the step.

        Returns:
            The fraction of the peak learning rate.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(max(0, step - self.decay_start) / self.decay_steps, 1)
        return self.final_fraction + (1 - self.final_fraction) * REMAINDERS[self.shape](progress)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LRSchedule:
    """A scheduler provider: builds a scheduler that multiplies the learning rates of all groups by one factor.

    The factor rises linearly to 1, so the optimizer's own learning rate is the peak, and decays in the last steps. It
    would reach `final_fraction` in the step after the last one, so that no step has a learning rate of zero.

    Attributes:
        shape: The shape of the decay.
        warmup_steps: The number of steps of the warm-up; with 0 the first step has the peak learning rate.
        decay_steps: The number of steps of the decay, the last of the run; `None` means all steps after the warm-up.
        final_fraction: The learning rate after the decay, as a fraction of the peak.

    Raises:
        ConfigurationError: If one of them is out of range.
    """

    shape: DecayShape
    warmup_steps: int = 0
    decay_steps: int | None = None
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        """Check the range of each attribute."""
        if self.shape not in REMAINDERS:
            raise ConfigurationError(f"shape is {self.shape!r}: choose one of {', '.join(map(repr, REMAINDERS))}")
        if self.warmup_steps < 0:
            raise ConfigurationError(f"warmup_steps is {self.warmup_steps}: it must be at least 0")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ConfigurationError(
                f"decay_steps is {self.decay_steps}: it must be at least 1, or None for all steps after the warm-up"
            )
        if not 0 <= self.final_fraction <= 1:
            raise ConfigurationError(f"final_fraction is {self.final_fraction}: it must be between 0.0 and 1.0")

    @classmethod
    def linear(cls, *, warmup_steps: int = 0, final_fraction: float = 0.0) -> Self:
        """Make a schedule with a linear decay over the rest of the run.

        Args:
            warmup_steps: The number of steps of the warm-up.
            final_fraction: The learning rate after the decay, as a fraction of the peak.

        Returns:
            The schedule.
        """
        return cls(shape="linear", warmup_steps=warmup_steps, final_fraction=final_fraction)

    @classmethod
    def cosine(cls, *, warmup_steps: int = 0, final_fraction: float = 0.0) -> Self:
        """Make a schedule with a cosine decay over the rest of the run.

        After Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv 1608.03983,
        equation 5, without restarts.

        Args:
            warmup_steps: The number of steps of the warm-up.
            final_fraction: The learning rate after the decay, as a fraction of the peak.

        Returns:
            The schedule.
        """
        return cls(shape="cosine", warmup_steps=warmup_steps, final_fraction=final_fraction)

    @classmethod
    def wsd(
        cls, *, decay_steps: int, warmup_steps: int = 0, final_fraction: float = 0.0, shape: DecayShape = "1-sqrt"
    ) -> Self:
        """Make a WSD schedule: warm-up, a constant learning rate ("stable"), and a decay in the last steps.

        After Hu et al., "MiniCPM", arXiv 2404.06395, section 4. The default shape of the decay is that of Hägele et
        al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", arXiv 2405.18392.

        Args:
            decay_steps: The number of steps of the decay; a tenth to a fifth of the run is usual.
            warmup_steps: The number of steps of the warm-up.
            final_fraction: The learning rate after the decay, as a fraction of the peak.
            shape: The shape of the decay.

        Returns:
            The schedule.
        """
        return cls(shape=shape, warmup_steps=warmup_steps, decay_steps=decay_steps, final_fraction=final_fraction)

    def factor(self, total_steps: int) -> LRFactor:
        """Compute the schedule of a run.

        Args:
            total_steps: How many optimizer steps the run has.

        Returns:
            The factor of the learning rate of each step.

        Raises:
            ConfigurationError: If the run is too short for the schedule.
        """
        shortest_decay = self.decay_steps or 1
        if self.warmup_steps + shortest_decay > total_steps:
            raise ConfigurationError(self._misfit(shortest_decay, total_steps))
        decay_steps = self.decay_steps or total_steps - self.warmup_steps
        return LRFactor(
            warmup_steps=self.warmup_steps,
            decay_start=total_steps - decay_steps,
            decay_steps=decay_steps,
            final_fraction=self.final_fraction,
            shape=self.shape,
        )

    def __call__(self, ctx: InitializeLRSchedulerContext, /) -> LRSchedulerProtocol:
        """Build the scheduler.

        Args:
            ctx: Holds the optimizer and the number of steps.

        Returns:
            The scheduler.

        Raises:
            ConfigurationError: If the run is too short for the schedule.
            TypeError: If the optimizer is not a `torch.optim.Optimizer`.
        """
        return LambdaLR(ctx.torch_optimizer, self.factor(ctx.total_steps))

    def _misfit(self, shortest_decay: int, total_steps: int) -> str:
        remedies = [f"total_steps of at least {self.warmup_steps + shortest_decay}"]
        if total_steps >= shortest_decay:
            remedies.insert(0, f"warmup_steps of at most {total_steps - shortest_decay}")
        if self.decay_steps is not None and total_steps > self.warmup_steps:
            remedies.insert(0, f"decay_steps of at most {total_steps - self.warmup_steps}")
        asked = "at least 1 step of decay" if self.decay_steps is None else f"decay_steps={self.decay_steps}"
        return (
            f"warmup_steps={self.warmup_steps} and {asked} do not fit into total_steps={total_steps}: use "
            f"{', or '.join(remedies)}"
        )
