from collections.abc import Iterator

from torch import Tensor

class Parameter(Tensor):
    grad: Tensor | None

class Module:
    def parameters(self) -> Iterator[Parameter]: ...
    def modules(self) -> Iterator[Module]: ...
