"""Initialising the weights of a model, identically for any number of processes."""

import weakref
from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from d9d.core.seed import derive_seed
from d9d.core.settings import ConfigurationError
from d9d.loop.component.checkpoint.sharded_state import unwrapped_name
from d9d.loop.component.random_state import RandomState

Initialize: TypeAlias = Callable[[str, nn.Module], bool]
"""Initialises what a module itself holds; gets its name and the module, and returns whether it could."""


def _reset(name: str, module: nn.Module) -> bool:  # noqa: ARG001 -- it is an `Initialize`
    reset_parameters = getattr(module, "reset_parameters", None)
    if callable(reset_parameters):
        reset_parameters()
    return callable(reset_parameters)


def initialize_weights(
    module: nn.Module,
    *,
    device: torch.device,
    seed: int,
    initialize: Initialize = _reset,
    loaded: Collection[str] = (),
) -> None:
    """Initialise the tensors of a model that are on the meta device, and move all others to the device.

    One module at a time gets its own parameters and buffers in full while it is initialised; then this
    process keeps its shard of each. The random numbers of a module depend only on the seed, the name of the module and
    the type of the device. So the weights are the same for any sharding, and a process never holds more than its shard
    of the model and the tensors of one module. All processes that share the model must call this.

    Parameters remain the same objects, with the same dtype and `requires_grad`. A shared parameter is initialised once,
    by the first module that has it, and remains shared. Tensors on other devices keep their values. The global random
    number generators have the same state when this returns.

    Args:
        module: The model, or a stage of it, whose parameters may already be sharded. The names of its modules must be
            unique in the whole model.
        device: Where the model runs. On the meta device nothing is initialised.
        seed: The seed of the job.
        initialize: Initialises one module; by default by its `reset_parameters`.
        loaded: The names of parameters and buffers that are loaded later. They are zero until then, and a module that
            has no others is not initialised.

    Raises:
        ConfigurationError: If a module with tensors on the meta device cannot be initialised, or not all of them are
            set, or if their memory cannot be allocated.
    """
    if device.type != "meta":
        pending = [(name, owner) for name, owner in module.named_modules() if _without_memory(owner)]
        _require_replaceable(pending)
        for name, owner in pending:
            _allocate_loaded(name, owner, loaded, device)
        random_state = RandomState(device)
        lacking: list[str] = []
        with random_state.preserved():
            for name, owner in pending:
                if keys := _without_memory(owner):
                    random_state.seed(derive_seed(seed, "weights", unwrapped_name(name)))
                    if not _initialize(name, owner, device, initialize):
                        lacking.append(_describe(name, owner, keys))
        if lacking:
            raise ConfigurationError(
                f"modules have tensors on the meta device but no reset_parameters() to initialise them: "
                f"{'; '.join(lacking)}. Define reset_parameters(), which must set all parameters and buffers of the "
                "module itself; or override initialize_module of the ModelProvider; or load them, with "
                "source_checkpoint; or build these modules on a real device"
            )
    # FSDP updates its references to the parameters here.
    module.to(device)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    yield from module.named_buffers(recurse=False, remove_duplicate=False)


def _without_memory(module: nn.Module) -> list[str]:
    return [name for name, tensor in _own_tensors(module) if tensor.is_meta]


def _require_replaceable(pending: list[tuple[str, nn.Module]]) -> None:
    for name, owner in pending:
        # torch.utils.swap_tensors, which keeps the objects the same, refuses tensors with weak references.
        if fixed := [key for key, tensor in _own_tensors(owner) if tensor.is_meta and weakref.getweakrefs(tensor)]:
            raise ConfigurationError(
                "tensors on the meta device cannot be initialised if there are weak references to them, as in torch's "
                f"recurrent networks: {_describe(name, owner, fixed)}. Build this module on a real device"
            )


def _allocate_loaded(name: str, owner: nn.Module, loaded: Collection[str], device: torch.device) -> None:
    prefix = f"{unwrapped_name(name)}." if name else ""
    for key, tensor in _own_tensors(owner):
        # A buffer that is not part of the state is never loaded, though another weight may have its name.
        if tensor.is_meta and prefix + key in loaded and key not in owner._non_persistent_buffers_set:  # noqa: SLF001 -- no public attribute
            _allocate(tensor, device)
            tensor.detach().zero_()


def _describe(name: str, owner: nn.Module, tensors: list[str]) -> str:
    return f"{name or 'the model itself'} ({type(owner).__name__}: {', '.join(tensors)})"


@torch.no_grad()
def _initialize(name: str, owner: nn.Module, device: torch.device, initialize: Initialize) -> bool:
    """Initialise the tensors that one module itself has on the meta device; return whether it could be."""
    own = dict(_own_tensors(owner))
    # Another module may have initialised shared tensors already.
    pending = [key for key, tensor in own.items() if tensor.is_meta]
    for key in pending:
        _allocate(own[key], device)
    for key, tensor in own.items():
        setattr(owner, key, _full(tensor, device, blank=key in pending))
    with device:
        is_initialized = initialize(unwrapped_name(name), owner)
    full = {key: getattr(owner, key) for key in pending}
    for key, tensor in own.items():
        setattr(owner, key, tensor)
    if not is_initialized:
        return False
    if unset := [key for key, values in full.items() if values.isnan().any()]:
        raise ConfigurationError(
            f"reset_parameters() does not set these tensors, or sets them to NaN: {_describe(name, owner, unset)}. It "
            "must set all parameters and buffers of the module itself"
        )
    for key, values in full.items():
        _keep_shard(own[key], values)
    return True


def _allocate(tensor: torch.Tensor, device: torch.device) -> None:
    """Allocate memory for a tensor, which remains the same object, because others have references to it."""
    real = torch.empty_like(tensor, device=device)
    if isinstance(tensor, nn.Parameter):
        real = nn.Parameter(real, requires_grad=tensor.requires_grad)
    vars(real).update(vars(tensor))
    torch.utils.swap_tensors(tensor, real)  # type: ignore[no-untyped-call]


def _full(tensor: torch.Tensor, device: torch.device, *, blank: bool) -> torch.Tensor:
    """Return the full tensor that a module sees while it is initialised."""
    if blank:
        # NaN, if the dtype has it, shows which values are not set.
        is_number = not (tensor.is_floating_point() or tensor.is_complex())
        fill = 0 if is_number else torch.nan
        full = torch.full(tensor.shape, fill, dtype=tensor.dtype, device=device)
    else:
        # A copy, because the module may overwrite values that another module has set.
        full = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().to(device, copy=True)
    return nn.Parameter(full, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else full


def _keep_shard(tensor: torch.Tensor, full: torch.Tensor) -> None:
    """Copy the shard of this process from the full tensor."""
    if not isinstance(tensor, DTensor):
        tensor.copy_(full)
        return
    # Without a source rank nothing is sent: all processes have computed the same full tensor.
    shard = distribute_tensor(full.detach(), tensor.device_mesh, tensor.placements, src_data_rank=None).to_local()
    local = tensor.to_local()
    if shard.shape != local.shape:
        raise RuntimeError(
            f"the shard of a tensor has the shape {list(local.shape)} on this process, but its placements "
            f"{tensor.placements} give {list(shard.shape)}: shard it with fully_shard or distribute_tensor"
        )
    local.copy_(shard)
