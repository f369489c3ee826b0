"""Sleep: the state of training leaves the device for the memory of the host, and returns."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from d9d.core.device import accelerator_module, copy_to_host, empty_on_host, has_streams
from d9d.core.protocol import OptimizerProtocol
from d9d.loop.component.checkpoint.snapshot import divide_into_blocks

SleepTag: TypeAlias = Literal["parameters", "gradients", "optimizer", "buffers"]
"""A part of the state of training: the parameters of the model, their gradients, the state of the optimizer, or the
buffers of the model."""

SLEEP_TAGS: frozenset[SleepTag] = frozenset(get_args(SleepTag))
"""All parts of the state of training."""


class Sleeper:
    """Moves the state of training from the device to the host, and back.

    Only the storage of a tensor is moved: it is copied to the host and freed, and later allocated again and filled. So
    all tensors stay the objects that they are, with their shapes, placements and views: the parameters of the model,
    the keys of the optimizer's state, and what FSDP keeps for itself. While a tensor sleeps, its values read as NaN, or
    as the smallest integer.

    A storage that belongs to several parts sleeps while all of them do. Tensors that are on the host already, and
    sparse ones, stay where they are.

    Args:
        modules: The stages of the model that this process holds.
        optimizer: The optimizer; its state can sleep if it is in the attribute `state`, as in torch's optimizers.
        device: The device of this process. On the CPU, state moves to other memory of the host.

    Attributes:
        asleep: The parts that sleep.
    """

    def __init__(self, modules: Sequence[nn.Module], optimizer: OptimizerProtocol, device: torch.device) -> None:
        self._modules = modules
        self._optimizer = optimizer
        self._device = device
        self.asleep: frozenset[SleepTag] = frozenset()
        self._moved: list[_Storage] = []

    @torch.no_grad()
    def sleep(self, tags: Collection[SleepTag]) -> None:
        """Move parts of the state to the host, and wait for it.

        Args:
            tags: The parts.

        Raises:
            RuntimeError: If memory on the CPU does not belong to torch, or the optimizer has no `state`. Nothing is
                moved then.
        """
        asleep = self.asleep | frozenset(tags)
        if "optimizer" in asleep and not hasattr(self._optimizer, "state"):
            raise RuntimeError(
                f"the state of the optimizer, a {type(self._optimizer).__qualname__}, cannot sleep, because it has no "
                "attribute `state`, as torch's optimizers have: leave out the tag 'optimizer'"
            )
        for module in self._modules:
            for part in module.modules():
                if isinstance(part, FSDPModule):
                    part.reshard()  # after a forward pass without a backward pass, it still holds gathered weights
        moved = [storage for storage in self._find() if storage.tags <= asleep]
        for storage in moved:
            storage.require_resizable()
        self._synchronize()
        for storage, memory in zip(moved, _host_memory([each.num_bytes for each in moved], self._device), strict=True):
            storage.copy_to(memory)
        self._synchronize()
        for storage in moved:
            storage.free()
        self._moved += moved
        self.asleep = asleep
        empty_cache = getattr(accelerator_module(self._device), "empty_cache", None)
        if empty_cache is not None:
            empty_cache()  # other processes may need the memory

    @torch.no_grad()
    def wake(self, tags: Collection[SleepTag]) -> None:
        """Move parts of the state back to the device, and wait for it.

        Args:
            tags: The parts.
        """
        asleep = self.asleep - frozenset(tags)
        returning = [storage for storage in self._moved if not storage.tags <= asleep]
        for storage in returning:
            storage.restore()
            self._moved.remove(storage)
        self._synchronize()
        self.asleep = asleep

    def require_awake(self, what: str, needed: Collection[SleepTag] = SLEEP_TAGS) -> None:
        """Refuse something that needs what sleeps.

        Args:
            what: What would be done, for the message.
            needed: The parts that it needs.

        Raises:
            RuntimeError: If one of them sleeps.
        """
        asleep = sorted(self.asleep.intersection(needed))
        if asleep:
            names = ", ".join(asleep)
            raise RuntimeError(f"{what} needs {names}, which sleep on the host: call trainer.wake({asleep}) before it")

    def _synchronize(self) -> None:
        if has_streams(self._device):
            torch.accelerator.synchronize(self._device)

    def _find(self) -> list["_Storage"]:
        """Find all storages that hold state which is awake."""
        found: dict[int, _Storage] = {}
        sleeping = {id(tensor) for storage in self._moved for tensor, _ in storage.tensors}
        for tag, tensor in self._state():
            for plain in _plain_tensors(tensor):
                if plain.device != self._device or plain.layout != torch.strided or id(plain) in sleeping:
                    continue
                storage = plain.untyped_storage()
                if storage.nbytes() > 0:
                    entry = found.setdefault(storage._cdata, _Storage(storage))  # noqa: SLF001 -- its identity
                    entry.add(tag, plain)
        return list(found.values())

    def _state(self) -> Iterator[tuple[SleepTag, torch.Tensor]]:
        for module in self._modules:
            for parameter in module.parameters():
                yield "parameters", parameter
                if parameter.grad is not None:
                    yield "gradients", parameter.grad
            for buffer in module.buffers():
                yield "buffers", buffer
        for values in getattr(self._optimizer, "state", {}).values():
            yield from (("optimizer", value) for value in values.values() if isinstance(value, torch.Tensor))


def _plain_tensors(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    """Return the tensors that hold the values of a tensor, such as the local one of a `DTensor`."""
    flatten = getattr(tensor, "__tensor_flatten__", None)  # what a subclass that wraps other tensors has
    if flatten is None:
        return [tensor]
    inner = [getattr(tensor, name) for name in flatten()[0]]
    return [plain for each in inner if isinstance(each, torch.Tensor) for plain in _plain_tensors(each)]


def _host_memory(sizes: Sequence[int], device: torch.device) -> list[torch.Tensor]:
    """Allocate memory on the host for storages of some sizes in bytes; pinned, if the device has streams."""
    parts: dict[int, torch.Tensor] = {}
    aligned = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    for block in divide_into_blocks(aligned):
        memory = empty_on_host(block.num_bytes, torch.uint8, device)
        parts |= {number: memory[offset : offset + sizes[number]] for number, offset in block.offsets.items()}
    return [parts[number] for number in range(len(sizes))]


# The start of each storage in a block: the size of a cache line.
_ALIGNMENT = 64


@dataclasses.dataclass(eq=False)
class _Storage:
    """A storage on the device, with the tensors that read it.

    Attributes:
        storage: The storage.
        tags: The parts of the state to which it belongs.
        tensors: The tensors, each with an alias that keeps its view of the storage while it sleeps.
    """

    storage: torch.UntypedStorage
    tags: set[SleepTag] = dataclasses.field(default_factory=set)
    tensors: list[tuple[torch.Tensor, torch.Tensor]] = dataclasses.field(default_factory=list)
    _memory: torch.Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))

    @property
    def num_bytes(self) -> int:
        return self.storage.nbytes()

    def add(self, tag: SleepTag, tensor: torch.Tensor) -> None:
        self.tags.add(tag)
        if all(tensor is not known for known, _ in self.tensors):
            self.tensors.append((tensor, tensor.detach()))

    def require_resizable(self) -> None:
        if not self.storage.resizable():
            tensor, _ = self.tensors[0]
            raise RuntimeError(
                f"a tensor of shape {list(tensor.shape)} among {', '.join(sorted(self.tags))} cannot sleep: its memory "
                "does not belong to torch, as that of torch.from_numpy. Clone it when the model is built"
            )

    def copy_to(self, memory: torch.Tensor) -> None:
        self._memory = copy_to_host(self._bytes(), out=memory)

    def free(self) -> None:
        for tensor, _ in self.tensors:
            # Reading a tensor whose storage is empty would end the process.
            tensor.data = _placeholder(tensor).expand(tensor.shape)
        self.storage.resize_(0)

    def restore(self) -> None:
        self.storage.resize_(self._memory.numel())
        self._bytes().copy_(self._memory, non_blocking=has_streams(self.storage.device))
        for tensor, alias in self.tensors:
            tensor.data = alias

    def _bytes(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8, device=self.storage.device).set_(self.storage)


def _placeholder(tensor: torch.Tensor) -> torch.Tensor:
    """Return a scalar for the values of a tensor that sleeps."""
    dtype = tensor.dtype
    if dtype.is_floating_point or dtype.is_complex:
        return torch.full((), float("nan"), dtype=dtype, device=tensor.device)
    smallest = 0 if dtype == torch.bool else torch.iinfo(dtype).min
    return torch.full((), smallest, dtype=dtype, device=tensor.device)
