"""Initialising the weights of a model, the same for any number of processes."""

import weakref
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from d9d.core.parallel import unwrapped_name
from d9d.core.seed import derive_seed
from d9d.core.settings import ConfigurationError
from d9d.loop.component.random_state import RandomState


def initialize_weights(module: nn.Module, *, device: torch.device, seed: int) -> None:
    """Give memory and initial values to what a model has on the meta device, and move the rest to the device.

    One module after the other is given its own parameters and buffers in full, for the time of its `reset_parameters`;
    of each, this process keeps what its placement says. What a module draws depends on the seed, its name and the type
    of the device alone. So the weights are the same for any placement, and a process never holds more than its part of
    the model and one module's own tensors. All processes that share the model call this.

    Parameters stay the objects they were, with their number format, and frozen where they were. Shared ones are
    initialised once, by the first module that has them, and stay shared. What is not on the meta device keeps its
    values. The global random number generators are where they were when this returns.

    Args:
        module: The model, or a stage of one, whose parameters may be sharded already. Names begin here: stages of one
            model have unlike names for unlike modules.
        device: Where the model runs. On the meta device there is nothing to initialise.
        seed: Where all random streams begin.

    Raises:
        ConfigurationError: If a module has tensors on the meta device and no `reset_parameters`, or one that leaves
            values out; or if they cannot be given memory.
    """
    if device.type != "meta":
        pending = [(name, owner) for name, owner in module.named_modules() if _without_memory(owner)]
        _require_initializable(pending)
        random_state = RandomState(device)
        with random_state.preserved():
            for name, owner in pending:
                random_state.seed(derive_seed(seed, "weights", unwrapped_name(name)))
                _initialize(name, owner, device)
    # FSDP takes note here of what its parameters have become.
    module.to(device)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    yield from module.named_buffers(recurse=False, remove_duplicate=False)


def _without_memory(module: nn.Module) -> list[str]:
    return [name for name, tensor in _own_tensors(module) if tensor.is_meta]


def _require_initializable(pending: list[tuple[str, nn.Module]]) -> None:
    lacking = [(name, owner) for name, owner in pending if not callable(getattr(owner, "reset_parameters", None))]
    if lacking:
        described = "; ".join(_describe(name, owner, _without_memory(owner)) for name, owner in lacking)
        raise ConfigurationError(
            f"modules have tensors on the meta device and no reset_parameters() to initialise them: {described}. "
            "Define reset_parameters(), which sets the parameters and buffers that the module itself has, or build "
            "these modules on a real device"
        )
    for name, owner in pending:
        # torch.utils.swap_tensors, which leaves them the objects they are, cannot do it.
        if fixed := [key for key, tensor in _own_tensors(owner) if tensor.is_meta and weakref.getweakrefs(tensor)]:
            raise ConfigurationError(
                "tensors on the meta device that something refers to weakly, as torch's recurrent networks do, cannot "
                f"be given memory: {_describe(name, owner, fixed)}. Build this module on a real device"
            )


def _describe(name: str, owner: nn.Module, tensors: list[str]) -> str:
    return f"{name or 'the model itself'} ({type(owner).__name__}: {', '.join(tensors)})"


@torch.no_grad()
def _initialize(name: str, owner: nn.Module, device: torch.device) -> None:
    """Initialise what one module itself has on the meta device."""
    own = dict(_own_tensors(owner))
    # Shared tensors may have been initialised by another module before.
    pending = [key for key, tensor in own.items() if tensor.is_meta]
    if not pending:
        return
    for key in pending:
        _give_memory(own[key], device)
    for key, tensor in own.items():
        setattr(owner, key, _full(tensor, device, blank=key in pending))
    with device:
        owner.reset_parameters()  # type: ignore[operator] # looked for before
    full = {key: getattr(owner, key) for key in pending}
    for key, tensor in own.items():
        setattr(owner, key, tensor)
    if unset := [key for key, values in full.items() if values.isnan().any()]:
        raise ConfigurationError(
            f"reset_parameters() leaves values out, or sets what is not a number: {_describe(name, owner, unset)}. It "
            "has to set all parameters and buffers that the module itself has"
        )
    for key, values in full.items():
        _keep_part(own[key], values)


def _give_memory(tensor: torch.Tensor, device: torch.device) -> None:
    """Turn a tensor into one on a device, which has the same object, since others refer to it."""
    real = torch.empty_like(tensor, device=device)
    if isinstance(tensor, nn.Parameter):
        real = nn.Parameter(real, requires_grad=tensor.requires_grad)
    vars(real).update(vars(tensor))
    torch.utils.swap_tensors(tensor, real)  # type: ignore[no-untyped-call]


def _full(tensor: torch.Tensor, device: torch.device, *, blank: bool) -> torch.Tensor:
    """Return what a module sees of one of its tensors while it is initialised."""
    if blank:
        # Not a number, wherever there is such a thing: what is left out is then seen.
        is_number = not (tensor.is_floating_point() or tensor.is_complex())
        fill = 0 if is_number else torch.nan
        full = torch.full(tensor.shape, fill, dtype=tensor.dtype, device=device)
    else:
        # It may set what another module has set: that goes to a copy.
        full = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().to(device, copy=True)
    return nn.Parameter(full, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else full


def _keep_part(tensor: torch.Tensor, full: torch.Tensor) -> None:
    """Copy into a tensor what of the full one it is to hold on this process."""
    if not isinstance(tensor, DTensor):
        tensor.copy_(full)
        return

    # Without a source rank nothing is sent: each process takes its part of what all have computed alike.
    part = distribute_tensor(full.detach(), tensor.device_mesh, tensor.placements, src_data_rank=None).to_local()
    local = tensor.to_local()
    if part.shape != local.shape:
        raise RuntimeError(f"a part of {list(part.shape)} does not fit the {list(local.shape)} that {tensor} holds")
    local.copy_(part)
