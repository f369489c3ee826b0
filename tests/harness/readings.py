"""Records reads of tensor values on a device, and copies of host numbers to it: both make the host wait for it."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Tensor methods that read values, or whose output shape depends on values.
READING_METHODS = frozenset(
    {
        "__bool__",
        "__complex__",
        "__contains__",
        "__float__",
        "__format__",
        "__index__",
        "__int__",
        "__repr__",
        "__str__",
        "cpu",
        "equal",
        "item",
        "masked_select",
        "nonzero",
        "numpy",
        "tolist",
        "unique",
    }
)
# Functions that copy numbers of the host from pageable memory, which waits for an accelerator.
COPYING_FUNCTIONS = frozenset({"tensor", "as_tensor"})
READING_OPERATORS = frozenset({"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select"})


class ReadingMethods(TorchFunctionMode):
    """Records each call that reads the values of a tensor on the device, or makes one from numbers of the host."""

    def __init__(self, device: str, found: list[str]) -> None:
        super().__init__()
        self._device, self._found = device, found

    def __torch_function__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        is_on_device = bool(args) and isinstance(args[0], torch.Tensor) and args[0].device.type == self._device
        if is_on_device and name in READING_METHODS:
            self._found.append(f"{name} in {reader()}")
        target = (kwargs or {}).get("device")
        is_to_device = target is not None and torch.device(target).type == self._device
        if name in COPYING_FUNCTIONS and is_to_device and not isinstance(args[0], torch.Tensor):
            self._found.append(f"{name} of host numbers in {reader()}")
        return func(*args, **(kwargs or {}))


class ReadingOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records each operator that reads the values of a tensor on the device."""

    def __init__(self, device: str, found: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device, self._found = device, found

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        tensors = [argument for argument in args if isinstance(argument, torch.Tensor)]
        if func.name().split(".")[0] in READING_OPERATORS and any(t.device.type == self._device for t in tensors):
            self._found.append(f"{func.name()} in {reader()}")
        return func(*args, **(kwargs or {}))


def reader() -> str:
    """Return the name of the innermost function outside torch, which does the read."""
    frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
    return next(frame.name for frame in reversed(frames) if not frame.name.startswith(("__torch_", "reader")))


@contextmanager
def readings(device: str) -> Iterator[list[str]]:
    """Record all reads of tensor values on a device, each as `METHOD in CALLER`."""
    found: list[str] = []
    with ReadingMethods(device, found), ReadingOperators(device, found):
        yield found
