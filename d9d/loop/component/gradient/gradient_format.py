"""The number format in which the gradients of a step are gathered."""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d9d.core.sharding import is_composed_replica, is_dtensor, is_fsdp_module
from d9d.loop.config import ConfigurationError

_HALF_PRECISION = frozenset({torch.float16, torch.bfloat16})


class GradientFormat:
    """Gathers the gradients of parameters of 16 bits in fp32, and gives them to the optimizer in 16.

    The backward pass of a micro-batch makes gradients in the format of the parameters; in fp32 is what they are added
    to, one micro-batch after the other, divided, measured and clipped. torch's optimizers take gradients in the
    format of the parameters alone.

    Under FSDP, a sharded parameter receives what the processes have added up in `reduce_dtype`, rounded to the format
    of the parameter; from there on it is the same.

    Args:
        modules: All modules that this process holds.
        gradient_dtype: `None` leaves all gradients as they are.

    Raises:
        ConfigurationError: If something below would gather gradients in fewer bits all the same.
    """

    def __init__(self, modules: list[nn.Module], gradient_dtype: Literal["fp32"] | None) -> None:
        self._autograd_widens: list[nn.Parameter] = []
        self._hook_widens: list[nn.Parameter] = []
        if gradient_dtype is None:
            return
        policies = _sharding_policies(modules)
        _refuse_replicas(modules)
        for parameter in _distinct_parameters(modules):
            if parameter in policies:
                _require_fp32_reduction(parameter, policies[parameter])
            if parameter.dtype not in _HALF_PRECISION:
                continue
            if parameter in policies:
                # FSDP assigns the first gradient in the parameter's own format, which `grad_dtype` would refuse.
                parameter.grad_dtype = None
                parameter.register_post_accumulate_grad_hook(_widen)  # type: ignore[no-untyped-call] # torch's own
                self._hook_widens.append(parameter)
            else:
                self._autograd_widens.append(parameter)
        self.widen()

    def narrow(self) -> None:
        """Cast the gathered gradients to the format that the optimizer takes, before its step."""
        for parameter in self._autograd_widens:
            if parameter.grad is not None:
                parameter.grad_dtype = None  # any: torch allows no other change beside a gradient
                parameter.grad = parameter.grad.to(parameter.dtype)
        for parameter in self._hook_widens:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.to(parameter.dtype)

    def widen(self) -> None:
        """Get ready to gather the next gradients, when there are none."""
        for parameter in self._autograd_widens:
            parameter.grad_dtype = torch.float32


def _widen(parameter: torch.Tensor) -> None:
    """Turn the first gradient of a step into fp32, so that the others are added to it in fp32."""
    if parameter.grad is not None and parameter.grad.dtype != torch.float32:
        parameter.grad = parameter.grad.float()


def _distinct_parameters(modules: list[nn.Module]) -> list[nn.Parameter]:
    return list(dict.fromkeys(parameter for module in modules for parameter in module.parameters()))


def _sharding_policies(modules: list[nn.Module]) -> dict[nn.Parameter, Any]:
    """Return the mixed-precision policy of each parameter that FSDP holds."""
    policies: dict[nn.Parameter, Any] = {}
    for module in (inner for outer in modules for inner in outer.modules()):  # from the outside in: the innermost holds
        if is_fsdp_module(module):
            policy = module._get_fsdp_state()._mp_policy  # noqa: SLF001 -- FSDP tells it nowhere else
            policies.update({each: policy for each in module.parameters() if is_dtensor(each)})
    return policies


def _require_fp32_reduction(parameter: nn.Parameter, policy: Any) -> None:
    dtype = policy.reduce_dtype or policy.param_dtype or parameter.dtype
    if dtype in _HALF_PRECISION:
        raise ConfigurationError(
            f"gradient_dtype='fp32' asks for sums of gradients in fp32, and FSDP adds up those of a parameter of shape "
            f"{list(parameter.shape)} in {dtype}: shard with MixedPrecisionPolicy(reduce_dtype=torch.float32), or set "
            "gradient_dtype=None"
        )


def _refuse_replicas(modules: list[nn.Module]) -> None:
    """Refuse DDP over parameters of 16 bits: it copies gradients into buffers of that format."""
    for module in (inner for outer in modules for inner in outer.modules()):
        is_replica = isinstance(module, DistributedDataParallel) or (
            # `replicate` of torch's composable interface leaves no other sign; its newer form is FSDP's.
            is_composed_replica(module)
        )
        if is_replica and any(parameter.dtype in _HALF_PRECISION for parameter in module.parameters()):
            raise ConfigurationError(
                "gradient_dtype='fp32' does not work with DDP over parameters of 16 bits, since it gathers gradients "
                "in their format: keep the parameters in fp32 with precision='bf16-autocast', or replicate them with "
                "fully_shard over a mesh (1 shard) and MixedPrecisionPolicy(reduce_dtype=torch.float32)"
            )
