"""Any optimizer of torch's kind, its parameters in groups."""

import difflib
import inspect
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from d9d.core.protocol import OptimizerProtocol
from d9d.loop.component.optimizer.fused_trial import by_distribution, can_be_fused
from d9d.loop.config import ConfigurationError
from d9d.loop.control import InitializeOptimizerContext

logger = logging.getLogger(__name__)


class ParameterGroup:
    """Parameters that are optimized with options of their own.

    Args:
        matches: Says, of a name and a parameter, whether it belongs here.
        **options: What the optimizer does otherwise with these, such as `weight_decay=0.0`.
    """

    def __init__(self, matches: Callable[[str, nn.Parameter], bool], **options: Any) -> None:
        self.matches = matches
        self.options = options

    def __str__(self) -> str:
        name = getattr(self.matches, "__qualname__", type(self.matches).__qualname__)
        return ", ".join([f"ParameterGroup({name}", *(f"{key}={value!r}" for key, value in self.options.items())]) + ")"


class OptimizerBuilder:
    """Brings an optimizer over all parameters that want gradients, fused where it can be.

    Where neither the options nor any group say `fused` or `foreach`, the optimizer is built with `fused=True` if it
    knows that word and a trial step succeeds for each kind of parameter, and as torch does otherwise. Sparse gradients,
    as of `nn.Embedding(sparse=True)`, have no fused form; where other modules make them, say `fused=False`.

    Args:
        optimizer_class: A class as those of `torch.optim`.
        groups: Parameters with other options. The first that matches a parameter has it; those that none matches come
            first, with the options of the optimizer.
        **options: What the optimizer is built with, such as `lr=3e-4`.

    Raises:
        ConfigurationError: If the optimizer does not take these options.
    """

    def __init__(
        self,
        optimizer_class: type[torch.optim.Optimizer],
        *,
        groups: Sequence[ParameterGroup] = (),
        **options: Any,
    ) -> None:
        signature = inspect.signature(optimizer_class)
        try:
            signature.bind([], **options)
        except TypeError as error:
            known = ", ".join(list(signature.parameters)[1:])
            raise ConfigurationError(f"{optimizer_class.__qualname__}: {error}; it takes {known}") from error
        self._optimizer_class = optimizer_class
        self._groups = groups
        self._options = options

    def __call__(self, ctx: InitializeOptimizerContext, /) -> OptimizerProtocol:
        """Build the optimizer.

        Groups without parameters are refused, but left out in a pipeline, where another process may have their
        parameters. A group with both plain and distributed parameters is
        built as two, which torch's kernels can update as a whole. Where the optimizer was not told whether to be fused,
        it does not take that back from a state either.

        Args:
            ctx: Holds the stages of the model.

        Returns:
            The optimizer.

        Raises:
            ConfigurationError: If a group matches no parameter, or has an option that the optimizer does not know; or
                if no parameter at all wants gradients.
        """
        members = self._members(ctx)
        self._check_members(members, holds_whole_model=ctx.holds_whole_model)
        groups = [
            {**options, "params": part}
            for options, parameters in zip(self._group_options(), members, strict=True)
            for part in by_distribution(parameters)
            if part
        ]
        implementation = self._implementation(ctx, members)
        # A stage that is frozen as a whole still has an optimizer, over nothing.
        optimizer = self._optimizer_class(groups or [{"params": []}], **self._options, **implementation)
        self._refuse_unknown_options(optimizer)
        if implementation:
            optimizer.register_load_state_dict_pre_hook(_keep_implementation)
        return optimizer

    def _group_options(self) -> list[dict[str, Any]]:
        return [{}, *(group.options for group in self._groups)]

    def _members(self, ctx: InitializeOptimizerContext) -> list[list[nn.Parameter]]:
        """Return the parameters that no group matches, and those of each group."""
        members: list[list[nn.Parameter]] = [[] for _ in range(1 + len(self._groups))]
        for name, parameter in ctx.named_parameters():
            if parameter.requires_grad:
                matching = (index for index, group in enumerate(self._groups, 1) if group.matches(name, parameter))
                members[next(matching, 0)].append(parameter)
        return members

    def _check_members(self, members: list[list[nn.Parameter]], *, holds_whole_model: bool) -> None:
        if holds_whole_model and not any(members):
            raise ConfigurationError("the model has no parameter that requires gradients: there is nothing to train")
        for index, (group, parameters) in enumerate(zip(self._groups, members[1:], strict=True)):
            if parameters:
                continue
            if holds_whole_model:
                raise ConfigurationError(
                    f"groups[{index}], {group}, matches no parameter that requires gradients and that no group before "
                    "it has: compare it with the names in model.named_parameters(), or remove it"
                )
            logger.info("groups[%d], %s, matches no parameter of this process, and is left out of it", index, group)

    def _refuse_unknown_options(self, optimizer: torch.optim.Optimizer) -> None:
        for index, group in enumerate(self._groups):
            for option in group.options.keys() - optimizer.defaults.keys():
                close = difflib.get_close_matches(option, optimizer.defaults, n=1)
                remedy = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(sorted(optimizer.defaults))}"
                raise ConfigurationError(
                    f"groups[{index}], {group}, has the option {option!r}, which {type(optimizer).__qualname__} does "
                    f"not know: {remedy}"
                )

    def _implementation(self, ctx: InitializeOptimizerContext, members: list[list[nn.Parameter]]) -> dict[str, Any]:
        is_chosen = any({"fused", "foreach"} & options.keys() for options in (self._options, *self._group_options()))
        if is_chosen or "fused" not in inspect.signature(self._optimizer_class).parameters:
            return {}
        if any(_makes_sparse_gradients(module) for stage in ctx.modules for module in stage.modules()):
            return {"fused": None}
        parameters = itertools.chain.from_iterable(members)
        return {"fused": can_be_fused(self._optimizer_class, self._options, parameters) or None}


def _keep_implementation(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Take no `fused` back: the state may come from other devices, or another sharding."""
    groups = [{**group, "fused": optimizer.defaults["fused"]} for group in state_dict["param_groups"]]
    return {**state_dict, "param_groups": groups}


def _makes_sparse_gradients(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
